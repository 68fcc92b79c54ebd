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

from llmlab.models.attention import Attention, Rotations
from llmlab.models.config import ModelConfig
from llmlab.models.experts import MixtureOfExperts
from llmlab.models.int8 import Int8, product, product_with_rows
from llmlab.models.kv.protocol import Attendable, Pass
from llmlab.models.kv.uncached import Uncached
from llmlab.models.latent import LatentAttention
from llmlab.models.layers import FeedForward, LayerNorm, Projection, RMSNorm, make_norm
from llmlab.models.low_rank import LowRank, choose
from llmlab.models.parameter import VOCABULARY, parameter
from llmlab.models.rope import rotation


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); with a norm before, after, or both, as the shape says.

    Where both halves are parallel, the feed-forward reads x as it was before attention. x, the residual stream, is
    float32 in every dtype: what the layers add to it one by one is rounded once each, and not again with each sum.
    """

    def __init__(self, config: ModelConfig, index: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        def norm(there: bool) -> RMSNorm | LayerNorm | None:
            return make_norm(config, config.hidden_size, dtype=dtype) if there else None

        self.attention_norm = norm(config.norm_before)
        self.attention = self.make_attention(config, index, dtype=dtype, rngs=rngs)
        self.attention_norm_after = norm(config.norm_after)
        self.feed_forward_norm = norm(config.norm_before and config.feed_forward_norm)
        self.feed_forward = self.make_feed_forward(config, index, dtype=dtype, rngs=rngs)
        self.feed_forward_norm_after = norm(config.norm_after)
        self.residual_scale, self.parallel, self.dtype = config.residual_scale, config.parallel, jnp.dtype(dtype)

    def make_attention(
        self, config: ModelConfig, index: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> Attention | LatentAttention:
        """The first half: grouped-query attention, or latent attention where the shape says so."""
        if config.latent is not None:
            return LatentAttention(config, config.latent, index, dtype=dtype, rngs=rngs)
        return Attention(config, index, dtype=dtype, rngs=rngs)

    def make_feed_forward(
        self, config: ModelConfig, index: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> Callable[[Array], Array]:
        """The second half: a feed-forward, or a mixture of experts where the shape says so."""
        if config.experts is not None and config.has_experts(index):
            return MixtureOfExperts(config, config.experts, dtype=dtype, rngs=rngs)
        return FeedForward(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float32[Array, "B L D"], rotations: Rotations, over: Pass) -> Float32[Array, "B L D"]:
        """The residual stream after this layer."""
        inputs = self._normed(self.attention_norm, x)
        update = self._added(self.attention(inputs, rotations, over), self.attention_norm_after)
        if self.parallel:
            inputs = inputs if self.feed_forward_norm is None else self.feed_forward_norm(x)
            return x + update + self._added(self.feed_forward(inputs), self.feed_forward_norm_after)
        x = x + update
        return x + self._added(self.feed_forward(self._normed(self.feed_forward_norm, x)), self.feed_forward_norm_after)

    def _normed(self, norm: RMSNorm | LayerNorm | None, x: Float32[Array, "B L D"]) -> Float[Array, "B L D"]:
        return x.astype(self.dtype) if norm is None else norm(x)

    def _added(self, update: Float[Array, "B L D"], norm: RMSNorm | LayerNorm | None) -> Float32[Array, "B L D"]:
        update = (update if norm is None else norm(update)).astype(jnp.float32)
        return update if self.residual_scale == 1.0 else update * self.residual_scale


class Transformer(nnx.Module):
    """A decoder with random weights (normal, 0.02); `checkpoints.load` fills it from a folder.

    A family that embeds, rotates or scales in another way overrides `embed`, `rotations` or `logits`.

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
        self.embedding = parameter(0.02 * jax.random.normal(rngs.params(), (v, d), dtype), VOCABULARY, None, summed=-1)
        self.positions = self._drawn_positions(rngs, dtype) if config.learned_positions else None
        self.layers = nnx.List([layer(config, i, dtype=dtype, rngs=rngs) for i in range(config.num_layers)])
        self.norm = make_norm(config, d, dtype=dtype)
        tied = config.tie_word_embeddings
        bias = config.head_bias
        self.head = None if tied else Projection(d, v, axes=(None, VOCABULARY), bias=bias, dtype=dtype, rngs=rngs)
        # Adapters beside the weights (`checkpoints.lora.beside`): their names, and what they add at the two ends.
        self.adapters: tuple[str, ...] = ()
        self.embedding_added: LowRank | None = None
        self.head_added: LowRank | None = None

    def _drawn_positions(self, rngs: nnx.Rngs, dtype: DTypeLike) -> nnx.Param:
        shape = (self.config.max_position, self.config.hidden_size)
        return parameter(0.02 * jax.random.normal(rngs.params(), shape, dtype), None, None)

    def __call__(
        self,
        tokens: Int32[Array, "B L"],
        positions: Int32[Array, "B L"],
        cache: Attendable | None = None,
        *,
        length: Int32[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], Any]:
        """Hidden states after the last norm, and the cache with the L new entries of every row.

        Args:
            tokens: ids.
            positions: each token's place in its own sequence; consecutive in each row where there is a cache.
            cache: what the tokens are added to; None for the tokens alone, each of which sees those before it.
            length: of the text that each row's tokens belong to, for a decoder that rotates a long text in another way
                (`ModelConfig.context_switch`); None where it ends with them.
        """
        over = (Uncached() if cache is None else cache).begin(positions)
        x, rotations = self.embed(tokens, positions).astype(jnp.float32), self.rotations(positions, length)
        for layer in self.layers:
            x = layer(x, rotations, over)
        return self.norm(x), over.cache_after()

    def choose(self, rows: Int32[Array, " B"]) -> None:
        """Says which adapter each row has (0: none) in the calls that follow; for a decoder that has adapters."""
        choose(self, rows)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the activations and of the cache; that of the weights too, unless they are int8."""
        return self.embedding[...].dtype

    @property
    def weights_dtype(self) -> str:
        """The name of the dtype of the weights: "int8", or that of `dtype`."""
        return "int8" if isinstance(self.embedding[...], Int8) else str(self.dtype)

    def embed(self, tokens: Int32[Array, "B L"], positions: Int32[Array, "B L"]) -> Float[Array, "B L D"]:
        """The residual stream before the first layer."""
        x = self.embedding[...][tokens]
        x = x if self.embedding_added is None else x + self.embedding_added.of_tokens(tokens)
        if self.config.embedding_scale != 1.0:  # rounded to the dtype first, as Gemma's own code does
            x = x * jnp.asarray(self.config.embedding_scale, x.dtype)
        return x if self.positions is None else x + self.positions[...][positions]

    def rotations(self, positions: Int32[Array, "B L"], length: Int32[Array, " B"] | None) -> Rotations:
        """What the layers rotate by, computed once for all layers that rotate alike."""
        size = self.config.head_dim
        used = {self.config.rope_of(layer) for layer in range(self.config.num_layers)} - {None}
        return {rope: rotation(positions, rope=rope, head_dim=size, length=length) for rope in used if rope}

    def logits(self, hidden: Float[Array, "B L D"]) -> Float32[Array, "B L V"]:
        """The product with the output matrix, which is the embedding itself where it is tied."""
        if self.head is None:
            found = product_with_rows(hidden, self.embedding[...])
        else:
            found = product(hidden, self.head.kernel[...], preferred_element_type=jnp.float32)
            found = (
                found if self.head.bias is None else found + self.head.bias[...].astype(jnp.float32).reshape(1, 1, -1)
            )
        if self.head_added is not None:
            found = found + self.head_added(hidden).astype(jnp.float32)
        if self.config.logit_scale != 1.0:
            found = found * self.config.logit_scale
        cap = self.config.logit_softcap
        return found if cap is None else cap * jnp.tanh(found / cap)
