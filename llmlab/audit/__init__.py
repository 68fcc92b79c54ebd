"""An audit of any chat-completion endpoint: what its sampler really does, found by a few hundred cheap questions."""
