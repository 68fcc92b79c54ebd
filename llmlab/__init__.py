"""A chat-completion engine in JAX, and a laboratory that shows what its sampler did."""

from __future__ import annotations

__version__ = "0.1.0"
