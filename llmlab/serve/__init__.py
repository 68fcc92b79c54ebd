"""The HTTP endpoint: the chat-completion API over a backend, for any client of that API."""
