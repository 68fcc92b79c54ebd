"""Reads the header of a GGUF file: its metadata, and where its tensors lie.

A large model may be split into several files, whose names end in -00001-of-00003.gguf and so on: the metadata is in the
first one, and each has some of the tensors.

The `gguf` package knows the formats of tensors. Its own reader is not used: it maps the whole file, and takes seconds
for the metadata of a large vocabulary.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llmlab.errors import CheckpointError, short

__all__ = ["Header", "Stored", "read_header", "split_parts"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
#: The kinds of metadata with a fixed size, by their numbers.
_NUMBERS = {
    number: np.dtype(kind)
    for number, kind in {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?"}.items()
} | {number: np.dtype(kind) for number, kind in {10: "<u8", 11: "<i8", 12: "<f8"}.items()}
_STRING, _ARRAY = 8, 9
_MOST_AXES = 4
#: Where tensors begin: at a multiple of so many bytes.
_ALIGNMENT = 32
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MOST_NAMED = 5


@dataclass(frozen=True)
class Stored:
    """A tensor of a file."""

    path: Path  #: the file
    shape: tuple[int, ...]  #: the axis whose values lie side by side is the last one
    kind: str  #: "F32", "Q4_K", ...
    offset: int  #: bytes from the beginning of the file
    block: tuple[int, int]  #: how many values are stored together, and in how many bytes

    @property
    def size(self) -> int:
        """Its bytes."""
        return prod(self.shape) // self.block[0] * self.block[1]


@dataclass(frozen=True)
class Header:
    """What a file says before its tensors.

    Args:
        path: the file; the first one, if there are several.
        metadata: its values by their keys.
        tensors: the tensors by their names, of all files.
        asked: the keys whose values were asked for, so that what nobody asked for can be refused.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    asked: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture; "" if the file has none."""
        return str(self.metadata.get("general.architecture") or "")

    def value(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A value of the metadata; `default` where there is none.

        Raises:
            CheckpointError: it is of another type.
        """
        self.asked.add(key)
        found = self.metadata.get(key, default)
        if found is not default and not (isinstance(found, kind) and (kind is bool or not isinstance(found, bool))):
            raise CheckpointError(f"{self.path}: {key} is {short(found)}, which cannot be; fetch the file again")
        return found


def read_header(path: Path) -> Header:
    """Reads a file up to its first tensor; all parts, if it is a part of a model.

    Raises:
        CheckpointError: the `gguf` package is not installed; the file is truncated or of another format, another part
            of the model is missing, or it holds tensors that cannot be read.
    """
    parts = split_parts(path)
    if absent := [part.name for part in parts if not part.is_file()]:
        more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
        raise CheckpointError(
            f"{path} is one of {len(parts)} parts of a model, and these are missing beside it: "
            f"{', '.join(absent[:_MOST_NAMED])}{more}; fetch them too"
        )
    headers = [_read_file(part) for part in parts]
    for i, header in enumerate(headers):
        count, number = header.value("split.count", int, 1), header.value("split.no", int, 0)
        if max(count, 1) != len(parts) or number != i:
            raise CheckpointError(
                f"{header.path} is part {number + 1} of {count} by its metadata, and its name says "
                f"{f'part {i + 1} of {len(parts)}' if len(parts) > 1 else 'that it is a whole model'}: give the parts "
                "the names that they were published with (NAME-00001-of-00002.gguf)"
            )
    tensors = {name: stored for header in headers for name, stored in header.tensors.items()}
    expected = headers[0].value("split.tensors.count", int, len(tensors))
    if len(tensors) != expected or len(tensors) != sum(len(header.tensors) for header in headers):
        raise CheckpointError(
            f"{path}: its {len(parts)} parts hold {len(tensors)} different tensors, and the model has {expected}; the "
            "parts are of different models: fetch them again"
        )
    return replace(headers[0], tensors=tensors)


def split_parts(path: Path) -> list[Path]:
    """The files of a model by the name of one of them: all parts in order, or the file alone if it is no part."""
    found = _PART.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found["count"])
    return [path.with_name(f"{found['stem']}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)] or [path]


def _read_file(path: Path) -> Header:
    try:
        import gguf
    except ImportError:
        raise CheckpointError(
            f"{path} is a GGUF file, and the gguf package, which knows its formats, is not installed: "
            "pip install 'llmlab[gguf]'"
        ) from None
    try:
        with path.open("rb") as file:
            return _Reader(path, file).header(
                {kind.value: (kind.name, gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
            )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = os.fstat(file.fileno()).st_size

    def header(self, formats: Mapping[int, tuple[str, tuple[int, int]]]) -> Header:
        if (magic := self._file.read(4)) != _MAGIC:
            raise CheckpointError(
                f"{self._path} is no GGUF file: it begins with {magic!r} in place of {_MAGIC!r}; fetch it again, or "
                "name a folder with config.json and safetensors"
            )
        (version,) = self._unpack("<I")
        if version not in _VERSIONS:
            # A file of the other byte order has the number's bytes the other way round.
            what = "is of the other byte order" if version >> 16 else f"is of GGUF version {version}"
            raise CheckpointError(f"{self._path} {what}; read are the versions 2 and 3 in little-endian order")
        tensors, entries = self._unpack("<QQ")
        metadata = {}
        for _ in range(entries):
            key = self._text()
            metadata[key] = self._value(self._unpack("<I")[0])
        found = [self._tensor(formats) for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise CheckpointError(f"{self._path}: general.alignment is {alignment!r}; fetch the file again")
        start = -(-self._file.tell() // alignment) * alignment
        placed = {
            name: Stored(self._path, shape, kind, start + offset, block) for name, shape, kind, offset, block in found
        }
        header = Header(self._path, metadata, placed)
        self._check(header, len(found))
        return header

    def _check(self, header: Header, count: int) -> None:
        if len(header.tensors) != count:
            raise CheckpointError(f"{self._path} has two tensors of one name; fetch it again")
        for name, stored in header.tensors.items():
            if prod(stored.shape[-1:]) % stored.block[0]:
                raise CheckpointError(
                    f"{self._path}: {name} {list(stored.shape)} cannot be stored as {stored.kind}, in blocks of "
                    f"{stored.block[0]}; fetch it again"
                )
            if stored.offset + stored.size > self._size:
                raise CheckpointError(
                    f"{self._path} is truncated: it has {self._size} bytes and {name} ends at "
                    f"{stored.offset + stored.size}; fetch it again"
                )

    def _tensor(self, formats: Mapping[int, tuple[str, tuple[int, int]]]) -> tuple[str, Any, str, int, tuple[int, int]]:
        name = self._text()
        (axes,) = self._unpack("<I")
        if not 1 <= axes <= _MOST_AXES:
            raise CheckpointError(f"{self._path}: {short(name)} has {axes} axes; fetch the file again")
        shape = tuple(reversed(self._unpack(f"<{axes}Q")))
        number, offset = self._unpack("<IQ")
        if number not in formats:
            raise CheckpointError(
                f"{self._path}: {name} is stored in format number {number}, which the installed gguf package does not "
                "know: update it (pip install -U gguf), or load the model in another format"
            )
        return name, shape, formats[number][0], offset, formats[number][1]

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            inner, count = self._unpack("<IQ")
            if inner in _NUMBERS:
                return np.frombuffer(self._bytes(count * _NUMBERS[inner].itemsize), _NUMBERS[inner]).tolist()
            self._fits(8 * count)
            return self._texts(count) if inner == _STRING else [self._value(inner) for _ in range(count)]
        if kind not in _NUMBERS:
            raise CheckpointError(f"{self._path}: its metadata has a value of kind {kind}, which GGUF has not")
        return np.frombuffer(self._bytes(_NUMBERS[kind].itemsize), _NUMBERS[kind])[0].item()

    def _text(self) -> str:
        (length,) = self._unpack("<Q")
        return self._bytes(length).decode("utf-8", "replace")

    def _texts(self, count: int) -> list[str]:
        """So many texts; in few calls, because a vocabulary has hundreds of thousands."""
        read, found = self._file.read, []
        for _ in range(count):
            head = read(8)
            length = int.from_bytes(head, "little")
            text = b"" if length > self._size else read(length)
            if len(head) < 8 or len(text) < length:
                self._fits(self._size)
            found.append(text.decode("utf-8", "replace"))
        return found

    def _unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))

    def _bytes(self, count: int) -> bytes:
        self._fits(count)
        return self._file.read(count)

    def _fits(self, count: int) -> None:
        """Raises CheckpointError if the file has no such number of bytes left."""
        if count > self._size - self._file.tell():
            raise CheckpointError(f"{self._path} is truncated: it ends within its header; fetch it again")
