"""A parameter of a decoder, declared together with how it is spread over the devices of a mesh."""

from __future__ import annotations

from typing import Any

from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array

#: What an axis of a parameter or of a cache counts. `models.sharding` says which of these a mesh divides.
KEY_HEADS = "key_heads"
#: Query heads, where they have no keys of their own that would have to lie with them.
HEADS = "heads"
UNITS = "units"
EXPERTS = "experts"
VOCABULARY = "vocabulary"
#: The rows of a batch; caches have it, parameters do not.
ROWS = "rows"


def parameter(value: Array, *axes: str | None, summed: int | None = None) -> nnx.Param:
    """A parameter whose axes are named by the constants above, or None for one that is never divided.

    A parameter that every device holds in full declares None for each of its axes.

    `summed` is the axis that products with it sum over, counted from the end. A parameter that declares it can be held
    in int8, with a scale for each of its other places.

    Raises:
        ValueError: not one name per axis.
    """
    if len(axes) != value.ndim:
        raise ValueError(f"a parameter of shape {value.shape} needs {value.ndim} axes, got {axes}")
    # Not eager: these names are not axes of a mesh, so flax must not look for them in a mesh that happens to be set.
    return nnx.Param(value, out_sharding=PartitionSpec(*axes), eager_sharding=False, summed=summed)


def summed_axis(variable: nnx.Variable) -> int | None:
    """The axis that products with a parameter sum over; None if it is always held in floats."""
    found: int | None = variable.get_metadata().get("summed")
    return found


def declared_axes(variable: nnx.Variable, path: tuple[Any, ...]) -> PartitionSpec:
    """The axes that a parameter was declared with; `path` is its place in the decoder, for the error.

    Raises:
        ValueError: nothing was declared, because the parameter was not made by `parameter`.
    """
    axes = variable.get_metadata().get("out_sharding")
    if not isinstance(axes, PartitionSpec):
        raise ValueError(
            f"the parameter {'.'.join(map(str, path))} does not declare how it is spread over a mesh; "
            "make it with llmlab.models.parameter.parameter(value, *axes)"
        )
    return axes
