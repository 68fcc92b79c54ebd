"""Writes a decoder as an ordinary Hugging Face checkpoint: the inverse of `load`, by the same rules."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from llmlab.checkpoints.placing import check_range
from llmlab.checkpoints.writing import INDEX, write_weights
from llmlab.errors import RequestError
from llmlab.models.families import decoder_config, family_of, read_config
from llmlab.models.tensors import Rule, Tensor
from llmlab.models.transformer import Transformer

__all__ = ["save_checkpoint", "save_model"]

#: The most bytes of tensors in a file, as on the hub.
SHARD_BYTES = 5_000_000_000

#: What weights can be saved as.
DTYPES = ("float32", "bfloat16", "float16")

#: What is copied of a checkpoint folder beside its weights: tokenizer, chat templates, generation_config.json.
_COPIED = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "additional_chat_templates/*.jinja")
#: What is not: what is written anew, and what belongs to other weights.
_LEFT = ("config.json", INDEX, "adapter_config.json", "hf_quant_config.json")


def save_checkpoint(
    folder: Path,
    *,
    model: Transformer,
    config: Mapping[str, Any],
    dtype: DTypeLike = jnp.float32,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes config.json and the weights, which take the place of those that are there.

    Returns the path of the weights: model.safetensors, or the index of its shards. Parameters are fetched from their
    devices one by one.

    Args:
        folder: created if it does not exist; a tokenizer in it is kept.
        model: the decoder.
        config: the whole config.json, as transformers reads it; it must describe this decoder. Of a larger model
            around it, the decoder's part is written.
        dtype: what the weights are stored as: one of `DTYPES`.
        shard_bytes: the most bytes in a file; larger weights are several files with an index.

    Raises:
        ValueError: `config` describes another decoder than `model`.
        CheckpointError: a value that `dtype` does not reach.
    """
    config = decoder_config(config)
    read = read_config(config)
    if read != replace(model.config, kv_copies=1):
        raise ValueError(f"config.json would describe {read}, the model is {model.config}")
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    rules = family_of(read).tensors(model.config)
    folder.mkdir(parents=True, exist_ok=True)
    written = write_weights(
        folder,
        [(tensor.name, tensor.shape) for tensors, _ in _sharing(rules) for tensor in tensors],
        _tensors(flat, rules, np.dtype(dtype)),
        dtype=np.dtype(dtype),
        shard_bytes=shard_bytes,
    )
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    return written


def save_model(
    folder: Path,
    *,
    model: Transformer,
    config: Mapping[str, Any],
    dtype: str,
    source: Path | None,
    tokenizer: Any,
    ends: Sequence[int],
) -> Path:
    """Writes a decoder with its tokenizer, chat template and generation_config.json; returns the folder.

    Args:
        folder: as in `save_checkpoint`.
        model: the decoder.
        config: the config.json that it was loaded with.
        dtype: one of `DTYPES`.
        source: the folder that it was loaded from, whose files are copied; None to write the tokenizer anew.
        tokenizer: of the transformers package.
        ends: the tokens that end an answer.

    Raises:
        RequestError: another dtype; the folder is the model's own, or a file.
        CheckpointError: as in `save_checkpoint`.
    """
    folder = folder.expanduser()
    if dtype not in DTYPES:
        raise RequestError(
            f"dtype: a model is saved as one of {', '.join(map(repr, DTYPES))}, got {dtype!r}", param="dtype"
        )
    if source is not None and folder.exists() and folder.samefile(source):
        raise RequestError(
            f"{folder} is the folder that the model was loaded from; save it to another one", param="folder"
        )
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; name a folder to save the model in", param="folder")
    save_checkpoint(folder, model=model, config=_saved_config(decoder_config(config), dtype=dtype), dtype=dtype)
    if source is not None:
        _copy_texts(source, folder)
    else:
        tokenizer.save_pretrained(folder)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(ends)}) + "\n", "utf-8")
    return folder


def _saved_config(config: Mapping[str, Any], *, dtype: str) -> dict[str, Any]:
    """The config.json of a checkpoint once its weights are stored as `dtype`: without a quantization."""
    kept = {name: value for name, value in config.items() if name not in ("quantization_config", "compression_config")}
    return {**kept, "dtype": dtype, **({"torch_dtype": dtype} if "torch_dtype" in kept else {})}


def _copy_texts(source: Path, folder: Path) -> None:
    """Copies what a checkpoint folder holds beside its weights and config.json; what is there already is replaced."""
    for path in sorted({path for pattern in _COPIED for path in source.glob(pattern)}):
        if path.name not in _LEFT:
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _tensors(flat: Mapping[tuple[Any, ...], nnx.Variable], rules: list[Rule], dtype: np.dtype) -> Iterator[np.ndarray]:
    for tensors, sharing in _sharing(rules):
        parts = [np.empty(tensor.shape, dtype) for tensor in tensors]
        for rule in sharing:
            value = np.asarray(jax.device_get(flat[rule.path][...]))
            check_range(value, dtype, rule.tensors[0].name)
            rule.split(value.astype(dtype, copy=False), parts)
        yield from parts


def _sharing(rules: Iterable[Rule]) -> Iterator[tuple[tuple[Tensor, ...], Iterator[Rule]]]:
    """Some tensors, and the rules of the parameters that are made of them, which follow each other."""
    return groupby(rules, lambda rule: rule.tensors)
