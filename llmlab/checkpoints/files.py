"""The files of a checkpoint folder: its JSON files, and which of its safetensors files hold the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmlab.checkpoints.folder_notes import adapter_base
from llmlab.checkpoints.sources.safetensors import SafetensorsSource
from llmlab.errors import CheckpointError

__all__ = ["open_weights", "read_json", "weight_files"]

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MOST_NAMED = 5
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin")
#: What peft calls the weights of an adapter.
_ADAPTER_WEIGHTS = "adapter_model.safetensors"


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder.

    Raises:
        CheckpointError: the file is absent or not a JSON object; the message names it.
    """
    path = folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if base := adapter_base(folder):
            raise _adapter(folder, base) from None
        raise CheckpointError(f"{folder} has no {name}; is it a Hugging Face checkpoint folder?") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: model.safetensors, else those that an index names, else all there are.

    A whole file comes first, as in transformers: an index beside it is left over from before a fine-tune was saved.

    Raises:
        CheckpointError: there is none, a shard is missing, or the weights exist only as a pickle, which is never read.
    """
    whole = folder / _WHOLE  # other files may hold the same weights in another layout, or an adapter
    if whole.exists():
        return [whole]
    if shards := sorted(set(_weight_map(folder).values())):
        absent = [name for name in shards if not (folder / name).exists()]
        if absent:
            raise CheckpointError(
                f"{folder / _INDEX} names shards that are missing: {', '.join(absent)}; fetch them again"
            )
        return [folder / name for name in shards]
    files = sorted(path for path in folder.glob("*.safetensors") if path.name != _ADAPTER_WEIGHTS)
    if files:
        return files
    if base := adapter_base(folder):
        raise _adapter(folder, base)
    pickles = sorted({path.name for pattern in _PICKLES for path in folder.glob(pattern)})
    if pickles:
        raise CheckpointError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when read; it is refused: "
            "convert it to safetensors (transformers: model.save_pretrained(folder))"
        )
    raise CheckpointError(f"{folder} has no weights: no *.safetensors file")


def open_weights(folder: Path) -> SafetensorsSource:
    """The tensors of a checkpoint folder, as they are stored. Only headers are read yet.

    Raises:
        CheckpointError: as `weight_files`; a file is damaged, or does not hold a tensor that the index says it does.
    """
    files = weight_files(folder)
    source = SafetensorsSource(files)
    # An index beside a whole file is left over and says nothing.
    index = {} if files == [folder / _WHOLE] else _weight_map(folder)
    wrong = [
        f"{name} in {file}"
        for name, file in index.items()
        if name not in source.names() or source.file(name).name != file
    ]
    if wrong:
        source.close()
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise CheckpointError(
            f"{folder / _INDEX} names tensors that their shards do not hold: {', '.join(wrong[:_MOST_NAMED])}{more}; "
            "the index and the shards are of different checkpoints: fetch both again"
        )
    return source


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name -> file, from the index; {} without one."""
    if not (folder / _INDEX).exists():
        return {}
    named = read_json(folder, _INDEX).get("weight_map") or {}
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError(f"{folder / _INDEX} must map tensors to files under weight_map")
    return named


def _adapter(folder: Path, base: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} is an adapter for {base}, not a model: load that model with the adapter, "
        f"llmlab.load(MODEL, adapter={str(folder)!r})"
    )
