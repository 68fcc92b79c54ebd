"""What a decoder takes of each device of a mesh, from its shape alone: no weights, no devices.

Shapes come from an abstract evaluation of the decoder itself and of its cache, so that a plan and a loaded model cannot
differ in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from llmlab.errors import RequestError
from llmlab.models.config import ModelConfig
from llmlab.models.families import build_model, cache_bytes
from llmlab.models.parameter import EXPERTS, declared_axes, summed_axis
from llmlab.models.sharding import AXES, array_sharding, divides, fitted

#: Devices by name -> bytes of memory, and bytes a second that it reads: the makers' data sheets.
DEVICES: dict[str, tuple[float, float]] = {
    "T4": (16e9, 320e9),
    "L4": (24e9, 300e9),
    "L40S": (48e9, 864e9),
    "V100-16GB": (16e9, 900e9),
    "V100-32GB": (32e9, 900e9),
    "A10G": (24e9, 600e9),
    "A100-40GB": (40e9, 1555e9),
    "A100-80GB": (80e9, 2039e9),
    "H100-80GB": (80e9, 3350e9),
    "H200": (141e9, 4800e9),
    "B200": (180e9, 8000e9),
    "RTX3090": (24e9, 936e9),
    "RTX4090": (24e9, 1008e9),
    "v2": (8e9, 350e9),
    "v3": (16e9, 450e9),
    "v4": (32e9, 1228e9),
    "v5e": (16e9, 819e9),
    "v5p": (95e9, 2765e9),
    "v6e": (32e9, 1640e9),
}

#: The dtypes of weights that take one byte per number.
_BYTES = ("int8", "fp8")

#: The share of a device's memory that a plan gives away; the rest is for compiled programs and what they compute.
USABLE = 0.9


@dataclass(frozen=True)
class Devices:
    """Some devices of one kind.

    Args:
        name: of the kind.
        count: how many, or 0 where only the kind is known.
        memory: bytes of each.
        bandwidth: bytes a second that each reads from its memory; None where it is not known.
    """

    name: str
    count: int
    memory: float
    bandwidth: float | None


@dataclass(frozen=True)
class Footprint:
    """What a decoder takes of each device.

    Args:
        weights: bytes of the parameters.
        token: bytes of the cache for one position of one row, where the rows are divided over `data`.
        active: bytes of the parameters that one token reads; less than `weights` in a mixture of experts.
    """

    weights: int
    token: int
    active: int


def parse_devices(text: str) -> Devices:
    """Devices as people write them: `8xH100-80GB`, `H200`, `v5e-8`, or `4x48GB` for any other kind.

    Raises:
        RequestError: nothing that is known; the message lists what is.
    """
    names = {name.lower(): name for name in DEVICES}
    found = re.fullmatch(r"\s*(?:(\d+)\s*x\s*)?([a-z0-9-]+?(?:\.\d+gb)?)\s*", text.lower())
    count, name = (int(found[1] or 0), found[2]) if found else (0, "")
    if name not in names and (slice_ := re.fullmatch(r"(v\d\w?)-(\d+)", name)):  # how TPU slices are called
        name, count = slice_[1], int(slice_[2]) * max(count, 1)
    if name in names:
        return Devices(names[name], count, *DEVICES[names[name]])
    if name + "-80gb" in names:
        return Devices(names[name + "-80gb"], count, *DEVICES[names[name + "-80gb"]])
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)gb", name):
        return Devices(f"{size[1]} GB", count, float(size[1]) * 1e9, None)
    raise RequestError(
        f"devices must be like 8xH100-80GB, v5e-8 or 4x48GB, got {text!r}; known are {', '.join(DEVICES)}",
        param="devices",
    )


def abstract_mesh(*, data: int = 1, expert: int = 1, model: int = 1) -> AbstractMesh:
    """A mesh of that many devices, none of which need be there."""
    return AbstractMesh((data, expert, model), AXES)


@lru_cache(maxsize=64)
def _abstract_parameters(config: ModelConfig, dtype: str) -> dict[tuple[Any, ...], Any]:
    module = nnx.eval_shape(lambda: build_model(config, rngs=nnx.Rngs(0), dtype=dtype))
    return dict(nnx.to_flat_state(nnx.state(module)))


@lru_cache(maxsize=1024)
def footprint(config: ModelConfig, mesh: AbstractMesh, *, dtype: str = "bfloat16", cache_dtype: str = "") -> Footprint:
    """The bytes that each device of a mesh holds.

    Args:
        config: the decoder, as its config.json describes it.
        mesh: from `abstract_mesh`.
        dtype: of the weights: a float's name; "int8", one byte per number of a matrix and a float32 scale for each of
            its outputs; or "fp8", how a checkpoint may be stored: one byte per number of a layer's matrices, with a
            float32 scale for each 128 x 128 block.
        cache_dtype: of the cache, and of the parameters that never take one byte. The default "" stands for `dtype`, or
            for bfloat16 where that is int8 or fp8.
    """
    config = fitted(config, mesh)
    wide = (cache_dtype or "bfloat16") if dtype in _BYTES else dtype
    weights, active = 0, 0.0
    for path, slot in _abstract_parameters(config, wide).items():
        axes = declared_axes(slot, path)
        held = prod(array_sharding(mesh, axes, slot.shape).shard_shape(slot.shape))
        summed = summed_axis(slot)
        if dtype == "int8" and summed is not None:
            size = held + 4 * _scales_held(mesh, axes, slot.shape, summed)
        elif dtype == "fp8" and path[0] == "layers" and len(slot.shape) > 1 and slot.dtype == wide:
            size = held + 4 * held // 128**2
        else:  # what is float32 in every decoder, as a router is, stays so
            size = held * slot.dtype.itemsize
        weights += size
        if path != ("embedding",) or config.tie_word_embeddings:  # one row of the table is nothing
            active += size * _read_of(config, slot.shape, axes)
    token = cache_bytes(config, batch=mesh.shape["data"], length=128, dtype=wide, mesh=mesh)
    return Footprint(weights, -(-token // 128), int(active))


def _scales_held(mesh: AbstractMesh, axes: PartitionSpec, shape: tuple[int, ...], summed: int) -> int:
    """How many scales of an int8 parameter a device holds: one for each place along all axes except the summed one."""
    one = list(shape)
    one[summed] = 1
    spread = [*axes, *[None] * (len(shape) - len(axes))]
    spread[summed] = None
    return prod(array_sharding(mesh, PartitionSpec(*spread), tuple(one)).shard_shape(tuple(one)))


def _read_of(config: ModelConfig, shape: tuple[int, ...], axes: Any) -> float:
    """The share of a parameter that one token reads: of experts, those that it is given to."""
    if config.experts is None or axes[0] != EXPERTS:
        return 1.0
    return config.experts.per_token / shape[0]


def meshes(config: ModelConfig, devices: int) -> list[AbstractMesh]:
    """The meshes of exactly that many devices that the decoder divides by, those without copies of the rows first."""
    found = []
    for model in range(devices, 0, -1):
        if devices % model or not divides(config, "model", model):
            continue
        rest = devices // model
        for expert in range(rest, 0, -1):
            if rest % expert == 0 and divides(config, "expert", expert):
                found.append(abstract_mesh(data=rest // expert, expert=expert, model=model))
    return sorted(found, key=lambda mesh: mesh.shape["data"])


def best_mesh(
    config: ModelConfig, devices: int, *, memory: float | None, dtype: str, positions: int
) -> AbstractMesh | None:
    """The mesh of that many devices that copies the weights most often and still fits.

    Rows that are divided over `data` need no communication, so that what fits on fewer devices lies on fewer. None if
    none fits.

    Args:
        config: the decoder.
        devices: how many there are.
        memory: bytes of each; None if that is not known, which then counts as enough.
        dtype: of the weights.
        positions: the positions of cache, over all rows, that must fit beside the weights.
    """
    for mesh in reversed(meshes(config, devices)):
        found = footprint(config, mesh, dtype=dtype)
        if memory is None or found.weights + found.token * positions <= USABLE * memory:
            return mesh
    return None


def least_devices(
    config: ModelConfig, *, memory: float, dtype: str, positions: int, most: int = 1024
) -> AbstractMesh | None:
    """The mesh of the fewest devices, a power of two up to `most`, that fits; None if none does."""
    count = 1
    while count <= most:
        if (mesh := best_mesh(config, count, memory=memory, dtype=dtype, positions=positions)) is not None:
            return mesh
        count *= 2
    return None


def decode_speed(config: ModelConfig, mesh: AbstractMesh, *, bandwidth: float, dtype: str, context: int) -> float:
    """The most tokens a second that one row can get: every step reads its weights and its cache once.

    Communication and computation come on top, so that no engine is faster at batch 1.
    """
    found = footprint(config, mesh, dtype=dtype)
    return bandwidth / (found.active + found.token * context)
