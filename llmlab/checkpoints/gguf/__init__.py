"""GGUF files: what their metadata says in the words of config.json, their tokenizer, and their tensors.

Format: github.com/ggml-org/ggml, docs/gguf.md.
"""
