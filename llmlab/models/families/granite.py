"""Granite 3 and 4 dense models: Llama's layers, with a factor at every place where the numbers could grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import flag, number
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules

MULTIPLIERS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; logits are divided by `logits_scaling`."""
    bias = flag(config, "attention_bias", False)
    embedding, attention, residual, logits = (number(config, field, 1.0) for field in MULTIPLIERS)
    return ModelConfig(
        **shape_fields(config, max_position=2048, honoured=MULTIPLIERS),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=flag(config, "mlp_bias", False),
        embedding_scale=embedding,
        attention_scale=attention,
        residual_scale=residual,
        logit_scale=1.0 / logits,
    )


FAMILY = Family(
    model_types=("granite",), architectures=("GraniteForCausalLM",), read=read, tensors=tensor_rules, ignored=IGNORED
)
