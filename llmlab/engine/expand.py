"""A step of a search: rows of a cache are chosen by their parents, and each gets one more token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32

from llmlab.models.kv.joined import Joined, Prefix
from llmlab.models.kv.protocol import Attendable, Cache, SharedCache


def take(cache: Cache, parents: Int32[Array, " W"]) -> Cache:
    """Returns the cache whose row i is a copy of the given cache's row `parents[i]`."""
    found: Cache = jax.tree.map(lambda x: x.at[parents].get(mode="promise_in_bounds"), cache)
    return found


def seat(cache: Cache, one: Cache, rows: Bool[Array, " W"], count: Int32[Array, ""]) -> Cache:
    """Returns the cache with the first `count` positions of a cache of one row in every row that `rows` names."""
    new = one.truncated(count[None])

    def put(held: Array, x: Array) -> Array:
        return jnp.where(rows.reshape(-1, *[1] * (held.ndim - 1)), x, held)

    placed: Cache = jax.tree.map(put, cache, new)
    return placed


def expand(
    graph: nnx.GraphDef,
    weights: nnx.State,
    cache: Cache,
    parents: Int32[Array, " W"],
    tokens: Int32[Array, " W"],
    positions: Int32[Array, " W"],
    prefix: Prefix | None = None,
    adapter: Int32[Array, " W"] | None = None,
) -> tuple[Cache, Float[Array, "W V"]]:
    """Row i goes on from row `parents[i]` with `tokens[i]` at `positions[i]`; returns the logits of the next tokens.

    `prefix` holds what all rows begin with, and the cache then only what follows it.
    """
    model = nnx.merge(graph, weights)
    if adapter is not None:
        model.choose(adapter)
    cache = take(cache, parents)
    over: Attendable = cache
    if prefix is not None:
        assert isinstance(cache, SharedCache), "this cache cannot be shared"
        over = Joined(cache, prefix, jnp.broadcast_to(jnp.asarray(prefix.filled, jnp.int32), parents.shape))
    hidden, after = model(tokens[:, None], positions[:, None], over)
    return after, model.logits(hidden)[:, 0]
