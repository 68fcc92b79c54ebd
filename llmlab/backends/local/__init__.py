"""The engine in this process as a backend: a checkpoint, its tokenizer, and the batch that answers requests."""
