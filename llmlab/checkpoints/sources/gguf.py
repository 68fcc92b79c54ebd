"""Tensors of a GGUF file under the names, in the order and with the offsets that config.json's own checkpoints have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from llmlab.checkpoints.gguf.header import Header, Stored
from llmlab.errors import CheckpointError

__all__ = ["GgufSource", "Origin"]

#: What is stored as plain numbers.
_PLAIN = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}
#: The values that are dequantized at a time: the package makes several arrays of as many on its way.
_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Origin:
    """What a tensor is made of.

    Args:
        name: of the tensor in the file.
        head: the rows of a head, if they are stored in pairs (0, H/2, 1, H/2 + 1, ...) as llama.cpp rotates them; 0 for
            rows that are in order.
        added: what was added to the values.
    """

    name: str
    head: int = 0
    added: float = 0.0


class GgufSource:
    """The tensors of a GGUF file, or of the several files of a model.

    Args:
        header: of the file.
        origins: the tensors by the names that they have here; the file's other tensors keep their own names.
    """

    def __init__(self, header: Header, origins: Mapping[str, Origin]) -> None:
        self._header = header
        taken = {origin.name for origin in origins.values()}
        self._origins = dict(origins) | {name: Origin(name) for name in header.tensors if name not in taken}
        self._files: dict[Path, BinaryIO] = {}
        self._open = ExitStack()

    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self._origins.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, by the file's header."""
        return self._stored(name).shape

    def stored_as(self, name: str) -> str:
        """The format of a tensor, by the file's header."""
        return self._stored(name).kind

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """The tensor, or some rows of it, as it is stored if that is a floating-point format, else in float32."""
        origin, stored = self._origins[name], self._stored(name)
        start, stop, _ = (rows or slice(None)).indices(stored.shape[0])
        if start >= stop:
            return np.empty((0, *stored.shape[1:]), np.float32)
        head = origin.head or 1
        first = start // head * head
        value = self._rows(origin.name, first, min(-(-stop // head) * head, stored.shape[0]))
        if origin.head:
            pairs = value.reshape(-1, head // 2, 2, *stored.shape[1:])
            value = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(value.shape)
        value = value[start - first : stop - first]
        return value - np.float32(origin.added) if origin.added else value

    def close(self) -> None:
        """Closes the files."""
        self._open.close()

    def _stored(self, name: str) -> Stored:
        return self._header.tensors[self._origins[name].name]

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Some rows of a tensor of the file."""
        stored = self._header.tensors[name]
        values, size = stored.block
        if len(stored.shape) == 1 and values > 1:  # its blocks lie along the only axis
            return self._dequantized(name, self._bytes(name, 0, stored.size))[start:stop]
        row = prod(stored.shape[1:]) // values * size if len(stored.shape) > 1 else size
        data = self._bytes(name, start * row, (stop - start) * row)
        shape = (stop - start, *stored.shape[1:])
        if stored.kind in _PLAIN:
            return data.view(_PLAIN[stored.kind]).reshape(shape)
        found, data = np.empty(shape, np.float32), data.reshape(stop - start, row)
        step = max(_AT_ONCE // prod(stored.shape[1:]), 1)
        for at in range(0, len(data), step):
            some = self._dequantized(name, data[at : at + step])
            found[at : at + step] = some.reshape(-1, *stored.shape[1:])
        return found

    def _dequantized(self, name: str, data: np.ndarray) -> np.ndarray:
        import gguf

        kind = self._header.tensors[name].kind
        try:
            found: np.ndarray = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
        except NotImplementedError:
            raise CheckpointError(
                f"{self._header.path}: {name} is stored as {kind}, which the installed gguf package does not "
                "dequantize; load the model in another format"
            ) from None
        return found

    def _bytes(self, name: str, offset: int, count: int) -> np.ndarray:
        """Bytes of a tensor, counted from its own first one."""
        stored = self._header.tensors[name]
        data = np.empty(count, np.uint8)
        done = 0
        try:
            if stored.path not in self._files:
                self._files[stored.path] = self._open.enter_context(stored.path.open("rb", buffering=0))
            file = self._files[stored.path]
            file.seek(stored.offset + offset)
            while done < count:  # one call may read less than it is asked for
                found = file.readinto(data[done:].data)  # type: ignore[attr-defined]
                if not found:
                    raise CheckpointError(f"{stored.path} ends within {name}; fetch it again")
                done += found
        except OSError as error:
            raise CheckpointError(f"{stored.path}: {name} cannot be read: {error}") from None
        return data
