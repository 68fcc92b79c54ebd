"""Between text and token ids: a token's exact bytes, the chat template, stops, and what each token belongs to."""
