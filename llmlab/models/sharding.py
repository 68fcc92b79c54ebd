"""A decoder spread over the devices of a mesh as in Megatron-LM, with the communication left to XLA's partitioner.

Each device holds a share of the key heads with their query heads, of the feed-forward units, and of the vocabulary
where that divides. The cache is divided by key heads. What is small (norms, the sampler's state, the statistics) lies
on all devices. The programs stay as they are: where the arrays lie says how they run (Shoeybi et al. 2019,
arXiv:1909.08053; Xu et al. 2021, arXiv:2105.04663). A layer then needs two all-reduces, one after the attention's
output projection and one after the feed-forward's, and no other communication.

Parameters and caches declare what their axes count (`models.parameter`); this file says what a mesh does with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmlab.errors import RequestError
from llmlab.models.config import ModelConfig
from llmlab.models.kv.protocol import Cache
from llmlab.models.parameter import KEY_HEADS, UNITS, VOCABULARY, declared_axes

#: The axes that a mesh divides -> whether a size that does not divide may lie on every device instead.
_DIVIDED = {KEY_HEADS: False, UNITS: False, VOCABULARY: True}


def checked_mesh(mesh: Any, config: ModelConfig) -> Mesh:
    """The mesh that the programs are partitioned over.

    Raises:
        RequestError: not a mesh, or one of several axes; heads or a feed-forward width that its size does not divide.
    """
    if not isinstance(mesh, Mesh):
        raise RequestError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}", param="mesh")
    if len(mesh.axis_names) != 1:
        raise RequestError(f"mesh must have one axis, got {dict(mesh.shape)}", param="mesh")
    for name, size in config.sharded_sizes.items():
        if size % mesh.size:
            raise RequestError(
                f"mesh has {mesh.size} devices, by which this model's {name} {size} does not divide", param="mesh"
            )
    # Of the axis type that XLA partitions by itself, whatever type the caller's mesh has.
    return Mesh(mesh.devices, mesh.axis_names)


def parameter_sharding(mesh: Mesh, variable: nnx.Variable, path: tuple[Any, ...]) -> NamedSharding:
    """Where a parameter lies, by its own declaration.

    Raises:
        ValueError: it has none, or names an axis that no mesh divides.
    """
    return _sharding(mesh, declared_axes(variable, path), variable.shape)


def placed(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """The function with its results put where they belong: caches as they declare, all else on every device."""
    if mesh is None:
        return function

    def put(x: Any) -> Any:
        if not isinstance(x, Cache):
            return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))
        where = jax.tree.map(lambda value, axes: _sharding(mesh, axes, value.shape), x, x.axes())
        return jax.lax.with_sharding_constraint(x, where)

    @wraps(function)
    def inner(*args: Any, **others: Any) -> Any:
        return jax.tree.map(put, function(*args, **others), is_leaf=lambda x: isinstance(x, Cache))

    return inner


def _sharding(mesh: Mesh, axes: PartitionSpec, shape: tuple[int, ...]) -> NamedSharding:
    spec: list[str | None] = []
    for name, size in zip(axes, shape, strict=False):
        if name is not None and name not in _DIVIDED:
            raise ValueError(f"the axis name {name!r} is unknown; known are {', '.join(_DIVIDED)}")
        whole = name is None or (_DIVIDED[name] and size % mesh.size)
        spec.append(None if whole else mesh.axis_names[0])
    return NamedSharding(mesh, PartitionSpec(*spec))
