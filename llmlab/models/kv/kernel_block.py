"""The arithmetic that the kernels of all devices share: a softmax that grows by one block of positions at a time.

Milakov & Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from llmlab.models.kv.attend import HIDDEN


class Running(NamedTuple):
    """The sums of `attend.Sums` over the blocks so far, for one tile of queries."""

    weighed: Float32[Array, "T V"]
    most: Float32[Array, "T 1"]
    total: Float32[Array, "T 1"]


def nothing_seen(tile: int, size: int) -> Running:
    """The sums over no positions."""
    return Running(
        jnp.zeros((tile, size), jnp.float32),
        jnp.full((tile, 1), HIDDEN, jnp.float32),
        jnp.zeros((tile, 1), jnp.float32),
    )


def with_block(
    sums: Running,
    q: Float[Array, "T H"],
    k: Float[Array, "H P"],
    v: Float[Array, "P V"],
    seen: Bool[Array, "T P"],
    softcap: float | None,
) -> Running:
    """The sums with P more positions, of which each query sees some.

    A block of which a query sees nothing leaves its sums as they are, to the bit. So a query's sums do not depend on
    the queries beside it in the tile, for which such a block may have to be read.
    """
    logits = product(q, k)
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    logits = jnp.where(seen, logits, HIDDEN)
    most = jnp.maximum(sums.most, jnp.max(logits, axis=1, keepdims=True))
    # While a query has seen nothing, HIDDEN is its maximum, and the weights of what it must not see would be 1.
    weights = jnp.where(seen, jnp.exp(logits - most), 0.0)
    kept = jnp.exp(sums.most - most)
    return Running(
        sums.weighed * kept + product(weights.astype(v.dtype), v),
        most,
        sums.total * kept + jnp.sum(weights, axis=1, keepdims=True),
    )


def product(a: Float[Array, "M K"], b: Float[Array, "K N"]) -> Float32[Array, "M N"]:
    """The matrix product, in the precision of the plain product: float32 means float32 on every device."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot(a, b, precision=exact, preferred_element_type=jnp.float32)


def in_sight(
    start: Int32[Array, ""] | int, count: int, first: Int32[Array, "T 1"], end: Int32[Array, "T 1"]
) -> Bool[Array, "T {count}"]:
    """Which of the `count` positions from `start` on each query sees: those from its first one up to its end."""
    at = start + jax.lax.broadcasted_iota(jnp.int32, (first.shape[0], count), 1)
    return (at >= first) & (at < end)
