"""Grouped-query attention in plain XLA: softmax(q k / sqrt(H) + bias) v."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

#: Added to the logits of positions that must not be seen. Finite, so that a row that sees nothing gives a number.
HIDDEN = -1e30


def attend(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B K H S"],
    v: Float[Array, "B K S H"],
    bias: Float32[Array, "B L S"],
) -> Float[Array, "B L N H"]:
    """softmax(q k / sqrt(H) + bias) v with N/K query heads per key head (Ainslie et al. 2023, arXiv:2305.13245).

    The mask is an added bias: a `where` between the two products costs several times more on XLA's CPU backend. The
    scaling and the division are applied to the small arrays (the queries before, the H outputs after), not to the S
    logits between.
    """
    batch, length, heads, dim = q.shape
    kv_heads = k.shape[1]
    groups = heads // kv_heads
    q = (q * (1.0 / math.sqrt(dim))).astype(q.dtype)
    q = jnp.transpose(q.reshape(batch, length, kv_heads, groups, dim), (0, 2, 3, 1, 4))
    q = q.reshape(batch, kv_heads, groups * length, dim)
    logits = jnp.einsum("bkqh,bkhs->bkqs", q, k, preferred_element_type=jnp.float32)
    logits = logits + jnp.tile(bias, (1, groups, 1))[:, None, :, :]
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("bkqs,bksh->bkqh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    out = jnp.transpose(out.reshape(batch, kv_heads, groups, length, dim), (0, 3, 1, 2, 4))
    return out.reshape(batch, length, heads, dim).astype(q.dtype)
