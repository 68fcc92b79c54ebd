"""Any endpoint that speaks the chat-completion API, as a backend of the lab."""
