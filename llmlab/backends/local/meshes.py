"""The mesh that a model is loaded onto."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmlab.backends.local.devices import free_memory
from llmlab.errors import RequestError
from llmlab.models.config import ModelConfig

__all__ = ["chosen_mesh", "mesh_named", "mesh_order"]

#: The positions of cache for which there must be room beside the weights, where "auto" chooses.
_POSITIONS = 8192


def chosen_mesh(mesh: Any, config: ModelConfig, *, dtype: str) -> Any:
    """Returns the mesh with the three axes of `models.sharding.AXES`; None for one device.

    Args:
        mesh: what the caller gave: None, "auto", or a `jax.sharding.Mesh`.
        config: the decoder.
        dtype: of the weights.

    Raises:
        RequestError: not a mesh, one that the decoder does not divide by, or too little memory on all devices together.
    """
    if mesh is None:
        return None
    from llmlab.models.sharding import AXES, checked_mesh

    if not isinstance(mesh, str):
        return checked_mesh(mesh, config)
    if mesh != "auto":
        raise RequestError(f"mesh must be a jax.sharding.Mesh or 'auto', got {mesh!r}", param="mesh")
    import jax
    from jax.sharding import Mesh

    from llmlab.models import plan

    count = jax.device_count()
    memory = free_memory(jax.local_device_count())
    positions = min(_POSITIONS, config.context)
    found = plan.best_mesh(config, count, memory=memory, dtype=dtype, positions=positions)
    if found is None:
        needed = plan.least_devices(config, memory=memory or 0, dtype=dtype, positions=positions)
        more = f"{needed.size} such devices would do" if needed else "no number of such devices would do"
        raise RequestError(
            f"mesh='auto': the model in {dtype} does not fit on {count} devices with {(memory or 0) / 1e9:.1f} GB free "
            f"on each; {more}, or load another dtype",
            param="mesh",
        )
    return Mesh(np.array(jax.devices()).reshape(tuple(found.shape[axis] for axis in AXES)), AXES)


def mesh_order(mesh: Any) -> dict[str, Any]:
    """A mesh as another process can be told it."""
    return {
        "axes": list(mesh.axis_names),
        "shape": list(mesh.devices.shape),
        "devices": [device.id for device in mesh.devices.flat],
    }


def mesh_named(order: Mapping[str, Any]) -> Any:
    """The mesh of `mesh_order`; every process knows the devices of all."""
    import jax
    from jax.sharding import Mesh

    known = {device.id: device for device in jax.devices()}
    devices = np.array([known[number] for number in order["devices"]])
    return Mesh(devices.reshape(order["shape"]), tuple(order["axes"]))
