"""Ordinary Hugging Face folders: config.json, safetensors (sharded or not), a tokenizer. Never a pickle."""
