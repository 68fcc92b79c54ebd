"""Truncations of the library: logits [B, V] -> logits [B, V], removed tokens at -inf. Nothing is sorted."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float32

from llmlab.sampling.truncation import finite_max


def apply_top_n_sigma(logits: Float32[Array, "B V"], *, top_n_sigma: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Keeps a token iff its logit is at least the largest minus n standard deviations of those that are left; 0 is off.

    Tang et al. 2024 (arXiv:2411.07641). The standard deviation is that of the population, over the tokens that no
    earlier stage removed.
    """
    n = top_n_sigma[:, None]
    left = logits > -jnp.inf
    top = finite_max(logits)
    # Differences from the largest logit, because the squares of large logits would cancel.
    below = jnp.where(left, logits - top, 0.0)
    count = jnp.maximum(jnp.sum(left, axis=-1, keepdims=True), 1)
    mean = jnp.sum(below, axis=-1, keepdims=True) / count
    variance = jnp.sum(jnp.where(left, (below - mean) ** 2, 0.0), axis=-1, keepdims=True) / count
    kept = logits - top >= -n * jnp.sqrt(variance)
    return jnp.where(kept | (n <= 0.0), logits, -jnp.inf)
