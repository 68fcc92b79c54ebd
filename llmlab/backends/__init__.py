"""What runs a model: `local`, the engine in this process, and `remote`, any endpoint of the chat-completion API."""
