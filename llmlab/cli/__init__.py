"""The command line `llmlab`."""
