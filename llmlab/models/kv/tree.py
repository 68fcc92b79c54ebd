"""Many texts that begin alike, in one pass: a tree of tokens after what a cache holds, which is only read.

Each token sees the filled beginning of the cache and the tokens on the way to itself. The tokens come in depth-first
order, so that those below a token follow it without a gap and one number says where they end: token j is on the way to
token i where j <= i < ends[j] (tree attention: Miao et al. 2023, arXiv:2305.09781).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from llmlab.models.kv import filled as masks
from llmlab.models.kv.attend import HIDDEN, Scores, attend, windowed
from llmlab.models.kv.protocol import Cache


class Tree(NamedTuple):
    """Stands where a cache would, for one row of L tokens.

    The first `start` positions of the cache come before the tree. A token's position is `start` plus its depth.
    """

    cache: Cache  #: of one row; it is not written
    start: Int32[Array, ""]
    ends: Int32[Array, " L"]

    def begin(self, positions: Int32[Array, "1 L"]) -> TreePass:
        """Makes the mask for the tokens, whose positions may be in any order."""
        return TreePass(self, positions)


class TreePass:
    """One forward pass over a tree of tokens."""

    def __init__(self, source: Tree, positions: Int32[Array, "1 L"]):
        self._source = source
        length, count = source.cache.length, positions.shape[1]
        before = jnp.broadcast_to(jnp.arange(length) < source.start, (count, length))
        seen = jnp.concatenate([before, on_the_way(source.ends, jnp.arange(count))], axis=1)
        self._bias = jnp.where(seen, jnp.float32(0), jnp.float32(HIDDEN))[None]
        back = positions[:, :, None] - positions[:, None, :]
        self._back = jnp.concatenate([masks.back(positions, length), back], axis=2)

    def attend(self, layer: int, q: Float[Array, "1 L N H"], *entry: Array, scores: Scores) -> Float[Array, "1 L N V"]:
        """Attends over the cache and the entries of the tokens themselves, which are not kept."""
        old, new = self._source.cache.of_layer(layer), self._source.cache.entries_of(*entry)
        axis = 3 if old.layout == "hs" else 2
        keys = jnp.concatenate([old.keys, new.keys], axis=axis).astype(q.dtype)
        values = jnp.concatenate([old.values, new.values], axis=2).astype(q.dtype)
        bias = windowed(self._bias, self._back, scores.window)
        # A latent cache holds its values with more after them, which is removed from the sum.
        return attend(q, keys, values, bias, scores, keys=old.layout)[..., : entry[-1].shape[-1]]

    def cache_after(self) -> Tree:
        """What the pass began with: there is nothing to keep."""
        return self._source


def on_the_way(ends: Int32[Array, " L"], tokens: Int32[Array, " T"]) -> Bool[Array, "T L"]:
    """Which tokens of a tree are on the way to each of T of them, themselves included."""
    at = jnp.arange(ends.shape[0], dtype=jnp.int32)
    return (at[None, :] <= tokens[:, None]) & (tokens[:, None] < ends[None, :])
