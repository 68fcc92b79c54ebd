"""The front of a ranking: the largest logits of a row, found in about one pass over it.

A row is read once for the largest logit of each block of `BLOCK` tokens. The K largest logits lie in the K blocks with
the largest maxima, so that only those are looked through, and nothing is sorted over the vocabulary. Ties go to the
lower id throughout, and 0.0 and -0.0 are one logit.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float32, Int32

#: How many tokens the front of a ranking has: as many as the API's largest top_k.
CANDIDATES = 128
#: The tokens of a block. Larger blocks leave more to look through after the pass, smaller ones more maxima to rank.
BLOCK = 64


class Front(NamedTuple):
    """The K largest logits of each row, by rising token id: a place among them orders ties as ids do."""

    logits: Float32[Array, "B K"]
    ids: Int32[Array, "B K"]


def leading(logits: Float32[Array, "B V"], count: int) -> tuple[Float32[Array, "B K"], Int32[Array, "B K"]]:
    """The largest logits and their ids, in the order (logit falling, id rising); K is `count`, or V if that is less."""
    rows, size = logits.shape
    count = min(count, size)
    if size <= 2 * count * BLOCK:
        ids = largest(logits, count)
        return jnp.take_along_axis(logits, ids, axis=-1), ids
    blocks = in_blocks(logits, BLOCK)
    # A token outside these blocks has a token before it in every one of them: a larger logit, or an equal one of a
    # lower id. In the order of their ids, so that places inside them order ties as ids do.
    found = jnp.sort(largest(jnp.max(blocks, axis=-1), count), axis=-1)
    within = jnp.take_along_axis(blocks, found[:, :, None], axis=1).reshape(rows, -1)
    at = largest(within, count)
    ids = jnp.take_along_axis(found, at // BLOCK, axis=-1) * BLOCK + at % BLOCK
    return jnp.take_along_axis(within, at, axis=-1), ids


def front(logits: Float32[Array, "B V"]) -> Front:
    """The `CANDIDATES` largest logits of each row, or all V."""
    size = logits.shape[-1]
    if size <= CANDIDATES:
        return Front(logits, lax.broadcasted_iota(jnp.int32, logits.shape, 1))
    ids = jnp.sort(leading(logits, CANDIDATES)[1], axis=-1)
    return Front(jnp.take_along_axis(logits, ids, axis=-1), ids)


def spread(found: Front, size: int) -> Float32[Array, "B V"]:
    """Logits over `size` tokens: those of the front in their places, -inf elsewhere."""
    rows = jnp.arange(found.ids.shape[0])[:, None]
    removed = jnp.full((found.ids.shape[0], size), -jnp.inf, jnp.float32)
    return removed.at[rows, found.ids].set(found.logits, unique_indices=True, mode="promise_in_bounds")


def logits_at(found: Front, ids: Int32[Array, "B N"]) -> Float32[Array, "B N"]:
    """The logits of some tokens; -inf for one that is not in the front."""
    same = ids[:, :, None] == found.ids[:, None, :]
    return jnp.max(jnp.where(same, found.logits[:, None, :], -jnp.inf), axis=-1)


def largest(logits: Float32[Array, "B N"], count: int) -> Int32[Array, "B K"]:
    """Where the `count` largest values are, in the order (value falling, place rising)."""
    # Two barriers, because XLA turns a top_k whose results are sliced into a full sort of the vocabulary; one over both
    # makes it crash when it partitions a program. And XLA puts 0.0 before -0.0.
    found = lax.top_k(jnp.where(logits == 0.0, 0.0, logits), count)
    return tuple(map(lax.optimization_barrier, found))[1]


def in_blocks(logits: Float32[Array, "B V"], block: int) -> Float32[Array, "B N block"]:
    """The row in blocks of consecutive tokens; -inf stands after the last one."""
    rows, size = logits.shape
    count = -(-size // block)
    if count * block != size:
        logits = jnp.pad(logits, ((0, 0), (0, count * block - size)), constant_values=-jnp.inf)
    return logits.reshape(rows, count, block)
