"""Writes a decoder as an ordinary Hugging Face checkpoint: the inverse of `load`, by the same rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save

from llmlab.models.families import family_of, read_config
from llmlab.models.transformer import Transformer


def save_checkpoint(folder: Path, *, model: Transformer, config: Mapping[str, Any], dtype: Any = jnp.float32) -> Path:
    """Writes config.json and model.safetensors; returns the path of the weights.

    Args:
        folder: created if it does not exist; a tokenizer in it is kept.
        model: the decoder.
        config: the whole config.json, as transformers reads it; it must describe this decoder.
        dtype: what the weights are stored as.

    Raises:
        ValueError: `config` describes another decoder than `model`.
    """
    read = read_config(config)
    if read != model.config:
        raise ValueError(f"config.json would describe {read}, the model is {model.config}")
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    tensors: dict[str, np.ndarray] = {}
    for rule in family_of(read).tensors(read):
        value = np.asarray(jax.device_get(flat[rule.path][...])).astype(dtype)
        names = [tensor.name for tensor in rule.tensors]
        tensors |= dict(zip(names, rule.split(value), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    path = folder / "model.safetensors"
    # Not `save_file`: it leaves a file that only its owner may read.
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
    return path
