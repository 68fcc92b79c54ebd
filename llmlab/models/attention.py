"""One layer's attention: projections, norms and rotation; the cache does the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from llmlab.models.config import ModelConfig, Rope
from llmlab.models.kv.attend import Scores
from llmlab.models.kv.protocol import Pass
from llmlab.models.layers import LayerNorm, Projection, RMSNorm, make_norm
from llmlab.models.parameter import KEY_HEADS, parameter
from llmlab.models.rope import Rotation, rotate

#: How some layer rotates -> the angles of every token.
Rotations = Mapping[Rope, Rotation]


class Attention(nnx.Module):
    """Grouped-query attention of layer `index`.

    q, k and v are one product, grouped by key head: the outputs of a key head's N/K query heads, its key and its value
    lie side by side, so that a device that holds a share of the key heads splits them without communication.
    """

    def __init__(self, config: ModelConfig, index: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.index = index
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.held_kv_heads, config.head_dim
        inner, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.qkv = Projection(
            config.hidden_size,
            (inner, kv, kv),
            axes=(None, KEY_HEADS),
            groups=self.kv_heads,
            bias=config.qkv_bias,
            dtype=dtype,
            rngs=rngs,
        )
        deep = 0.02 / math.sqrt(2 * config.num_layers)
        self.o = Projection(
            inner, config.hidden_size, axes=(KEY_HEADS, None), bias=config.o_bias, dtype=dtype, rngs=rngs, scale=deep
        )
        wide = config.qk_norm == "width"
        self.qk_norm = config.qk_norm
        self.q_norm = make_norm(config, inner if wide else self.head_dim, dtype=dtype) if config.qk_norm else None
        self.k_norm = make_norm(config, kv if wide else self.head_dim, dtype=dtype) if config.qk_norm else None
        self.sinks = parameter(jnp.zeros((self.heads,), dtype), KEY_HEADS) if config.sinks else None
        self.rope = config.rope_of(index)
        self.scale = config.scale_of(index)
        self.window, self.softcap = config.window_of(index), config.attention_softcap

    def __call__(self, x: Float[Array, "B L D"], rotations: Rotations, over: Pass) -> Float[Array, "B L D"]:
        """The update of the residual stream; the pass takes the new keys and values."""
        batch, length, _ = x.shape
        queries = self.heads // self.kv_heads
        qkv = self.qkv(x).reshape(batch, length, self.kv_heads, queries + 2, self.head_dim)
        q = qkv[:, :, :, :queries].reshape(batch, length, self.heads, self.head_dim)
        k, v = qkv[:, :, :, queries], qkv[:, :, :, queries + 1]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self._normed(self.q_norm, q), self._normed(self.k_norm, k)
        if self.rope is not None:
            cos, sin, scale = rotations[self.rope]
            q, k = (rotate(part, cos, sin, interleaved=self.rope.interleaved) for part in (q, k))
            q = q if scale is None else q * scale[:, :, None, None].astype(q.dtype)
        sinks = None if self.sinks is None else self.sinks[...].astype(jnp.float32)
        scores = Scores(scale=self.scale, window=self.window, softcap=self.softcap, sinks=sinks)
        out = over.attend(self.index, q, k, v, scores=scores)
        return self.o(out.reshape(batch, length, self.heads * self.head_dim))

    def _normed(self, norm: RMSNorm | LayerNorm, x: Float[Array, "B L N H"]) -> Float[Array, "B L N H"]:
        flat = x.reshape(*x.shape[:2], -1) if self.qk_norm == "width" else x
        return norm(flat).reshape(x.shape)
