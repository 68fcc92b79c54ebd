"""One layer's latent attention, in its absorbed form.

The keys and values of a head are matrices times a latent vector. Instead of making them for every token that is seen,
the key matrix is applied to the query, and the value matrix to the sum that attention gives: q (K c) = (K^T q) c and
sum_s p_s (V c_s) = V (sum_s p_s c_s). Attention then runs over the latent vectors themselves, as if all heads shared
one key (DeepSeek-V2, arXiv:2405.04434, section 2.1.2).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from llmlab.models.attention import Rotations
from llmlab.models.config import Latent, ModelConfig
from llmlab.models.kv.attend import Scores
from llmlab.models.kv.protocol import Pass
from llmlab.models.layers import Projection, RMSNorm
from llmlab.models.parameter import HEADS, parameter
from llmlab.models.rope import rotate


class LatentAttention(nnx.Module):
    """Latent attention of layer `index`.

    `down` is one product that gives the query's latent vector, if there is one, the latent vector of keys and values,
    and the key that is rotated. `key_up` [N, R, P] and `value_up` [N, R, V] are the matrices of each head's key and
    value, R the size of the latent vector.
    """

    def __init__(self, config: ModelConfig, latent: Latent, index: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        d, heads, shape = config.hidden_size, config.num_heads, latent
        self.index, self.heads, self.latent = index, heads, latent
        kept = shape.rank + shape.rotated
        outputs = (shape.query_rank, kept) if shape.query_rank else (kept,)
        inputs = shape.query_rank or d
        self.down = Projection(d, outputs, axes=(None, None), bias=config.qkv_bias, dtype=dtype, rngs=rngs)
        self.query_norm = RMSNorm(shape.query_rank, eps=shape.eps, dtype=dtype) if shape.query_rank else None
        wide = heads * (shape.plain + shape.rotated)
        self.query_up = Projection(inputs, wide, axes=(None, HEADS), dtype=dtype, rngs=rngs)
        self.norm = RMSNorm(shape.rank, eps=shape.eps, dtype=dtype)

        def each_head(size: int, *, summed: int) -> nnx.Param:
            drawn = 0.02 * jax.random.normal(rngs.params(), (heads, shape.rank, size), dtype)
            return parameter(drawn, HEADS, None, None, summed=summed)

        self.key_up, self.value_up = each_head(shape.plain, summed=-1), each_head(shape.value, summed=-2)
        deep = 0.02 / math.sqrt(2 * config.num_layers)
        inner = heads * shape.value
        self.o = Projection(inner, d, axes=(HEADS, None), bias=config.o_bias, dtype=dtype, rngs=rngs, scale=deep)
        self.rope, self.scale, self.window = config.rope_of(index), config.scale_of(index), config.window_of(index)

    def __call__(self, x: Float[Array, "B L D"], rotations: Rotations, over: Pass) -> Float[Array, "B L D"]:
        """The update of the residual stream; the pass takes the new latent vectors and rotated keys."""
        batch, length, _ = x.shape
        shape = self.latent
        down = self.down(x)
        query = x if self.query_norm is None else self.query_norm(down[..., : shape.query_rank])
        entry = down[..., shape.query_rank :]
        q = self.query_up(query).reshape(batch, length, self.heads, shape.plain + shape.rotated)
        q, turned = q[..., : shape.plain], q[..., shape.plain :]
        values = self.norm(entry[..., : shape.rank])[:, :, None, :]
        key = entry[:, :, None, shape.rank :]
        factor = None
        if self.rope is not None:
            cos, sin, factor = rotations[self.rope]
            turned, key = (rotate(part, cos, sin, interleaved=self.rope.interleaved) for part in (turned, key))
        q = jnp.einsum("blnp,nrp->blnr", q, self.key_up[...], preferred_element_type=jnp.float32).astype(q.dtype)
        q = jnp.concatenate([q, turned], axis=-1)
        q = q if factor is None else q * factor[:, :, None, None].astype(q.dtype)
        scores = Scores(scale=self.scale, window=self.window)
        out = over.attend(self.index, q, jnp.concatenate([values, key], axis=-1), values, scores=scores)
        out = jnp.einsum("blnr,nrv->blnv", out, self.value_up[...], preferred_element_type=jnp.float32)
        out = out.astype(x.dtype)
        return self.o(out.reshape(batch, length, self.heads * shape.value))
