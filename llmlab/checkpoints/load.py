"""Loads a decoder onto the device from a folder with config.json and safetensors files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.families import build_model, family_of, read_config
from llmlab.models.parameter import declared_axes
from llmlab.models.sharding import parameter_sharding
from llmlab.models.tensors import Rule, Tensor
from llmlab.models.transformer import Transformer

_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin")
_MOST_PROBLEMS = 12
#: The rows that are read at a time while two stored tables are compared.
_ROWS = 8192


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder.

    Raises:
        CheckpointError: the file is absent or not a JSON object; the message names it.
    """
    path = folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
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
    whole = folder / "model.safetensors"  # other files may hold the same weights in another layout, or an adapter
    if whole.exists():
        return [whole]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = read_json(folder, index.name).get("weight_map") or {}
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise CheckpointError(f"{index} must map tensors to files under weight_map")
        shards = sorted(set(named.values()))
        absent = [name for name in shards if not (folder / name).exists()]
        if absent:
            raise CheckpointError(f"{index} names shards that are missing: {', '.join(absent)}")
        if shards:
            return [folder / name for name in shards]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted({path.name for pattern in _PICKLES for path in folder.glob(pattern)})
    if pickles:
        raise CheckpointError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when read; it is refused: "
            "convert it to safetensors (transformers: model.save_pretrained(folder))"
        )
    raise CheckpointError(f"{folder} has no weights: no *.safetensors file")


def load_model(
    folder: Path, *, dtype: DTypeLike, progress: Callable[[int, int], None] | None = None, mesh: Mesh | None = None
) -> tuple[ModelConfig, Transformer]:
    """Builds the decoder that config.json describes and fills it from the folder's safetensors.

    Every missing, surplus or misshapen tensor is found before anything is put on the device, and one error names them
    all.

    Args:
        folder: the checkpoint.
        dtype: of the parameters on the device.
        progress: called with (bytes loaded, bytes in total) after each parameter.
        mesh: the devices that the parameters are spread over, as each declares; None for one device.

    Raises:
        CheckpointError: see the message; nothing was loaded.
    """
    config = read_config(read_json(folder, "config.json"))
    module = nnx.eval_shape(lambda: build_model(config, rngs=nnx.Rngs(0), dtype=dtype))
    graph, abstract = nnx.split(module)
    flat = dict(nnx.to_flat_state(abstract))
    for path, slot in flat.items():
        declared_axes(slot, path)
    with ExitStack() as stack:
        tensors = _open(weight_files(folder), stack)
        table = [_by_stored_names(rule, tensors) for rule in family_of(config).tensors(config)]
        _check(folder, tensors, table, config)
        total = sum(prod(tensor.shape) for rule in table for tensor in rule.tensors) * np.dtype(dtype).itemsize
        done = 0
        for rule in table:
            value = _read(rule, tensors, folder).astype(dtype)
            slot = flat[rule.path]
            if slot.shape != value.shape:
                raise CheckpointError(f"{'.'.join(map(str, rule.path))} is {value.shape}, expected {slot.shape}")
            where = None if mesh is None else parameter_sharding(mesh, slot, rule.path)
            flat[rule.path] = slot.replace(jax.device_put(value, where))
            done += value.nbytes
            if progress:
                progress(done, total)
    return config, nnx.merge(graph, nnx.from_flat_state(list(flat.items())))


def _by_stored_names(rule: Rule, tensors: dict[str, Any]) -> Rule:
    """The rule with the other name of a tied tensor where the checkpoint holds it by that name alone."""
    named = (
        replace(tensor, name=tensor.tied, tied=None)
        if tensor.tied in tensors and tensor.name not in tensors
        else tensor
        for tensor in rule.tensors
    )
    return replace(rule, tensors=tuple(named))


def _open(files: list[Path], stack: ExitStack) -> dict[str, Any]:
    """Tensor name -> the open file that holds it. Only headers are read yet."""
    held: dict[str, Any] = {}
    for path in files:
        try:
            # Memory-mapped and read as numpy: a tensor reaches the host's memory when it is asked for, and only once.
            handle = stack.enter_context(safe_open(path, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a whole safetensors file ({error}); fetch it again") from None
        for name in handle.keys():  # noqa: SIM118 - a safe_open handle is not a mapping
            if name in held:
                raise CheckpointError(f"tensor {name} is stored twice, the second time in {path.name}")
            held[name] = handle
    return held


def _check(folder: Path, tensors: dict[str, Any], table: list[Rule], config: ModelConfig) -> None:
    wanted = [tensor for rule in table for tensor in rule.tensors]
    ignored = family_of(config).ignored
    problems = list(_problems(tensors, wanted, ignored)) or list(_contradictions(tensors, wanted))
    if problems:
        more = f"\n  ... and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise CheckpointError(
            f"the weights in {folder} do not fit its config.json:\n  " + "\n  ".join(problems[:_MOST_PROBLEMS]) + more
        )


def _problems(tensors: dict[str, Any], wanted: list[Tensor], ignored: Sequence[str]) -> Iterator[str]:
    for name, shape in ((tensor.name, tensor.shape) for tensor in wanted):
        if name not in tensors:
            yield f"missing: {name} {list(shape)}"
            continue
        held = tensors[name].get_slice(name)
        if tuple(held.get_shape()) != shape:
            yield f"misshapen: {name} is {list(held.get_shape())}, config.json implies {list(shape)}"
        if held.get_dtype() not in ("F32", "F16", "BF16", "F64"):
            yield f"unreadable: {name} is stored as {held.get_dtype()}; only floating-point weights are read"
    known = {tensor.name for tensor in wanted} | {tensor.tied for tensor in wanted}
    for name in sorted(tensors.keys() - known):
        if not any(fnmatchcase(name, pattern) for pattern in ignored):
            yield f"surplus: {name}"


def _contradictions(tensors: dict[str, Any], wanted: list[Tensor]) -> Iterator[str]:
    """Tied tensors that are stored twice and differ: which of the two counts depends on the program that reads them."""
    for tensor in wanted:
        if tensor.tied not in tensors:
            continue
        one, other = (tensors[name].get_slice(name) for name in (tensor.name, tensor.tied))
        count = tensor.shape[0]
        same = one.get_shape() == other.get_shape() and all(
            np.array_equal(one[row : min(row + _ROWS, count)], other[row : min(row + _ROWS, count)])
            for row in range(0, count, _ROWS)
        )
        if not same:
            yield (
                f"contradictory: {tensor.tied} is not {tensor.name}, but tie_word_embeddings is true: "
                f"set it to false, or remove {tensor.tied}"
            )


def _read(rule: Rule, tensors: dict[str, Any], folder: Path) -> np.ndarray:
    try:
        return rule.join([tensors[tensor.name].get_tensor(tensor.name) for tensor in rule.tensors])
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{rule.tensors[0].name} in {folder} cannot be read: {error}") from None
