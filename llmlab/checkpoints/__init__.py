"""Hugging Face folders: config.json, safetensors (in one file or in shards), a tokenizer. Pickles are never read."""
