"""The decoder: embed, layers, norm, output matrix. Llama, Qwen2 and Qwen3, driven by `ModelConfig` alone.

Layers are unrolled, each with arrays of its own: under `lax.scan` XLA's CPU backend copies every layer's slice and
decodes at half the speed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32

from llmlab.models.attention import HIDDEN, Attention
from llmlab.models.cache import KVCache
from llmlab.models.config import ModelConfig
from llmlab.models.layers import FeedForward, Projection, RMSNorm, rope_angles


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.feed_forward_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)


class Transformer(nnx.Module):
    """A decoder with random weights (normal, 0.02); `checkpoints.load` fills it from a folder."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        self.config = config
        d, v = config.hidden_size, config.vocab_size
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (v, d), dtype))
        self.layers = nnx.List([Layer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = RMSNorm(d, eps=config.rms_norm_eps, dtype=dtype)
        tied = config.tie_word_embeddings
        self.head = None if tied else Projection(d, v, bias=False, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Int32[Array, "B L"],
        positions: Int32[Array, "B L"],
        bias: Float32[Array, "B L S"],
        *,
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "B L D"], KVCache]:
        """Hidden states after the last norm, and the cache with the L new entries of every row.

        Args:
            tokens: ids.
            positions: each token's place in its own sequence. With a cache the L entries are written at
                positions[:, 0] onwards, so they must be consecutive.
            bias: what is added to the attention logits: 0 where position s may be seen, `HIDDEN` where not. S is the
                cache's length, or L without a cache.
        """
        x = self.embedding[...][tokens]
        angles = rope_angles(positions, rope=self.config.rope, head_dim=self.config.head_dim)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            held = None if cache is None else (cache.keys[i], cache.values[i])
            out, (k, v) = layer.attention(
                layer.attention_norm(x), angles=angles, bias=bias, cache=held, start=positions[:, 0]
            )
            x = x + out
            x = x + layer.feed_forward(layer.feed_forward_norm(x))
            keys.append(k)
            values.append(v)
        return self.norm(x), KVCache(tuple(keys), tuple(values))

    def logits(self, hidden: Float[Array, "B L D"]) -> Float32[Array, "B L V"]:
        """The output matrix: the embedding itself where it is tied."""
        if self.head is None:
            table = self.embedding[...]
            return jnp.einsum("bld,vd->blv", hidden, table, preferred_element_type=jnp.float32)
        return jnp.einsum("bld,dv->blv", hidden, self.head.kernel[...], preferred_element_type=jnp.float32)


def causal_bias(positions: Int32[Array, "B L"], *, length: int) -> Float32[Array, "B L S"]:
    """0 where s <= position, `HIDDEN` beyond: a token sees itself and what came before, S = `length`."""
    seen = jnp.arange(length, dtype=positions.dtype)[None, None, :] <= positions[:, :, None]
    return jnp.where(seen, jnp.float32(0), jnp.float32(HIDDEN))
