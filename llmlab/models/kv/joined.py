"""Rows that go on from one prefix: its cache is held and read once for all of them, and each row has only what follows.

A softmax over the positions of the prefix and one over a row's own are joined by their log-sum-exps, which is exact
(Juravsky et al. 2024, arXiv:2402.05099). The products with the prefix are those of a matrix with a matrix, where each
row's own copy would be read for one vector.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from llmlab.models.kv import filled as masks
from llmlab.models.kv.attend import HIDDEN, Scores, Sight, Sums, divided, joined, part_sums, windowed
from llmlab.models.kv.protocol import Entries, PartPass, SharedCache
from llmlab.models.kv.reading import sums_over

#: The positions of a prefix that a CPU reads at a time: no more of a long bucket than is filled, and no more than its
#: caches hold together with the weights of 32 rows. An accelerator, which would stop at the borders, reads all of it in
#: one product, unless a kernel reads it. So does a CPU where there are two blocks at most, since it takes time to copy
#: them and to join their sums.
BLOCK = 256


class Prefix(NamedTuple):
    """What several rows begin with: a cache of one row, and how many of its positions are filled and shared."""

    cache: SharedCache
    filled: Int[Array | np.ndarray, ""]


class Joined(NamedTuple):
    """W rows over one prefix, in place of a cache: `own` holds what follows it, and the whole of a row without it.

    `shared` is the prefix's count for rows that go on from it, and 0 for others. It is where a row's own entries begin.
    """

    own: SharedCache
    prefix: Prefix
    shared: Int32[Array, " W"]

    def begin(self, positions: Int32[Array, "W L"]) -> JoinedPass:
        """Makes the masks for L new tokens per row at these positions, which are consecutive in each row."""
        return JoinedPass(self, positions)


class JoinedPass:
    """One forward pass over rows and their prefix; new entries are the rows' own."""

    def __init__(self, source: Joined, positions: Int32[Array, "W L"]):
        # A row that has ended may stand one past its last entry; it must not write past the cache.
        first = jnp.minimum(positions[:, :1] - source.shared[:, None], source.own.length - positions.shape[1])
        self._own: PartPass = source.own.begin(first + jnp.arange(positions.shape[1], dtype=positions.dtype)[None, :])
        self._prefix, self._uses = source.prefix, (source.shared > 0)[:, None]
        length = source.prefix.cache.length
        count = jnp.asarray(source.prefix.filled, jnp.int32)
        self._blocks = -(-count // BLOCK)
        there = jnp.arange(length, dtype=jnp.int32) < count
        flat = positions.reshape(1, -1)
        self._sight = Sight(
            bias=jnp.where(there, jnp.float32(0), jnp.float32(HIDDEN))[None, None, :],
            back=masks.back(flat, length),
            at=flat,
            end=jnp.broadcast_to(jnp.where(self._uses, count, 0), positions.shape).reshape(1, -1),
        )

    def attend(self, layer: int, q: Float[Array, "W L N H"], *entry: Array, scores: Scores) -> Float[Array, "W L N V"]:
        """Writes the layer's new entries to the rows' own, and attends over the prefix and them."""
        after = sums_over(q, *self._own.write(layer, *entry), scores)
        before = self._before(q, self._prefix.cache.of_layer(layer), scores)
        return divided(joined(before, after), q, scores)[..., : entry[-1].shape[-1]]

    def cache_after(self) -> SharedCache:
        """The rows' own cache with the new entries of all layers."""
        after: SharedCache = self._own.cache_after()
        return after

    def _before(self, q: Float[Array, "W L N H"], entries: Entries, scores: Scores) -> Sums:
        """The sums over the prefix. To it all rows are one text, of W L tokens."""
        width, length, heads, dim = q.shape
        flat = q.reshape(1, width * length, heads, dim)
        kv_heads, room = entries.values.shape[1:3]
        if entries.kernel or room <= 2 * BLOCK or room % BLOCK or jax.default_backend() != "cpu":
            sums = sums_over(flat, entries, self._sight, scores)
        else:
            sums = self._by_blocks(flat, entries, scores)

        def by_rows(x: Float32[Array, "1 K Q V"]) -> Float32[Array, "W K P V"]:
            apart = x.reshape(kv_heads, heads // kv_heads, width, length, x.shape[-1])
            return jnp.transpose(apart, (2, 0, 1, 3, 4)).reshape(width, kv_heads, -1, x.shape[-1])

        weighed, most, total = map(by_rows, sums)
        most = jnp.where(self._uses[:, :, None, None], most, jnp.float32(HIDDEN))
        return Sums(weighed, most, total)

    def _by_blocks(self, q: Float[Array, "1 L N H"], entries: Entries, scores: Scores) -> Sums:
        bias = windowed(self._sight.bias, self._sight.back, scores.window)
        axis = 3 if entries.layout == "hs" else 2

        def block(at: Int32[Array, ""]) -> Sums:
            def cut(x: Array, axis: int) -> Array:
                return jax.lax.dynamic_slice_in_dim(x, at * BLOCK, BLOCK, axis=axis)

            keys, values = cut(entries.keys, axis).astype(q.dtype), cut(entries.values, 2).astype(q.dtype)
            return part_sums(q, keys, values, cut(bias, 2), scores, keys=entries.layout)

        first = block(jnp.int32(0))
        return jax.lax.fori_loop(1, self._blocks, lambda at, sums: joined(sums, block(at)), first)
