"""Attention among the given tokens alone, without a cache: training, and whole texts in one pass."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from llmlab.models.kv.attend import HIDDEN, Scores, attend, windowed


class Uncached(NamedTuple):
    """Stands where a cache would: a token sees itself and the tokens given before it.

    `segments` [B, L] numbers the texts that share a row; a token sees those of its own segment only. None is one text
    per row.
    """

    segments: Int32[Array, "B L"] | None = None

    def begin(self, positions: Int32[Array, "B L"]) -> UncachedPass:
        """Makes the mask."""
        return UncachedPass(self, positions.shape[1])


class UncachedPass:
    """One forward pass over the given tokens."""

    def __init__(self, source: Uncached, length: int):
        self._source = source
        seen = jnp.tril(jnp.ones((length, length), bool))[None]
        if (segments := source.segments) is not None:
            seen = (segments[:, :, None] == segments[:, None, :]) & seen
        self._bias = jnp.where(seen, jnp.float32(0), jnp.float32(HIDDEN))
        at = jnp.arange(length)
        self._back = (at[:, None] - at[None, :])[None]

    def attend(
        self, layer: int, q: Float[Array, "B L N H"], *entry: Float[Array, "B L K _"], scores: Scores
    ) -> Float[Array, "B L N V"]:
        """Attends over the keys and values that are the entry; nothing is kept, whatever the layer."""
        k, v = entry
        bias = windowed(self._bias, self._back, scores.window)
        bias = jnp.broadcast_to(bias, (q.shape[0], *bias.shape[1:]))
        return attend(q, jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2), bias, scores)

    def cache_after(self) -> Uncached:
        """What the pass began with: there is nothing to keep."""
        return self._source
