"""Experts in the OCP's MXFP4 format, as gpt-oss stores them: 32 values of four bits that share an eight-bit exponent.

`X_blocks` [E, out, G, 16] holds two values a byte, the first of them in the lower half; `X_scales` [E, out, G] the
exponents. They are read as `X` [E, in, out], in = 32 G: transposed, as transformers holds the experts of gpt-oss.
Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3 and 5.4.
"""

from __future__ import annotations

from collections.abc import Collection

import ml_dtypes
import numpy as np

from llmlab.checkpoints.sources.protocol import TensorSource
from llmlab.errors import CheckpointError

__all__ = ["Mxfp4Source"]

_BLOCKS, _SCALES = "_blocks", "_scales"
#: The bytes of a block.
_BYTES = 16
#: The bytes that are dequantised at a time.
_PIECE = 1 << 19


def _table() -> np.ndarray:
    """[256] of two float32 side by side: the values of each byte."""
    byte = np.arange(256, dtype=np.uint8)
    halves = np.stack([byte & 0xF, byte >> 4], axis=-1)
    return halves.view(ml_dtypes.float4_e2m1fn).astype(np.float32).view(np.uint64)[:, 0]


class Mxfp4Source:
    """A source whose pairs of `X_blocks` and `X_scales` are one tensor X; all else is passed on as it is.

    Args:
        source: is closed with this source.

    Raises:
        CheckpointError: blocks without scales, or of another shape or format than MXFP4's.
    """

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self._values = _table()
        #: Name -> [E, out, G].
        self._packed: dict[str, tuple[int, int, int]] = {}
        hidden = set()
        for name in source.names():
            if not name.endswith(_BLOCKS):
                continue
            whole = name.removesuffix(_BLOCKS)
            shape, scales = source.shape(name), whole + _SCALES
            held = source.shape(scales) if scales in source.names() else None
            if len(shape) != 4 or shape[3] != _BYTES or held != shape[:3]:
                beside = "nothing" if held is None else list(held)
                raise CheckpointError(
                    f"{name} {list(shape)} is not MXFP4 with {scales} {beside}: [E, out, G, {_BYTES}] with [E, out, G] "
                    "is read; fetch the checkpoint again",
                    param="quantization_config",
                )
            if {source.stored_as(name), source.stored_as(scales)} != {"U8"}:
                raise CheckpointError(
                    f"{name} is stored as {source.stored_as(name)} and {scales} as {source.stored_as(scales)}; MXFP4 "
                    "is read from U8",
                    param="quantization_config",
                )
            self._packed[whole] = shape[0], shape[1], shape[2]
            hidden |= {name, scales}
        self._names = {name: None for name in source.names() if name not in hidden}
        self._names |= dict.fromkeys(self._packed)

    def names(self) -> Collection[str]:
        """The tensors, a packed one by the name of the whole."""
        return self._names.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; [E, in, out] of a packed one."""
        if name not in self._packed:
            return self._source.shape(name)
        experts, out, groups = self._packed[name]
        return experts, groups * 2 * _BYTES, out

    def stored_as(self, name: str) -> str:
        """The format of a tensor; MXFP4 of a packed one."""
        return "MXFP4" if name in self._packed else self._source.stored_as(name)

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A packed tensor, or some experts of it, in float32; any other as it is stored."""
        if name not in self._packed:
            return self._source.read(name, rows)
        count, out, groups = self._packed[name]
        start, stop, _ = slice(None).indices(count) if rows is None else rows.indices(count)
        found = np.empty((max(stop - start, 0), groups * 2 * _BYTES, out), np.float32)
        step = max(_PIECE // (groups * _BYTES), 1)
        for i, whole in enumerate(found):
            one = slice(start + i, start + i + 1)
            blocks = self._source.read(name + _BLOCKS, one)[0]
            scales = self._source.read(name + _SCALES, one)[0].view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
            for row in range(0, out, step):
                some = slice(row, row + step)
                # Every byte is in the table, so that nothing is ever clipped: it is the fastest way to look up.
                values = self._values.take(blocks[some], mode="clip").view(np.float32)
                values *= scales[some, :, None]
                whole[:, some] = values.reshape(len(values), -1).T
        return found

    def close(self) -> None:
        """Closes the source underneath."""
        self._source.close()
