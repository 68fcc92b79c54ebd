"""What `llmlab bench` runs: how fast this machine decodes a model, in the engine's own shapes."""
