"""The small parts of a decoder: norm, projection, gated feed-forward."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from llmlab.models.config import ModelConfig
from llmlab.models.parameter import UNITS, parameter
from llmlab.models.tensors import group

#: Name in config.json -> the function.
ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, size: int, *, eps: float, dtype: DTypeLike):
        self.scale = parameter(jnp.ones((size,), dtype), None)
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalises in float32 and scales in the dtype of x."""
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
        return wide.astype(x.dtype) * scale


class Projection(nnx.Module):
    """x @ kernel (+ bias); the kernel is [in, out].

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
        self.kernel = parameter(kernel, *axes)
        self.bias = parameter(jnp.zeros((sum(sizes),), dtype), axes[1]) if bias else None

    def __call__(self, x: Float[Array, "B L I"]) -> Float[Array, "B L O"]:
        """One matrix product over the last axis."""
        y = jnp.einsum("bli,io->blo", x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...][None, None, :]


class FeedForward(nnx.Module):
    """act(x W_gate) * (x W_up), then W_down (Shazeer 2020, arXiv:2002.05202).

    Gate and up are one product: on a CPU one wide product reads memory faster than two narrow ones. The two outputs of
    a unit lie side by side, so that a device that holds a share of the units holds both.
    """

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        d, f, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up = Projection(d, (f, f), axes=(None, UNITS), groups=f, bias=bias, dtype=dtype, rngs=rngs)
        deep = 0.02 / math.sqrt(2 * config.num_layers)  # GPT-2's scale for what is added to the residual stream
        self.down = Projection(f, d, axes=(UNITS, None), bias=bias, dtype=dtype, rngs=rngs, scale=deep)
        self.activation = config.hidden_act

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The update of the residual stream."""
        both = self.gate_up(x)
        both = both.reshape(*both.shape[:-1], -1, 2)
        gate, up = both[..., 0], both[..., 1]
        return self.down(ACTIVATIONS[self.activation](gate) * up)
