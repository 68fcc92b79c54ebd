"""From a folder with config.json and safetensors to a decoder on the device."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from llmlab.checkpoints.families import EMBEDDING, HEAD, Rule, rules, unused
from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.sharding import parameter_sharding
from llmlab.models.transformer import Transformer

_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin")
_MOST_PROBLEMS = 12
#: Rows of a table that are held at a time while two are compared.
_ROWS = 8192


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object from the folder; a CheckpointError that names the file where it is absent or broken."""
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
    """The safetensors files of a checkpoint: those its index names, else model.safetensors, else all there are.

    Raises:
        CheckpointError: none, a shard that is missing, or weights that exist only as a pickle, which is never read.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = read_json(folder, index.name).get("weight_map") or {}
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise CheckpointError(f"{index} must map tensors to files under weight_map")
        shards = sorted(set(named.values()))
        absent = [name for name in shards if not (folder / name).exists()]
        if absent:
            raise CheckpointError(f"{index} names shards that are not there: {', '.join(absent)}")
        if shards:
            return [folder / name for name in shards]
    whole = folder / "model.safetensors"  # beside it may lie the same weights in another layout, or an adapter
    files = [whole] if whole.exists() else sorted(folder.glob("*.safetensors"))
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
    """Build the decoder that config.json describes and fill it from the folder's safetensors.

    Every missing, surplus or misshapen tensor is found before anything is put on the device, and all are told at once.
    `progress` is told (bytes loaded, bytes in all). With a `mesh` each parameter is spread over its devices, or lies on
    all of them.

    Raises:
        CheckpointError: see the message; nothing was loaded.
    """
    config = ModelConfig.from_dict(read_json(folder, "config.json"))
    module = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0), dtype=dtype))
    graph, abstract = nnx.split(module)
    flat = dict(nnx.to_flat_state(abstract))
    with ExitStack() as stack:
        tensors = _open(weight_files(folder), stack)
        table = rules(config)
        if config.tie_word_embeddings and HEAD in tensors and EMBEDDING not in tensors:  # stored once, by that name
            table[0] = table[0]._replace(tensors=tuple((HEAD, shape) for _, shape in table[0].tensors))
        _check(folder, tensors, table, config)
        total = config.parameters * np.dtype(dtype).itemsize
        done = 0
        for rule in table:
            value = _read(rule, tensors, folder).astype(dtype)
            slot = flat[rule.path]
            if slot.shape != value.shape:
                raise CheckpointError(f"{'.'.join(map(str, rule.path))} is {value.shape}, expected {slot.shape}")
            where = None if mesh is None else parameter_sharding(mesh, rule.path, value.shape)
            flat[rule.path] = slot.replace(jax.device_put(value, where))
            done += value.nbytes
            if progress:
                progress(done, total)
    return config, nnx.merge(graph, nnx.from_flat_state(list(flat.items())))


def _open(files: list[Path], stack: ExitStack) -> dict[str, Any]:
    """Tensor name -> the open file that holds it. Nothing but headers is read yet."""
    held: dict[str, Any] = {}
    for path in files:
        try:
            # Memory-mapped, and as numpy: a tensor reaches the host's memory when it is asked for, and once.
            handle = stack.enter_context(safe_open(path, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a whole safetensors file ({error}); fetch it again") from None
        for name in handle.keys():  # noqa: SIM118 - a safe_open handle is not a mapping
            if name in held:
                raise CheckpointError(f"tensor {name} is stored twice, the second time in {path.name}")
            held[name] = handle
    return held


def _check(folder: Path, tensors: dict[str, Any], table: list[Rule], config: ModelConfig) -> None:
    wanted = {name: shape for rule in table for name, shape in rule.tensors}
    problems = list(_problems(tensors, wanted, config)) or list(_contradictions(tensors, config))
    if problems:
        more = f"\n  ... and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise CheckpointError(
            f"the weights in {folder} do not fit its config.json:\n  " + "\n  ".join(problems[:_MOST_PROBLEMS]) + more
        )


def _problems(tensors: dict[str, Any], wanted: dict[str, tuple[int, ...]], config: ModelConfig) -> Iterator[str]:
    for name, shape in wanted.items():
        if name not in tensors:
            yield f"missing: {name} {list(shape)}"
            continue
        held = tensors[name].get_slice(name)
        if tuple(held.get_shape()) != shape:
            yield f"misshapen: {name} is {list(held.get_shape())}, config.json implies {list(shape)}"
        if held.get_dtype() not in ("F32", "F16", "BF16", "F64"):
            yield f"unreadable: {name} is stored as {held.get_dtype()}; only floating-point weights are read"
    for name in sorted(tensors.keys() - wanted.keys()):
        if not unused(name, config):
            yield f"surplus: {name}"


def _contradictions(tensors: dict[str, Any], config: ModelConfig) -> Iterator[str]:
    """An output matrix that is said to be the embedding, and stored as another: readers differ in what they believe."""
    if not (config.tie_word_embeddings and {EMBEDDING, HEAD} <= tensors.keys()):
        return
    one, other = (tensors[name].get_slice(name) for name in (EMBEDDING, HEAD))
    count = config.vocab_size
    same = one.get_shape() == other.get_shape() and all(
        np.array_equal(one[row : min(row + _ROWS, count)], other[row : min(row + _ROWS, count)])
        for row in range(0, count, _ROWS)
    )
    if not same:
        yield f"contradictory: {HEAD} is not {EMBEDDING}, but tie_word_embeddings is true: set it false, or drop {HEAD}"


def _read(rule: Rule, tensors: dict[str, Any], folder: Path) -> np.ndarray:
    try:
        parts = [tensors[name].get_tensor(name) for name, _ in rule.tensors]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{rule.tensors[0][0]} in {folder} cannot be read: {error}") from None
    if rule.transpose:
        parts = [part.T for part in parts]
    return np.concatenate(parts, axis=-1) if len(parts) > 1 else np.ascontiguousarray(parts[0])
