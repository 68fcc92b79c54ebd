"""Write a decoder as an ordinary Hugging Face checkpoint: the inverse of `load`, by the same table."""

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

from llmlab.checkpoints.families import Rule, rules
from llmlab.models.config import ModelConfig
from llmlab.models.transformer import Transformer


def save_checkpoint(folder: Path, *, model: Transformer, config: Mapping[str, Any], dtype: Any = jnp.float32) -> Path:
    """Write config.json and model.safetensors; returns the weights' path.

    Args:
        folder: made if it is not there; a tokenizer already in it stays.
        model: the decoder.
        config: the whole config.json, as transformers reads it; it must describe this decoder.
        dtype: what the weights are stored as.

    Raises:
        ValueError: `config` describes another decoder than `model`.
    """
    read = ModelConfig.from_dict(config)
    if read != model.config:
        raise ValueError(f"config.json would describe {read}, the model is {model.config}")
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    tensors: dict[str, np.ndarray] = {}
    for rule in rules(read):
        value = np.asarray(jax.device_get(flat[rule.path][...])).astype(dtype)
        tensors |= _split(rule, value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    path = folder / "model.safetensors"
    # Not `save_file`: it leaves a file that its owner alone may read.
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
    return path


def _split(rule: Rule, value: np.ndarray) -> dict[str, np.ndarray]:
    sizes = [shape[0] for _, shape in rule.tensors]
    parts = np.split(value, np.cumsum(sizes)[:-1], axis=-1) if len(sizes) > 1 else [value]
    turned = [part.T if rule.transpose else part for part in parts]
    return {name: np.ascontiguousarray(part) for (name, _), part in zip(rule.tensors, turned, strict=True)}
