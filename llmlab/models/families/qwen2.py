"""Qwen 2 and 2.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import WINDOW_FIELDS, upper_windows
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: q, k and v always have a bias, and nothing else has one."""
    fields = shape_fields(config, max_position=32768, honoured=WINDOW_FIELDS)
    return ModelConfig(**fields, qkv_bias=True, windows=upper_windows(config))


FAMILY = Family(
    model_types=("qwen2",), architectures=("Qwen2ForCausalLM",), read=read, tensors=tensor_rules, ignored=IGNORED
)
