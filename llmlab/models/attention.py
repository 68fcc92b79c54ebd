"""One layer's attention: projections, norms and rotation; the cache does the rest."""

from __future__ import annotations

import math

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from llmlab.models.config import ModelConfig
from llmlab.models.kv.protocol import Pass
from llmlab.models.layers import Projection, RMSNorm
from llmlab.models.parameter import KEY_HEADS
from llmlab.models.rope import rotate


class Attention(nnx.Module):
    """Grouped-query attention of layer `index`.

    q, k and v are one product, grouped by key head: the outputs of a key head's N/K query heads, its key and its value
    lie side by side, so that a device that holds a share of the key heads splits them without communication.
    """

    def __init__(self, config: ModelConfig, index: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.index = index
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
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
        norm = config.qk_norm
        self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps, dtype=dtype) if norm else None
        self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps, dtype=dtype) if norm else None

    def __call__(
        self,
        x: Float[Array, "B L D"],
        angles: tuple[Float32[Array, "B L H2"], Float32[Array, "B L H2"]],
        over: Pass,
    ) -> Float[Array, "B L D"]:
        """The update of the residual stream; the pass takes the new keys and values."""
        batch, length, _ = x.shape
        queries = self.heads // self.kv_heads
        qkv = self.qkv(x).reshape(batch, length, self.kv_heads, queries + 2, self.head_dim)
        q = qkv[:, :, :, :queries].reshape(batch, length, self.heads, self.head_dim)
        k, v = qkv[:, :, :, queries], qkv[:, :, :, queries + 1]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        out = over.attend(self.index, rotate(q, *angles), rotate(k, *angles), v)
        return self.o(out.reshape(batch, length, self.heads * self.head_dim))
