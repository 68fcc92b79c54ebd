"""Grouped-query attention over a cache, or over the given tokens alone."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32

from llmlab.models.cache import write_keys, write_values
from llmlab.models.config import ModelConfig
from llmlab.models.layers import Projection, RMSNorm, rotate

#: Added to the logits of positions that must not be seen. Finite, so that a row with nothing to see stays a number.
HIDDEN = -1e30


def attend(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B K H S"],
    v: Float[Array, "B K S H"],
    bias: Float32[Array, "B L S"],
) -> Float[Array, "B L N H"]:
    """softmax(q k / sqrt(H) + bias) v, N/K query heads to a key head (Ainslie et al. 2023, arXiv:2305.13245).

    The mask is an added bias: a `where` between the two products costs several times more on XLA's CPU backend. What
    is small is scaled and divided, the queries before and the H outputs after, in place of the S logits between.
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


class Attention(nnx.Module):
    """One layer's attention. The q, k and v projections are one product, with its output in that order."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        out = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = Projection(config.hidden_size, out, bias=config.qkv_bias, dtype=dtype, rngs=rngs)
        deep = 0.02 / math.sqrt(2 * config.num_layers)
        inner = self.heads * self.head_dim
        self.o = Projection(inner, config.hidden_size, bias=config.o_bias, dtype=dtype, rngs=rngs, scale=deep)
        norm = config.qk_norm
        self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps, dtype=dtype) if norm else None
        self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps, dtype=dtype) if norm else None

    def __call__(
        self,
        x: Float[Array, "B L D"],
        *,
        angles: tuple[Float32[Array, "B L H2"], Float32[Array, "B L H2"]],
        bias: Float32[Array, "B L S"],
        cache: tuple[Float[Array, "B K H S"], Float[Array, "B K S H"]] | None = None,
        start: Int32[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], tuple[Array, Array]]:
        """Attend over the cache with the new entries written at `start`, or without a cache over x itself (S = L).

        Returns the output, the layer's keys [B, K, H, S] and its values [B, K, S, H].
        """
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, self.heads + 2 * self.kv_heads, self.head_dim)
        q, k, v = jnp.split(qkv, (self.heads, self.heads + self.kv_heads), axis=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, *angles), rotate(k, *angles)
        if cache is None or start is None:
            keys, values = jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2)
        else:
            keys, values = write_keys(cache[0], k, start), write_values(cache[1], v, start)
        out = attend(q, keys.astype(q.dtype), values.astype(q.dtype), bias)
        return self.o(out.reshape(batch, length, self.heads * self.head_dim)), (keys, values)
