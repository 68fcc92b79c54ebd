"""Eight-bit floating-point weights with scales beside them, multiplied out while they are read.

The weight `W` [out, in] is stored as float8 with a scale that many of its values share: one per tensor, one per output
channel, or one per block of 128 x 128 (DeepSeek-V3, arXiv:2412.19437, section 3.3.2). Blocks at the right and lower
edge may be smaller. Either way the weight is value x scale, in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import ceil, prod

import ml_dtypes
import numpy as np

from llmlab.checkpoints.sources.protocol import TensorSource
from llmlab.errors import CheckpointError

__all__ = ["Fp8Source", "stray_scale"]

#: Formats of weights that need a scale, with the value of each of their 256 bytes. A table is eight times as fast as
#: the conversion of ml_dtypes.
_VALUES = {
    name: np.arange(256, dtype=np.uint8).view(kind).astype(np.float32)
    for name, kind in {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}.items()
}
#: What the name of a scale adds to its weight's: W = value x scale in both, whatever "inv" says.
_SCALES = ("_scale_inv", "_scale")
#: Scales for the quantisation of activations and of the cache, which are kept in full precision here.
_ACTIVATIONS = ("input_scale", "activation_scale", "output_scale", "k_scale", "v_scale", "q_scale")
#: The exponent of a scale that is stored as a byte, 2 ** (byte - 127), as in the OCP's microscaling formats.
_BIAS = 127
#: The values that are multiplied at a time.
_PIECE = 1 << 20
#: Blocks of so many rows are multiplied block by block; those of fewer, many at a time.
_TALL = 16
_MOST_NAMED = 5


@dataclass(frozen=True)
class _Scale:
    """Where a weight's scales lie and how many of its rows and columns share one."""

    name: str
    shape: tuple[int, ...]  #: [..., rows of blocks, columns of blocks]
    rows: int
    columns: int


class Fp8Source:
    """A source whose float8 weights are multiplied by their scales; all else is passed on as it is.

    Args:
        source: holds each weight as `X` and its scales as `X_scale_inv` or `X_scale`. It is closed with this source.
        block: the rows and columns that share a scale where there is one per block.

    Raises:
        CheckpointError: a float8 weight has no scale, or one of another shape.
    """

    def __init__(self, source: TensorSource, *, block: tuple[int, int] | None) -> None:
        self._source = source
        self._scales: dict[str, _Scale] = {}
        problems = []
        for name in source.names():
            if source.stored_as(name) in _VALUES:
                found = self._scale(name, block)
                if isinstance(found, _Scale):
                    self._scales[name] = found
                else:
                    problems.append(found)
        if problems:
            more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
            raise CheckpointError(
                f"float8 weights do not fit their scales: {'; '.join(problems[:_MOST_NAMED])}{more}; fetch the "
                "checkpoint again",
                param="quantization_config",
            )
        used = {scale.name for scale in self._scales.values()}
        self._names = {
            name: None
            for name in source.names()
            if name not in used and not name.rpartition(".")[2].endswith(_ACTIVATIONS)
        }

    def names(self) -> Collection[str]:
        """The weights, without their scales."""
        return self._names.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight."""
        return self._source.shape(name)

    def stored_as(self, name: str) -> str:
        """The format of a weight, without its scale."""
        return self._source.stored_as(name)

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A weight x its scales in float32, or a tensor that has none as it is stored."""
        scale = self._scales.get(name)
        stored = self._source.read(name, rows)
        if scale is None:
            return stored
        values, shape = _VALUES[self.stored_as(name)], self.shape(name)
        first = 0 if rows is None else rows.indices(shape[0])[0]
        found = np.empty(stored.shape, np.float32)
        grid = self._grid(scale, first, first + len(stored), matrix=len(shape) == 2)
        for place, factors in _pieces(found.shape, grid, scale, first=first if len(shape) == 2 else 0):
            # Every byte is in the table, so that nothing is ever clipped: it is the fastest way to look up.
            np.take(values, stored[place].view(np.uint8), mode="clip", out=found[place])
            found[place] *= factors
        return found

    def close(self) -> None:
        """Closes the source underneath."""
        self._source.close()

    def _scale(self, name: str, block: tuple[int, int] | None) -> _Scale | str:
        """The scale of a weight, or what is wrong with it."""
        names = [name + ending for ending in _SCALES if name + ending in self._source.names()]
        shape = self._source.shape(name)
        if not names:
            return f"{name}{list(shape)} has no {name}{_SCALES[0]} beside it"
        held = self._source.shape(names[0])
        if len(shape) < 2:
            return f"{name}{list(shape)} is no matrix"
        *lead, out, width = shape
        if prod(held) == 1:
            return _Scale(names[0], (*[1] * len(lead), 1, 1), out, width)
        if held in ((*lead, out, 1), (*lead, out)):
            return _Scale(names[0], (*lead, out, 1), 1, width)
        if held in ((*lead, 1, 1), (*lead,)) and lead:
            return _Scale(names[0], (*lead, 1, 1), out, width)
        if block is not None and held == (*lead, ceil(out / block[0]), ceil(width / block[1])):
            return _Scale(names[0], held, *block)
        blocks = "" if block is None else f" in blocks of {block[0]} x {block[1]}"
        return f"{names[0]}{list(held)} does not belong to {name}{list(shape)}{blocks}"

    def _grid(self, scale: _Scale, start: int, stop: int, *, matrix: bool) -> np.ndarray:
        """The scales of the rows from `start` to `stop` of the first axis, in float32."""
        held = self._source.read(scale.name).reshape(scale.shape)
        if not matrix and held.shape[0] > 1:
            held = held[start:stop]
        if held.dtype == np.uint8:
            return np.exp2(held.astype(np.float32) - _BIAS)
        return held.astype(np.float32)


def stray_scale(source: TensorSource) -> str | None:
    """The name of a scale that lies beside a float8 weight; None if there is none."""
    names = source.names()
    return next(
        (
            name + ending
            for name in names
            if source.stored_as(name) in _VALUES
            for ending in _SCALES
            if name + ending in names
        ),
        None,
    )


def _pieces(
    shape: tuple[int, ...], grid: np.ndarray, scale: _Scale, *, first: int
) -> Iterator[tuple[tuple[int | slice, ...], np.ndarray]]:
    """The places of a weight, a few rows each, with their factors; `first` is the number of row 0."""
    *lead, out, width = shape
    step = max(_PIECE // max(width, 1), 1)
    columns = np.arange(width) // scale.columns  # not np.repeat: a block at the edge is narrower than the others
    for index in np.ndindex(*lead):
        of_block = grid[tuple(min(i, n - 1) for i, n in zip(index, grid.shape[: len(lead)], strict=True))]
        row = 0
        while row < out:
            stop = min(row + step, out)
            if scale.rows >= _TALL:  # up to the end of the blocks: one line of factors is for all rows
                stop = min(stop, row + scale.rows - (first + row) % scale.rows)
                factors = of_block[(first + row) // scale.rows][None, :]
            else:
                factors = of_block[(np.arange(row, stop) + first) // scale.rows]
            yield (*index, slice(row, stop)), factors if factors.shape[1] == 1 else factors[:, columns]
            row = stop
