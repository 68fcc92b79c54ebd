"""A decoder spread over the devices of a mesh, with the communication left to XLA's partitioner.

A mesh has up to three axes. `model` divides what a layer computes, as in Megatron-LM: each device holds a share of the
key heads with their query heads, of the feed-forward units, and of the vocabulary where that divides. `expert` divides
the experts of a mixture. `data` divides the rows of a batch. What is small (norms, the sampler's state, the statistics)
lies on all devices. The programs stay as they are: where the arrays lie says how they run (Shoeybi et al. 2019,
arXiv:1909.08053; Xu et al. 2021, arXiv:2105.04663). A dense layer then needs two all-reduces along `model`, one after
the attention's output projection and one after the feed-forward's, and no other communication.

Parameters and caches declare what their axes count (`models.parameter`); this file says what a mesh does with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from llmlab.errors import RequestError
from llmlab.models.config import ModelConfig
from llmlab.models.kv.protocol import Cache
from llmlab.models.parameter import EXPERTS, HEADS, KEY_HEADS, ROWS, UNITS, VOCABULARY, declared_axes

#: The axes of a mesh, in the order of its devices: neighbours share a layer, which talks the most.
AXES = ("data", "expert", "model")

#: What an axis of an array counts -> the axis of a mesh that divides it, and whether an array whose size it does not
#: divide may lie on every device instead.
_DIVIDED = {
    KEY_HEADS: ("model", False),
    HEADS: ("model", False),
    UNITS: ("model", False),
    VOCABULARY: ("model", True),
    EXPERTS: ("expert", False),
    ROWS: ("data", True),
}


def checked_mesh(mesh: Any, config: ModelConfig) -> Mesh:
    """The mesh that the programs are partitioned over, with the three axes of `AXES`.

    Args:
        mesh: a mesh whose axes are some of `AXES`, or of one axis of any name, which is `model`.
        config: the decoder.

    Raises:
        RequestError: not such a mesh, or the decoder does not divide by it. The message says which meshes do.
    """
    if not isinstance(mesh, Mesh):
        raise RequestError(f"mesh must be a jax.sharding.Mesh or 'auto', got {mesh!r}", param="mesh")
    names = ("model",) if len(mesh.axis_names) == 1 and mesh.axis_names[0] not in AXES else mesh.axis_names
    if not set(names) <= set(AXES):
        raise RequestError(
            f"mesh must have axes named {', '.join(AXES)}, or one axis; got {dict(mesh.shape)}", param="mesh"
        )
    sizes = dict(zip(names, mesh.devices.shape, strict=True))
    for axis, size in sizes.items():
        if problem := _problem(config, axis, size):
            dividing = [n for n in range(1, size) if _problem(config, axis, n) is None]
            raise RequestError(
                f"mesh has {size} devices along {axis!r}, {problem}; {', '.join(map(str, dividing))} would do",
                param="mesh",
            )
    devices = np.transpose(mesh.devices, [names.index(axis) for axis in AXES if axis in names])
    # Of the axis type that XLA partitions by itself, whatever type the caller's mesh has.
    return Mesh(devices.reshape([sizes.get(axis, 1) for axis in AXES]), AXES)


def divides(config: ModelConfig, axis: str, size: int) -> bool:
    """Whether `size` devices along this axis of a mesh can share the decoder."""
    return _problem(config, axis, size) is None


def _problem(config: ModelConfig, axis: str, size: int) -> str | None:
    """Why that many devices along this axis of a mesh cannot share the decoder; None if they can."""
    if axis == "expert" and size > 1 and axis not in config.sharded_sizes:
        return "and this model has no experts"
    for name, held in config.sharded_sizes.get(axis, {}).items():
        if held % size:
            return f"by which this model's {name} {held} does not divide"
    heads = config.num_kv_heads
    if axis == "model" and config.kv_heads_divide and heads % size and size % heads:
        return f"and this model's num_key_value_heads {heads} neither divides by that nor divides it"
    return None


def fitted(config: ModelConfig, mesh: Mesh | AbstractMesh | None) -> ModelConfig:
    """The decoder as it lies on a mesh: where there are fewer key heads than devices, each is held several times."""
    if mesh is None or not config.kv_heads_divide:
        return config
    return replace(config, kv_copies=max(1, mesh.shape.get("model", 1) // config.num_kv_heads))


def parameter_sharding(mesh: Mesh | AbstractMesh, variable: nnx.Variable, path: tuple[Any, ...]) -> NamedSharding:
    """Where a parameter lies, by its own declaration.

    Raises:
        ValueError: it has none, or names an axis that no mesh divides.
    """
    return array_sharding(mesh, declared_axes(variable, path), variable.shape)


def placed(
    function: Callable[..., Any], mesh: Mesh | AbstractMesh | None, *, by_rows: bool = False
) -> Callable[..., Any]:
    """The function with its results put where they belong: caches as they declare, all else on every device.

    With `by_rows` all else is divided by its first axis, which counts the rows of a batch.
    """
    if mesh is None:
        return function
    rest = PartitionSpec(ROWS) if by_rows else PartitionSpec()

    def put(x: Any) -> Any:
        if not isinstance(x, Cache):
            return jax.lax.with_sharding_constraint(x, array_sharding(mesh, rest, x.shape))
        where = jax.tree.map(lambda value, axes: array_sharding(mesh, axes, value.shape), x, x.axes())
        return jax.lax.with_sharding_constraint(x, where)

    @wraps(function)
    def inner(*args: Any, **others: Any) -> Any:
        return jax.tree.map(put, function(*args, **others), is_leaf=lambda x: isinstance(x, Cache))

    return inner


def array_sharding(mesh: Mesh | AbstractMesh, axes: PartitionSpec, shape: tuple[int, ...]) -> NamedSharding:
    """Where an array lies whose axes count what `axes` names.

    Raises:
        ValueError: a name that is unknown.
    """
    spec: list[str | None] = []
    for name, size in zip(axes, shape, strict=False):
        if name is not None and name not in _DIVIDED:
            raise ValueError(f"the axis name {name!r} is unknown; known are {', '.join(_DIVIDED)}")
        axis, may_be_whole = (None, True) if name is None else _DIVIDED[name]
        if axis not in mesh.shape or (may_be_whole and size % mesh.shape[axis]):
            axis = None
        spec.append(axis)
    return NamedSharding(mesh, PartitionSpec(*spec))
