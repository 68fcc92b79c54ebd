"""Qwen 3, the dense models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import WINDOW_FIELDS, flag, upper_windows
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: q and k are normed per head, and attention has a bias where the field says so."""
    bias = flag(config, "attention_bias", False)
    fields = shape_fields(config, max_position=32768, head_dim=128, honoured=WINDOW_FIELDS)
    return ModelConfig(**fields, qkv_bias=bias, o_bias=bias, qk_norm="head", windows=upper_windows(config))


FAMILY = Family(
    model_types=("qwen3",), architectures=("Qwen3ForCausalLM",), read=read, tensors=tensor_rules, ignored=IGNORED
)
