"""Tensors of safetensors files, read into the caller's memory and not through a mapping of the file.

A mapping would count twice while a model loads: its pages stay resident beside the parameters that were made of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from llmlab.errors import CheckpointError

__all__ = ["SafetensorsSource"]

#: The formats of a safetensors file and their NumPy dtypes; several have no name in NumPy itself.
_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}

#: How such a file begins.
_POINTER = b"version https://git-lfs"
#: The length of a file's header, in front of it as a 64-bit number.
_LENGTH = 8


class _Place(NamedTuple):
    """Where a tensor lies."""

    path: Path
    offset: int  #: bytes from the beginning of the file
    shape: tuple[int, ...]
    stored_as: str


class SafetensorsSource:
    """The tensors of one or several safetensors files.

    Args:
        files: each is opened, and its header checked, at once.

    Raises:
        CheckpointError: a file is truncated or foreign, or two of them hold a tensor of one name.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._places: dict[str, _Place] = {}
        self._files: dict[Path, FileIO] = {}
        try:
            for path in files:
                self._open(path)
        except BaseException:
            self.close()
            raise

    def names(self) -> Collection[str]:
        """The names of all tensors of all files."""
        return self._places.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, by its file's header."""
        return self._places[name].shape

    def stored_as(self, name: str) -> str:
        """The format of a tensor, by its file's header."""
        return self._places[name].stored_as

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._places[name].path

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """The tensor, or some rows of it, in the dtype in which it is stored."""
        path, offset, shape, stored_as = self._places[name]
        if stored_as not in _DTYPES:
            raise CheckpointError(f"{path}: {name} is stored as {stored_as}, which is not read")
        dtype = _DTYPES[stored_as]
        if rows is not None:
            start, stop, _ = rows.indices(shape[0])
            shape = (max(stop - start, 0), *shape[1:])
            offset += start * int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        value = np.empty(shape, dtype)
        room = value.reshape(-1).view(np.uint8).data if value.size else memoryview(b"")
        try:
            self._files[path].seek(offset)
            while room:  # one call may read less than it is asked for
                count = self._files[path].readinto(room)
                if not count:
                    raise CheckpointError(f"{path} ends within {name}; fetch it again")
                room = room[count:]
        except OSError as error:
            raise CheckpointError(f"{path}: {name} cannot be read: {error}") from None
        return value

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()

    def _open(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy"):  # checks the header, the offsets and the file's length
                pass
            file = self._files[path] = path.open("rb", buffering=0)
            length = int.from_bytes(file.read(_LENGTH), "little")
            header = json.loads(file.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            if _is_pointer(path):
                raise CheckpointError(
                    f"{path} is not the file itself but a pointer to it, which git left there: run git lfs pull"
                ) from None
            raise CheckpointError(f"{path} is not a whole safetensors file ({error}); fetch it again") from None
        for name, about in header.items():
            if name == "__metadata__":
                continue
            if name in self._places:
                raise CheckpointError(f"tensor {name} is stored twice, the second time in {path.name}")
            start = _LENGTH + length + about["data_offsets"][0]
            self._places[name] = _Place(path, start, tuple(about["shape"]), about["dtype"])


def _is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in place of a file that it did not fetch."""
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False
