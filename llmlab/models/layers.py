"""The small parts of a decoder: norms, projection, feed-forward."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from llmlab.models.config import ModelConfig
from llmlab.models.int8 import product
from llmlab.models.low_rank import LowRank
from llmlab.models.parameter import UNITS, parameter
from llmlab.models.tensors import group

#: Name in config.json -> the function.
ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * (offset + scale) over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, size: int, *, eps: float, dtype: DTypeLike, offset: float = 0.0):
        self.scale = parameter(jnp.full((size,), 1.0 - offset, dtype), None)
        self.eps, self.offset = eps, offset

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Computed in float32, and rounded once, to the dtype of the scale."""
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
        return (wide * (self.offset + scale.astype(jnp.float32))).astype(scale.dtype)


class LayerNorm(nnx.Module):
    """(x - mean(x)) / sqrt(var(x) + eps) * (offset + scale) + bias over the last axis; without `bias` nothing is added.

    Ba et al. 2016, arXiv:1607.06450.
    """

    def __init__(self, size: int, *, eps: float, dtype: DTypeLike, offset: float = 0.0, bias: bool = True):
        self.scale = parameter(jnp.full((size,), 1.0 - offset, dtype), None)
        self.bias = parameter(jnp.zeros((size,), dtype), None) if bias else None
        self.eps, self.offset = eps, offset

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Computed in float32, and rounded once, to the dtype of the scale."""
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        shape = (1,) * (x.ndim - 1) + (-1,)
        wide = wide * (self.offset + self.scale[...].astype(jnp.float32)).reshape(shape)
        wide = wide if self.bias is None else wide + self.bias[...].astype(jnp.float32).reshape(shape)
        return wide.astype(self.scale[...].dtype)


def make_norm(config: ModelConfig, size: int, *, dtype: DTypeLike) -> RMSNorm | LayerNorm:
    """A norm of the decoder's kind over `size` numbers."""
    if config.norm == "layer":
        return LayerNorm(size, eps=config.rms_norm_eps, dtype=dtype, offset=config.norm_offset, bias=config.norm_bias)
    return RMSNorm(size, eps=config.rms_norm_eps, dtype=dtype, offset=config.norm_offset)


class Projection(nnx.Module):
    """x @ kernel (+ bias); the kernel is [in, out]. `added` is what adapters add, in a decoder that has some.

    Args:
        inputs: the size of x's last axis.
        outputs: the size of the output's last axis, or the sizes of several outputs that one product computes.
        axes: how the inputs and the outputs are spread over a mesh, as in `parameter`.
        groups: several outputs are laid out group by group, as `tensors.group` does.
        bias: whether a bias is added. It lies as the outputs do.
        dtype: of the parameters.
        rngs: source of the random kernel.
        scale: standard deviation of the random kernel.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int | Sequence[int],
        *,
        axes: tuple[str | None, str | None],
        groups: int = 1,
        bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        scale: float = 0.02,
    ):
        sizes = (outputs,) if isinstance(outputs, int) else tuple(outputs)
        # The weights are drawn output by output and grouped afterwards, so that a seed stands for the same tensors of
        # a checkpoint however they are grouped.
        kernel = scale * jax.random.normal(rngs.params(), (inputs, sum(sizes)), dtype)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        kernel = group(jnp.split(kernel, ends, axis=-1), groups, concatenate=jnp.concatenate)
        self.kernel = parameter(kernel, *axes, summed=-2)
        self.bias = parameter(jnp.zeros((sum(sizes),), dtype), axes[1]) if bias else None
        self.added: LowRank | None = None

    def __call__(self, x: Float[Array, "B L I"]) -> Float[Array, "B L O"]:
        """One matrix product over the last axis."""
        y = product(x, self.kernel[...])
        y = y if self.bias is None else y + self.bias[...][None, None, :]
        return y if self.added is None else y + self.added(x)


class FeedForward(nnx.Module):
    """act(x W_gate) * (x W_up), then W_down (Shazeer 2020, arXiv:2002.05202); or act(x W_up), then W_down.

    Gate and up are one product: on a CPU one wide product reads memory faster than two narrow ones. The two outputs of
    a unit lie side by side, so that a device that holds a share of the units holds both.

    Args:
        config: the decoder's shape.
        units: the width; None for the shape's own.
        dtype: of the parameters.
        rngs: source of the random weights.
    """

    def __init__(self, config: ModelConfig, *, units: int | None = None, dtype: DTypeLike, rngs: nnx.Rngs):
        d, f, bias = config.hidden_size, units or config.intermediate_size, config.mlp_bias
        outputs = (f, f) if config.gated else (f,)
        into = Projection(d, outputs, axes=(None, UNITS), groups=f, bias=bias, dtype=dtype, rngs=rngs)
        self.gated = config.gated
        if self.gated:
            self.gate_up = into
        else:
            self.up = into
        deep = 0.02 / math.sqrt(2 * config.num_layers)  # GPT-2's scale for what is added to the residual stream
        self.down = Projection(f, d, axes=(UNITS, None), bias=bias, dtype=dtype, rngs=rngs, scale=deep)
        self.activation = config.hidden_act

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The update of the residual stream."""
        act = ACTIVATIONS[self.activation]
        if not self.gated:
            return self.down(act(self.up(x)))
        both = self.gate_up(x)
        both = both.reshape(*both.shape[:-1], -1, 2)
        gate, up = both[..., 0], both[..., 1]
        return self.down(act(gate) * up)
