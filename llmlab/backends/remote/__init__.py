"""Any endpoint of the chat-completion API as a backend."""
