"""Mistral 7B, Nemo and Small: Llama's layers, whose attention may see a window only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import layer_types, windows
from llmlab.models.family import Family
from llmlab.models.llama_like import BESIDE, IGNORED, INSIDE, shape_fields, tensor_rules


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: every layer has the window, 4096 tokens where nothing is said and none where it is null."""
    kinds = layer_types(config, lambda _: "sliding_attention")
    return ModelConfig(
        **shape_fields(config, max_position=4096 * 32, honoured=["layer_types", "sliding_window"]),
        windows=windows(config, kinds, 4096),
    )


FAMILY = Family(
    model_types=("mistral",),
    architectures=("MistralForCausalLM",),
    inside=("mistral3",),
    read=read,
    tensors=tensor_rules,
    ignored=(*IGNORED, *BESIDE),
    prefixes=INSIDE,
)
