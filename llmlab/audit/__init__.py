"""An audit of any chat-completion endpoint: what its sampler really does, found out by a few hundred cheap questions."""
