"""A parameter of a decoder, declared together with how it is spread over the devices of a mesh."""

from __future__ import annotations

from typing import Any

from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array

#: What an axis of a parameter or of a cache counts. `models.sharding` says which of these a mesh divides.
KEY_HEADS = "key_heads"
UNITS = "units"
VOCABULARY = "vocabulary"


def parameter(value: Array, *axes: str | None) -> nnx.Param:
    """A parameter whose axes are named: `KEY_HEADS`, `UNITS`, `VOCABULARY`, or None for an axis that is never divided.

    A parameter that every device holds in full declares None for each of its axes.

    Raises:
        ValueError: not one name per axis.
    """
    if len(axes) != value.ndim:
        raise ValueError(f"a parameter of shape {value.shape} needs {value.ndim} axes, got {axes}")
    # Not eager: these names are not axes of a mesh, so flax must not look for them in a mesh that happens to be set.
    return nnx.Param(value, out_sharding=PartitionSpec(*axes), eager_sharding=False)


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
