"""The small parts of a decoder: norm, projection, rotary embedding, gated feed-forward."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32

from llmlab.models.config import ModelConfig, Rope

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, size: int, *, eps: float, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((size,), dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalise in float32, scale in the dtype of x."""
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
        return wide.astype(x.dtype) * scale


class Projection(nnx.Module):
    """x @ kernel (+ bias); kernel [in, out]."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, dtype: DTypeLike, rngs: nnx.Rngs, scale: float = 0.02):
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (inputs, outputs), dtype))
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype)) if bias else None

    def __call__(self, x: Float[Array, "B L I"]) -> Float[Array, "B L O"]:
        """One matrix product over the last axis."""
        y = jnp.einsum("bli,io->blo", x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...][None, None, :]


class FeedForward(nnx.Module):
    """act(x W_gate) * (x W_up), then W_down (Shazeer 2020, arXiv:2002.05202). Gate and up are one product: on a CPU
    one wide product reads memory faster than two narrow ones."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        d, f = config.hidden_size, config.intermediate_size
        self.gate_up = Projection(d, 2 * f, bias=config.mlp_bias, dtype=dtype, rngs=rngs)
        deep = 0.02 / math.sqrt(2 * config.num_layers)  # GPT-2's scale for what is added to the residual stream
        self.down = Projection(f, d, bias=config.mlp_bias, dtype=dtype, rngs=rngs, scale=deep)
        self.activation = config.hidden_act

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """What is added to the residual stream."""
        gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
        return self.down(_ACTIVATIONS[self.activation](gate) * up)


def rope_frequencies(rope: Rope, *, head_dim: int) -> np.ndarray:
    """The H/2 angular frequencies (radians a token), after the scaling of `rope`; computed in float64."""
    pairs = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    freq = rope.theta**-pairs
    if rope.kind == "linear":
        return freq / rope.factor
    if rope.kind == "llama3":
        wavelength = 2 * np.pi / freq
        turns = rope.original_max_position / wavelength
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = np.clip(smooth, 0.0, 1.0)
        return (1 - smooth) * freq / rope.factor + smooth * freq
    if rope.kind == "yarn":
        # The index of the frequency that turns `beta` times within the original context (YaRN, section 3.2).
        def index(beta: float) -> float:
            turns = rope.original_max_position / (beta * 2 * math.pi)
            return head_dim * math.log(turns) / (2 * math.log(rope.theta))

        low, high = index(rope.beta_fast), index(rope.beta_slow)
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
        return freq / rope.factor * ramp + freq * (1 - ramp)
    return freq


def rope_angles(
    positions: Int32[Array, "B L"], *, rope: Rope, head_dim: int
) -> tuple[Float32[Array, "B L H2"], Float32[Array, "B L H2"]]:
    """cos and sin of position times frequency, H2 = H/2, scaled by YaRN's attention factor."""
    freq = jnp.asarray(rope_frequencies(rope, head_dim=head_dim), jnp.float32)
    angle = positions[:, :, None].astype(jnp.float32) * freq[None, None, :]
    return jnp.cos(angle) * rope.attention_factor, jnp.sin(angle) * rope.attention_factor


def rotate(
    x: Float[Array, "B L N H"], cos: Float32[Array, "B L H2"], sin: Float32[Array, "B L H2"]
) -> Float[Array, "B L N H"]:
    """Rotate the pairs (x_i, x_{i+H/2}) by their angles (Su et al. 2021, arXiv:2104.09864; the halves convention)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
