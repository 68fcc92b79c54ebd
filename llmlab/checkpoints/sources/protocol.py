"""What a loader asks of stored tensors, whatever holds them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["TensorSource"]


@runtime_checkable
class TensorSource(Protocol):
    """Named tensors that are read one by one, or a few rows at a time.

    A source over another source may change names, shapes and values, as one that dequantises does. Opening a source
    reads headers only. What was read is the caller's own memory, and nothing of it is kept.
    """

    def names(self) -> Collection[str]:
        """The names of all tensors; `in` is quick."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` has."""
        ...

    def stored_as(self, name: str) -> str:
        """The format of the tensor's bytes, as its file calls it: "F32", "BF16", "F8_E4M3", "MXFP4", "Q4_K", "I32"."""
        ...

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """The values of a tensor in a floating-point dtype, dequantised where they are stored otherwise.

        Args:
            name: one of `names()`.
            rows: start and stop along the first axis, without a step; None for the whole tensor.

        Raises:
            CheckpointError: the bytes cannot be read, or are damaged; the message names the file and the tensor.
        """
        ...

    def close(self) -> None:
        """Closes the files. Nothing is read afterwards."""
        ...
