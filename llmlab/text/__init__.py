"""Text and token ids: tokenizer, chat template, stop sequences, and reasoning and tool calls in a generated text."""
