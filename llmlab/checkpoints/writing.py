"""Writes safetensors files one tensor at a time: the sizes are known before the values, so none have to be held."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

__all__ = ["INDEX", "WHOLE", "write_weights"]

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARDS = "model-*-of-*.safetensors"
_NAMES = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}
#: What transformers asks of a file's header.
_ABOUT = {"format": "pt"}
#: The values begin at a multiple of so many bytes.
_ALIGNED = 8
#: What a file is called until it is whole.
_UNFINISHED = ".unfinished"


def write_weights(
    folder: Path,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    tensors: Iterable[np.ndarray],
    *,
    dtype: np.dtype,
    shard_bytes: int,
) -> Path:
    """Writes tensors as model.safetensors, or as shards with an index where they are larger than one shard may be.

    The files appear once all of them are whole, and take the place of weights that were there. Returns the path of the
    file or of the index.

    Args:
        folder: exists.
        shapes: the name and shape of every tensor.
        tensors: the tensors, in this order; each is read when it is written.
        dtype: float32, float16 or bfloat16.
        shard_bytes: the most bytes of tensors in a file; a larger tensor has a file of its own.
    """
    files = _divided(shapes, dtype.itemsize, shard_bytes)
    count = len(files)
    names = [WHOLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    values = iter(tensors)
    unfinished = [folder / (name + _UNFINISHED) for name in names]
    try:
        for path, held in zip(unfinished, files, strict=True):
            _write(path, held, values, dtype)
    except BaseException:
        for path in unfinished:
            path.unlink(missing_ok=True)
        raise
    for path, name in zip(unfinished, names, strict=True):
        os.replace(path, folder / name)
    for old in [folder / WHOLE, folder / INDEX, *folder.glob(_SHARDS)]:
        if old.name not in names:
            old.unlink(missing_ok=True)
    if count == 1:
        return folder / WHOLE
    total = sum(prod(shape) for _, shape in shapes) * dtype.itemsize
    where = {tensor: name for name, held in zip(names, files, strict=True) for tensor, _ in held}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return folder / INDEX


def _divided(
    shapes: Sequence[tuple[str, tuple[int, ...]]], itemsize: int, most: int
) -> list[list[tuple[str, tuple[int, ...]]]]:
    """The tensors of each file, in order."""
    files: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    held = 0
    for name, shape in shapes:
        size = prod(shape) * itemsize
        if files[-1] and held + size > most:
            files.append([])
            held = 0
        files[-1].append((name, shape))
        held += size
    return files


def _write(
    path: Path, held: Sequence[tuple[str, tuple[int, ...]]], values: Iterator[np.ndarray], dtype: np.dtype
) -> None:
    header: dict[str, object] = {"__metadata__": _ABOUT}
    end = 0
    for name, shape in held:
        start, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, shape), value in zip(held, values, strict=False):
            if value.shape != shape or value.dtype != dtype:
                raise ValueError(f"{name} is {value.shape} of {value.dtype}, and was announced as {shape} of {dtype}")
            if value.size:
                file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
