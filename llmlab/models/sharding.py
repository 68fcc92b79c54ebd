"""A decoder spread over the devices of a mesh: heads and feed-forward, as in Megatron-LM, left to XLA's partitioner.

Each device holds a share of every layer's heads and of its feed-forward width, and of the vocabulary where that
divides; the cache is cut by key heads. What is small (norms, the sampler's state, the figures) is on all of them. The
programs stay as they are: where arrays lie says how they are run (Shoeybi et al. 2019, arXiv:1909.08053; Xu et al.
2021, arXiv:2105.04663).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llmlab.errors import RequestError
from llmlab.models.cache import KVCache
from llmlab.models.config import ModelConfig

#: A parameter's last two names -> the axis that is cut.
_CUT = {
    ("qkv", "kernel"): 1,
    ("qkv", "bias"): 0,
    ("o", "kernel"): 0,
    ("gate_up", "kernel"): 1,
    ("gate_up", "bias"): 0,
    ("down", "kernel"): 0,
    ("head", "kernel"): 1,
    ("embedding",): 0,
}


def checked_mesh(mesh: Any, config: ModelConfig) -> Mesh:
    """The mesh that the programs are partitioned over.

    Raises:
        RequestError: no mesh, or one of several axes; heads or a feed-forward width that do not divide by its size.
    """
    if not isinstance(mesh, Mesh):
        raise RequestError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}", param="mesh")
    if len(mesh.axis_names) != 1:
        raise RequestError(f"mesh must have one axis, got {dict(mesh.shape)}", param="mesh")
    for name, size in (
        ("num_attention_heads", config.num_heads),
        ("num_key_value_heads", config.num_kv_heads),
        ("intermediate_size", config.intermediate_size),
    ):
        if size % mesh.size:
            raise RequestError(
                f"mesh has {mesh.size} devices, by which this model's {name} {size} does not divide", param="mesh"
            )
    # Of the axis type that XLA partitions by itself, whatever the caller's is.
    return Mesh(mesh.devices, mesh.axis_names)


def parameter_sharding(mesh: Mesh, path: tuple[str | int, ...], shape: tuple[int, ...]) -> NamedSharding:
    """Where a parameter of `models.Transformer` lies, by its path in the module."""
    axis = _CUT.get(tuple(map(str, path[-2:])))
    if axis is None or shape[axis] % mesh.size:  # a vocabulary that does not divide is on every device
        return NamedSharding(mesh, P())
    return NamedSharding(mesh, P(*[None] * axis, mesh.axis_names[0]))


def placed(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """The function with its results in their places: caches cut by heads, all else on every device."""
    if mesh is None:
        return function
    by_heads, everywhere = NamedSharding(mesh, P(None, mesh.axis_names[0])), NamedSharding(mesh, P())

    @wraps(function)
    def inner(*args: Any, **others: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.lax.with_sharding_constraint(x, by_heads if isinstance(x, KVCache) else everywhere),
            function(*args, **others),
            is_leaf=lambda x: isinstance(x, KVCache),
        )

    return inner
