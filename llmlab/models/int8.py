"""Weights of one byte: an int8 number each, and one float32 scale for each output of a product.

Only the weights are int8: activations, caches and sums stay floats, and a weight is values * scale wherever it is used.
Per output channel and symmetric, as in LLM.int8 without its outliers (Dettmers et al. 2022, arXiv:2208.07339) and in
GPTQ's round-to-nearest baseline (Frantar et al. 2022, arXiv:2210.17323).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from llmlab.models.cpu.products import int8_product, usable

#: The weights that are converted at a time on a CPU: as floats they stay in a processor's cache.
_BLOCK = 1 << 19
#: The most tokens for which that is faster than to convert a matrix as a whole.
_FEW = 256


@partial(jax.tree_util.register_dataclass, data_fields=["values", "scale"], meta_fields=["dtype", "turned"])
@dataclass(frozen=True)
class Int8:
    """A parameter of int8 numbers that stands for `values * scale` in a float dtype.

    Attributes:
        values: int8, in the parameter's shape.
        scale: float32; 1 along the axis that a product sums over, which all numbers of an output share.
        dtype: of the activations, and of what the parameter stands for.
        turned: the last two axes of `values` are exchanged, so that the weights of an output lie side by side: that is
            what a CPU reads fastest. The parameter's shape, and `scale`, are those of one that is not turned.
    """

    values: Any
    scale: Any
    dtype: Any = field(default=jnp.float32)
    turned: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        found: tuple[int, ...] = self.values.shape
        return (*found[:-2], found[-1], found[-2]) if self.turned else found

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return int(self.values.nbytes + self.scale.nbytes)

    def __getitem__(self, index: Any) -> Any:
        """The parameter itself for `...`; some of its rows, as floats, for anything else."""
        if index is ...:
            return self
        return (self.values[index].astype(jnp.float32) * self.scale[index]).astype(self.dtype)

    def __jax_array__(self) -> Array:
        """All of it as floats, for a computation that knows nothing of int8."""
        values = self.values.swapaxes(-1, -2) if self.turned else self.values
        found: Array = (values.astype(jnp.float32) * self.scale).astype(self.dtype)
        return found


def rounded(value: Float32[np.ndarray, "..."], *, summed: int) -> tuple[np.ndarray, np.ndarray]:
    """The int8 numbers nearest to some weights, and their scales: the largest of an output's weights is 127 or -127.

    An output with a weight that is not a number gets a scale that is none, so that its sums are none either.

    Args:
        value: the weights, which are overwritten.
        summed: the axis that a product with them sums over.
    """
    most = np.maximum(value.max(axis=summed, keepdims=True), -value.min(axis=summed, keepdims=True))
    scale = np.where(most == 0, np.float32(1), most / np.float32(127))
    with np.errstate(invalid="ignore"):
        np.rint(np.divide(value, scale, out=value), out=value)
        return value.astype(np.int8), scale


def product(
    x: Float[Array, "... I"], kernel: Any, *, preferred_element_type: DTypeLike | None = None
) -> Float[Array, "... O"]:
    """x @ kernel over x's last axis, in x's dtype or the one preferred; the kernel is [I, O], of floats or `Int8`."""
    if not isinstance(kernel, Int8):
        # Summed in float32 in every dtype: what a backend sums bfloat16 in by default is its own choice.
        summed = jnp.einsum("...i,io->...o", x, kernel, preferred_element_type=jnp.float32)
        return summed.astype(preferred_element_type or x.dtype)
    values = kernel.values
    if kernel.turned:
        return _turned_product(x, values, kernel.scale[0]).astype(preferred_element_type or x.dtype)
    size = _block(values.shape[0], values.shape[1])
    if not _by_blocks(x) or size is None:
        summed = jnp.einsum("...i,io->...o", x, values.astype(x.dtype), preferred_element_type=jnp.float32)
    else:

        def add(i: Array, total: Float32[Array, "... O"]) -> Float32[Array, "... O"]:
            some = jax.lax.dynamic_slice_in_dim(values, i * size, size, axis=0).astype(x.dtype)
            part = jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=-1)
            return total + jnp.einsum("...i,io->...o", part, some, preferred_element_type=jnp.float32)

        zeros = jnp.zeros((*x.shape[:-1], values.shape[1]), jnp.float32)
        summed = jax.lax.fori_loop(0, values.shape[0] // size, add, zeros)
    # Scaled before it is rounded: without its scale a sum may be beyond float16.
    return (summed * kernel.scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(preferred_element_type or x.dtype)


def product_with_rows(x: Float[Array, "B L D"], table: Any) -> Float32[Array, "B L V"]:
    """x @ table.T in float32; the table is [V, D], of floats or `Int8`: an embedding that is the output matrix too."""
    if not isinstance(table, Int8):
        return jnp.einsum("bld,vd->blv", x, table, preferred_element_type=jnp.float32)
    values = table.values
    if usable():
        return _turned_product(x, values, table.scale[:, 0])
    size = _block(values.shape[0], values.shape[1])
    if not _by_blocks(x) or size is None:
        found = jnp.einsum("bld,vd->blv", x, values.astype(x.dtype), preferred_element_type=jnp.float32)
    else:

        def put(i: Array, out: Float32[Array, "B L V"]) -> Float32[Array, "B L V"]:
            some = jax.lax.dynamic_slice_in_dim(values, i * size, size, axis=0).astype(x.dtype)
            part = jnp.einsum("bld,vd->blv", x, some, preferred_element_type=jnp.float32)
            return jax.lax.dynamic_update_slice_in_dim(out, part, i * size, axis=2)

        room = jnp.zeros((*x.shape[:2], values.shape[0]), jnp.float32)
        found = jax.lax.fori_loop(0, values.shape[0] // size, put, room)
    return found * table.scale[:, 0][None, None, :]


def _turned_product(x: Float[Array, "... I"], values: Any, scale: Float32[Array, " O"]) -> Float32[Array, "... O"]:
    """The product with int8 weights [O, I], in float32."""
    if usable() and prod(x.shape[:-1]) <= _FEW:
        found: Array = int8_product(x.astype(jnp.float32).reshape(-1, x.shape[-1]), values, scale)
        return found.reshape(*x.shape[:-1], -1)
    summed = jnp.einsum("...i,oi->...o", x, values.astype(x.dtype), preferred_element_type=jnp.float32)
    return summed * scale.reshape((1,) * (x.ndim - 1) + (-1,))


def _by_blocks(x: Float[Array, "... _"]) -> bool:
    """Whether weights are converted block by block.

    XLA's CPU backend would write a whole converted matrix to memory before each product: 30 times as slow at batch 1.
    For many tokens at once that no longer matters. GPUs and TPUs convert inside the product, and a block of a matrix
    that lies on several devices would be fetched.
    """
    few = prod(x.shape[:-1]) <= _FEW
    return few and jax.default_backend() == "cpu" and jax.device_count() == 1


def _block(count: int, width: int) -> int | None:
    """The rows of a block: the most that divide `count` and fit; None if a block would be the whole, or a few rows."""
    most = _BLOCK // width
    size = next((size for size in range(min(most, count), 0, -1) if count % size == 0), 0)
    return size if 8 <= size < count else None
