"""The engine in this process: a checkpoint, its tokenizer and the batch that answers requests."""
