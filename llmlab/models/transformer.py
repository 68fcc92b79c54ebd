"""The decoder that Llama-like families share: embed, layers, norm, output matrix.

Layers are unrolled, each with arrays of its own: under `lax.scan` XLA's CPU backend copies every layer's slice and
decodes at half the speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32

from llmlab.models.attention import Attention
from llmlab.models.config import ModelConfig
from llmlab.models.kv.protocol import Attendable, Pass
from llmlab.models.kv.uncached import Uncached
from llmlab.models.layers import FeedForward, Projection, RMSNorm
from llmlab.models.parameter import VOCABULARY, parameter
from llmlab.models.rope import rope_angles


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, index: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.attention = Attention(config, index, dtype=dtype, rngs=rngs)
        self.feed_forward_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        angles: tuple[Float32[Array, "B L H2"], Float32[Array, "B L H2"]],
        over: Pass,
    ) -> Float[Array, "B L D"]:
        """The residual stream after this layer."""
        x = x + self.attention(self.attention_norm(x), angles, over)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nnx.Module):
    """A decoder with random weights (normal, 0.02); `checkpoints.load` fills it from a folder.

    A family that embeds, rotates or scales in another way overrides `embed`, `angles` or `logits`.

    Args:
        config: the shape.
        rngs: source of the random weights.
        dtype: of the weights.
        layer: makes layer number `index`, called as `layer(config, index, dtype=, rngs=)`. The layer is called as
            `Layer` is. A family with other layers gives its own.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        layer: Callable[..., nnx.Module] = Layer,
    ):
        self.config = config
        d, v = config.hidden_size, config.vocab_size
        self.embedding = parameter(0.02 * jax.random.normal(rngs.params(), (v, d), dtype), VOCABULARY, None)
        self.layers = nnx.List([layer(config, i, dtype=dtype, rngs=rngs) for i in range(config.num_layers)])
        self.norm = RMSNorm(d, eps=config.rms_norm_eps, dtype=dtype)
        tied = config.tie_word_embeddings
        self.head = None if tied else Projection(d, v, axes=(None, VOCABULARY), dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Int32[Array, "B L"],
        positions: Int32[Array, "B L"],
        cache: Attendable | None = None,
    ) -> tuple[Float[Array, "B L D"], Any]:
        """Hidden states after the last norm, and the cache with the L new entries of every row.

        Args:
            tokens: ids.
            positions: each token's place in its own sequence; consecutive in each row where there is a cache.
            cache: what the tokens are added to; None for the tokens alone, each of which sees those before it.
        """
        over = (Uncached() if cache is None else cache).begin(positions)
        x, angles = self.embed(tokens), self.angles(positions)
        for layer in self.layers:
            x = layer(x, angles, over)
        return self.norm(x), over.cache_after()

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the weights and of the cache."""
        return self.embedding[...].dtype

    def embed(self, tokens: Int32[Array, "B L"]) -> Float[Array, "B L D"]:
        """The residual stream before the first layer."""
        return self.embedding[...][tokens]

    def angles(self, positions: Int32[Array, "B L"]) -> Any:
        """What every layer rotates by, computed once for all of them."""
        return rope_angles(positions, rope=self.config.rope, head_dim=self.config.head_dim)

    def logits(self, hidden: Float[Array, "B L D"]) -> Float32[Array, "B L V"]:
        """The product with the output matrix, which is the embedding itself where it is tied."""
        if self.head is None:
            table = self.embedding[...]
            return jnp.einsum("bld,vd->blv", hidden, table, preferred_element_type=jnp.float32)
        return jnp.einsum("bld,dv->blv", hidden, self.head.kernel[...], preferred_element_type=jnp.float32)
