"""A checkpoint as a value, whatever it lies in: a folder of safetensors, or a GGUF file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.checkpoints.files import open_weights, read_json
from llmlab.checkpoints.folder_notes import folder_notes
from llmlab.checkpoints.gguf.config import config_json, open_source
from llmlab.checkpoints.gguf.header import read_header, split_parts
from llmlab.checkpoints.gguf.tokenizer import read_tokenizer
from llmlab.checkpoints.sources.protocol import TensorSource
from llmlab.checkpoints.sources.quantized import check_quantization, dequantized, quantization_note
from llmlab.errors import CheckpointError
from llmlab.text.tokenizer import Tokenizer

__all__ = ["Checkpoint", "open_checkpoint"]

_PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Checkpoint:
    """What a model is loaded from. Opening one reads its configuration only.

    Args:
        path: the folder or file.
        config: the parsed config.json, or what it would say.
        open_weights: opens the tensors, under the names that a checkpoint of this config.json has.
        read_tokenizer: reads the tokenizer.
        notes: remarks for the banner, one line each.
    """

    path: Path
    config: Mapping[str, Any]
    open_weights: Callable[[], TensorSource]
    read_tokenizer: Callable[[], Tokenizer]
    notes: tuple[str, ...] = ()


def open_checkpoint(path: Path) -> Checkpoint:
    """A folder with config.json and safetensors, a GGUF file, or a folder that holds one, as a checkpoint.

    Raises:
        CheckpointError: it is neither, or is damaged; the message says what to do.
    """
    if path.is_file():
        return _gguf(path)
    inside = _gguf_in(path)
    return _folder(path) if inside is None else _gguf(inside)


def _gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds no safetensors; None if it holds some, or no such file."""
    # A file of what sees images lies beside that of the model.
    files = sorted(path for path in folder.glob("*.gguf") if not path.name.startswith("mmproj"))
    models = list(dict.fromkeys(split_parts(path)[0] for path in files))
    if not models or any(folder.glob("*.safetensors")):
        return None
    if len(models) > 1:
        raise CheckpointError(
            f"{folder} holds {len(models)} models in GGUF files: name the file of one of them, as {models[0]}; there "
            f"are {', '.join(path.name for path in models)}"
        )
    return models[0]


def _folder(path: Path) -> Checkpoint:
    about = read_json(path, "config.json")

    def weights() -> TensorSource:
        check_quantization(about)
        stored = open_weights(path)
        try:
            return dequantized(stored, about)
        except BaseException:
            stored.close()
            raise

    return Checkpoint(
        path, about, weights, lambda: Tokenizer.load(path), (*quantization_note(about), *folder_notes(path))
    )


def _gguf(path: Path) -> Checkpoint:
    header = read_header(path)
    about = config_json(header)
    kinds: Counter[str] = Counter()
    for stored in header.tensors.values():
        kinds[stored.kind] += stored.size
    (most, _), *_ = kinds.most_common() or [("F32", 0)]
    about["dtype"] = _PLAIN.get(most, "float32")
    note = () if most in _PLAIN else (f"the weights are stored as {most} and were dequantized at load",)
    return Checkpoint(path, about, lambda: open_source(header, about), lambda: read_tokenizer(header), note)
