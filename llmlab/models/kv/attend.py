"""Grouped-query attention in plain XLA: softmax(q k / sqrt(H) + bias) v."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

#: Added to the logits of positions that must not be seen. Finite, so that a row that sees nothing gives a number.
HIDDEN = -1e30


class Scores(NamedTuple):
    """How a layer weighs what it sees.

    Args:
        scale: on the products of queries and keys.
        window: the number of tokens that a token sees, itself included; None for all.
        softcap: c in c tanh(x / c), which the scaled products are bent to; None for none (Gemma 2, arXiv:2408.00118).
        sinks: [N], a number for each query head that takes part in the softmax and has no value, so that a head can
            attend to nothing (Xiao et al. 2024, arXiv:2309.17453; gpt-oss); None for none.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Float32[Array, " N"] | None = None


class Sight(NamedTuple):
    """What each of L new tokens per row sees of a cache's positions, its window aside.

    It is there twice: as a mask for the plain product, and as numbers for a kernel that does not read what is hidden.
    XLA drops the one that is not used.
    """

    bias: Float32[Array, "B #L S"]  #: what is added to the logits: 0 where seen, else `HIDDEN`
    back: Int32[Array, "B L S"]  #: how many positions each one lies before the token; below 0 if it lies after
    at: Int32[Array, "B L"]  #: the token's own position, which may lie beyond the cache
    end: Int32[Array, "B L"]  #: the token sees the first `end` positions, and no others


class Sums(NamedTuple):
    """The softmax over a part of the positions, before its division, so that it can be joined with another part's.

    `weighed` = sum_s exp(x_s - most) v_s and `total` = sum_s exp(x_s - most), where x are the biased logits.
    """

    weighed: Float32[Array, "B K Q V"]
    most: Float32[Array, "B K Q 1"]
    total: Float32[Array, "B K Q 1"]


def attend(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B K _ _"],
    v: Float[Array, "B K S V"],
    bias: Float32[Array, "B L S"],
    scores: Scores,
    *,
    keys: str = "hs",
) -> Float[Array, "B L N V"]:
    """softmax(scale q k + bias) v with N/K query heads per key head (Ainslie et al. 2023, arXiv:2305.13245).

    Keys are [B, K, H, S], or [B, K, S, H] with `keys="sh"`: the caller does not transpose them, since XLA's CPU backend
    would copy all of them at every step.
    """
    return divided(part_sums(q, k, v, bias, scores, keys=keys), q, scores)


def part_sums(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B K _ _"],
    v: Float[Array, "B K S V"],
    bias: Float32[Array, "B #L S"],
    scores: Scores,
    *,
    keys: str = "hs",
) -> Sums:
    """The sums of `attend` over these positions, which may be a part of all. Q counts the N/K query heads times L.

    The mask is an added bias: a `where` between the two products costs several times more on XLA's CPU backend. The
    scaling and the division are applied to the small arrays (the queries before, the H outputs after), not to the S
    logits between.
    """
    batch, length, heads, dim = q.shape
    kv_heads = k.shape[1]
    groups = heads // kv_heads
    q = (q * scores.scale).astype(q.dtype)
    q = jnp.transpose(q.reshape(batch, length, kv_heads, groups, dim), (0, 2, 3, 1, 4))
    q = q.reshape(batch, kv_heads, groups * length, dim)
    logits = jnp.einsum(f"bkqh,bk{keys}->bkqs", q, k, preferred_element_type=jnp.float32)
    if scores.softcap is not None:
        logits = scores.softcap * jnp.tanh(logits / scores.softcap)
    logits = logits + (bias if bias.shape[1] == 1 else jnp.tile(bias, (1, groups, 1)))[:, None, :, :]
    most = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - most)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weighed = jnp.einsum("bkqs,bksh->bkqh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return Sums(weighed, most, total)


def joined(one: Sums, other: Sums) -> Sums:
    """The sums over the positions of two parts that have none in common, exactly: both on the scale of the larger."""
    most = jnp.maximum(one.most, other.most)
    first, second = jnp.exp(one.most - most), jnp.exp(other.most - most)
    return Sums(
        one.weighed * first + other.weighed * second,
        most,
        one.total * first + other.total * second,
    )


def divided(sums: Sums, q: Float[Array, "B L N H"], scores: Scores) -> Float[Array, "B L N V"]:
    """What attention gives, from the sums over all positions; `q` are the queries that they are of."""
    batch, length, heads, _ = q.shape
    kv_heads, size = sums.weighed.shape[1], sums.weighed.shape[3]
    groups = heads // kv_heads
    if scores.sinks is not None:
        sinks = jnp.repeat(scores.sinks.reshape(kv_heads, groups), length, axis=1)[None, :, :, None]
        # A sink is one more position, whose value is zero.
        sums = joined(
            sums,
            Sums(jnp.zeros_like(sums.weighed), jnp.broadcast_to(sinks, sums.most.shape), jnp.ones_like(sums.total)),
        )
    out = sums.weighed / sums.total
    out = jnp.transpose(out.reshape(batch, kv_heads, groups, length, size), (0, 3, 1, 2, 4))
    return out.reshape(batch, length, heads, size).astype(q.dtype)


def windowed(bias: Float32[Array, "B #L S"], back: Array, window: int | None) -> Float32[Array, "B _ S"]:
    """The mask with what lies `window` tokens back or more hidden too; `back` is how far back each position lies."""
    return bias if window is None else jnp.where(back < window, bias, jnp.float32(HIDDEN))
