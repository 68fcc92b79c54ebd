"""Llama 2, 3, 3.1, 3.2, 3.3, and the many models that share the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import flag
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: biases where the fields say so, no norms of q and k."""
    bias = flag(config, "attention_bias", False)
    return ModelConfig(
        **shape_fields(config, max_position=2048),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=flag(config, "mlp_bias", False),
    )


FAMILY = Family(
    model_types=("llama",), architectures=("LlamaForCausalLM",), read=read, tensors=tensor_rules, ignored=IGNORED
)
