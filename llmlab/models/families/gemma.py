"""Gemma, the first one (arXiv:2403.08295): Llama's layers with GELU, scales around 0 and a scaled embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import flag
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; the first releases wrote "gelu" where they meant its tanh form."""
    named = config.get("hidden_activation") or config.get("hidden_act")
    config = {**config, "hidden_act": "gelu_pytorch_tanh" if named in (None, "gelu") else named}
    fields = shape_fields(config, max_position=8192, head_dim=256, tied=True)
    bias = flag(config, "attention_bias", False)
    return ModelConfig(
        **fields, qkv_bias=bias, o_bias=bias, norm_offset=1.0, embedding_scale=math.sqrt(fields["hidden_size"])
    )


FAMILY = Family(
    model_types=("gemma",), architectures=("GemmaForCausalLM",), read=read, tensors=tensor_rules, ignored=IGNORED
)
