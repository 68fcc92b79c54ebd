"""The chat-completion contract as values: requests in, completions and chunks out, and who answers them."""
