"""Puts one parameter on its devices, out of the tensors that it is made of, a few rows at a time.

Each device's share is assembled in memory that is allocated once, at an address that a CPU device takes over without a
copy. So a model needs little more than its own size while it loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jax.typing import DTypeLike
from numpy.lib.stride_tricks import as_strided

from llmlab.checkpoints.sources.protocol import TensorSource
from llmlab.errors import CheckpointError
from llmlab.models.int8 import Int8, rounded
from llmlab.models.tensors import Rule, Run

__all__ = ["check_range", "load_int8", "load_parameter", "row_pieces"]

#: The values that are read at a time: few enough for a processor's cache, where the axes are exchanged.
_PIECE = 1 << 20
#: The weights that are rounded to int8 at a time: rows that are read at once.
_ROUNDED = _PIECE
#: What XLA wants of the address of an array, in bytes; an array anywhere else is copied.
_ALIGNED = 64


@dataclass(frozen=True)
class _Share:
    """The part of a parameter that one device holds, or several of them."""

    place: tuple[slice, ...]  #: in the parameter, a start and a stop for each axis
    value: np.ndarray
    devices: list[Any]


def load_parameter(
    source: TensorSource, rule: Rule, *, dtype: DTypeLike, sharding: Sharding | None = None
) -> jax.Array:
    """Reads a parameter and puts it where it belongs. No process reads what none of its devices holds.

    Args:
        source: has the rule's tensors, in the shapes that it says.
        rule: of the parameter.
        dtype: of the parameter.
        sharding: where it lies; None for all of it on the default device.

    Raises:
        CheckpointError: a tensor cannot be read, or has values that `dtype` does not reach.
    """
    shares = _shares(rule.shape, dtype, sharding)
    _fill(shares, source, rule)
    return _put(shares, rule.shape, sharding)


def load_int8(
    source: TensorSource,
    rule: Rule,
    *,
    summed: int,
    dtype: DTypeLike,
    sharding: NamedSharding | None = None,
    turned: bool = False,
) -> Int8:
    """Reads a parameter, rounds it to int8 a few outputs at a time, and puts it where it belongs, with its scales.

    It is never in memory as floats, except for those few outputs. Their scales are those of all inputs, also where the
    inputs are divided over devices, so that a mesh does not change a weight.

    Args:
        source: as in `load_parameter`.
        rule: of the parameter.
        summed: the axis that a product with it sums over, counted from the end.
        dtype: of the activations.
        sharding: as in `load_parameter`.
        turned: whether the last two axes are exchanged in memory, as `Int8.turned` says.

    Raises:
        CheckpointError: as in `load_parameter`.
    """
    shape, axis = rule.shape, len(rule.shape) + summed
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    alike = None
    if sharding is not None:
        spec = [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]
        spec[axis] = None
        alike = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    values, scales = _shares(shape, np.int8, sharding, turned=turned), _shares(one, np.float32, alike)
    for scale in scales:
        for block in _blocks(scale.place, inputs=shape[axis]):
            inputs = (*block[:axis], slice(0, shape[axis]), *block[axis + 1 :])
            floats = _Share(inputs, _aligned([part.stop - part.start for part in inputs], np.float32), [])
            _fill([floats], source, rule)
            numbers, found = rounded(floats.value, summed=summed)
            scale.value[_within(block, scale.place)] = found
            for share in values:
                held = (*block[:axis], share.place[axis], *block[axis + 1 :])
                if share.place[:axis] + share.place[axis + 1 :] == scale.place[:axis] + scale.place[axis + 1 :]:
                    share.value[_within(held, share.place)] = numbers[_within(held, inputs)]
    numbers_held = _put(values, shape, sharding, turned=turned)
    return Int8(numbers_held, _put(scales, one, alike), jnp.dtype(dtype), turned)


def _shares(
    shape: tuple[int, ...], dtype: DTypeLike, sharding: Sharding | None, *, turned: bool = False
) -> list[_Share]:
    """The parts of a parameter that this process's devices hold, without values; turned, it lies on one device."""
    if sharding is None:
        place = tuple(slice(0, size) for size in shape)
        if turned:
            return [_Share(place, _aligned((*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2), [])]
        return [_Share(place, _aligned(shape, dtype), [])]
    held: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        ends = tuple(part.indices(size)[:2] for part, size in zip(index or (), shape, strict=True))
        held.setdefault(ends, []).append(device)
    shares = []
    for ends, devices in held.items():
        size = tuple(stop - start for start, stop in ends)
        shares.append(_Share(tuple(slice(start, stop) for start, stop in ends), _aligned(size, dtype), devices))
    return shares


def _put(shares: list[_Share], shape: tuple[int, ...], sharding: Sharding | None, *, turned: bool = False) -> jax.Array:
    if sharding is None:
        value = jax.device_put(shares[0].value.swapaxes(-1, -2) if turned else shares[0].value)
    else:
        pieces = [jax.device_put(share.value, device) for share in shares for device in share.devices]
        value = jax.make_array_from_single_device_arrays(shape, sharding, pieces)
    # The host's memory is free again before the next parameter is read.
    return jax.block_until_ready(value)


def _blocks(place: tuple[slice, ...], *, inputs: int) -> Iterator[tuple[slice, ...]]:
    """A part of a parameter's scales in blocks, along its longest axis; each is of about `_ROUNDED` weights."""
    sizes = [part.stop - part.start for part in place]
    axis = int(np.argmax(sizes))
    step = max(_ROUNDED // max(inputs * prod(sizes) // sizes[axis], 1), 1)
    for start in range(place[axis].start, place[axis].stop, step):
        block = slice(start, min(start + step, place[axis].stop))
        yield (*place[:axis], block, *place[axis + 1 :])


def _within(inner: tuple[slice, ...], outer: tuple[slice, ...]) -> tuple[slice, ...]:
    """Where a part lies in the values of a larger one."""
    return tuple(
        slice(one.start - other.start, one.stop - other.start) for one, other in zip(inner, outer, strict=True)
    )


def row_pieces(shape: Sequence[int]) -> Iterator[slice]:
    """The rows of a tensor, as many at a time as are read at a time."""
    step = max(_PIECE // max(prod(shape[1:]), 1), 1)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


@dataclass(frozen=True)
class _Copy:
    """Some rows of a tensor, as far as a share has room for them."""

    run: Run
    target: np.ndarray  #: the share's values along all axes but the last
    index: tuple[slice, ...]  #: of these values in the rows, once they are turned, along all axes but the last
    outputs: tuple[int, int]  #: of the run
    start: int  #: where the run's output 0 is along the last axis of the rows; below 0 if it is not among them
    place: int  #: the share's beginning along the last axis of the parameter

    def __call__(self, turned: np.ndarray) -> None:
        run, (low, high) = self.run, self.outputs
        values = turned[self.index]
        while low < high:
            inside = low % run.count
            # A piece of a group, or as many whole groups as there are.
            whole = inside == 0 and high - low >= run.count
            size = (high - low) // run.count * run.count if whole else min(run.count - inside, high - low)
            groups, count = (size // run.count, run.count) if whole else (1, size)
            at = low // run.count * run.width + run.before + inside - self.place
            span = self.target[..., at : at + (groups - 1) * run.width + count]
            *strides, one = span.strides
            to = as_strided(span, (*span.shape[:-1], groups, count), (*strides, run.width * one, one))
            of = values[..., self.start + low : self.start + low + size]
            to[...] = of.reshape(to.shape)
            low += size


def _fill(shares: list[_Share], source: TensorSource, rule: Rule) -> None:
    """Writes the stored tensors into the shares."""
    runs: dict[int, list[Run]] = {}
    for run in rule.runs():
        runs.setdefault(run.tensor, []).append(run)
    for i, tensor in enumerate(rule.tensors):
        for rows in row_pieces(tensor.shape):
            found = (_copy(rule, run, tensor.shape, rows, share) for run in runs[i] for share in shares)
            copies = [copy for copy in found if copy is not None]
            if not copies:
                continue
            piece = source.read(tensor.name, rows)
            check_range(piece, copies[0].target.dtype, tensor.name)
            for copy in copies:
                copy(rule.turned(piece))


def _copy(rule: Rule, run: Run, shape: tuple[int, ...], rows: slice, share: _Share) -> _Copy | None:
    """What a share takes of some rows of a tensor; None if that is nothing."""
    target, place = share.value, share.place
    if run.lot is not None:
        if not place[0].start <= run.lot < place[0].stop:
            return None
        target, place = target[run.lot - place[0].start], place[1:]
    *leading, last = place
    # The axis that the rows are along, once the tensor is turned.
    along = len(shape) - 1 if rule.transpose and len(shape) == 2 else 0
    to, of = [], []
    for axis, wanted in enumerate(leading):
        begin, end = (rows.start, rows.stop) if axis == along else (0, wanted.stop)
        start, stop = max(wanted.start, begin), min(wanted.stop, end)
        if start >= stop:
            return None
        to.append(slice(start - wanted.start, stop - wanted.start))
        of.append(slice(start - begin, stop - begin))
    low, high = run.outputs(last.start, last.stop)
    begin = 0
    if along == len(leading):
        begin = rows.start
        low, high = max(low, rows.start - run.start), min(high, rows.stop - run.start)
    if low >= high:
        return None
    return _Copy(run, target[tuple(to)], tuple(of), (low, high), run.start - begin, last.start)


def check_range(values: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Refuses values that become infinite in `dtype`.

    Raises:
        CheckpointError: names the tensor and the dtypes that reach them.
    """
    if dtype == np.float16 and values.dtype != np.float16 and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise CheckpointError(
            f"{name} has values beyond 65504, the largest of float16; use dtype='bfloat16' or 'float32'",
            param="dtype",
        )


def _aligned(shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
    """An array without values, at an address that XLA takes over."""
    count = prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(count + _ALIGNED, np.uint8)
    start = -room.ctypes.data % _ALIGNED
    return room[start : start + count].view(dtype).reshape(shape)
