"""Nemotron-4 and Minitron (arXiv:2402.16819): squared ReLU without a gate, LayerNorm with scales around 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import flag
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; the first half of each head is rotated."""
    bias = flag(config, "attention_bias", False)
    fields = shape_fields(
        config,
        max_position=4096,
        rope=RopeDefaults(partial=0.5),
        activation_default="relu2",
        eps_field="norm_eps",
        eps=1e-5,
    )
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=flag(config, "mlp_bias", False),
        norm="layer",
        norm_offset=1.0,
        gated=False,
    )


FAMILY = Family(
    model_types=("nemotron",), architectures=("NemotronForCausalLM",), read=read, tensors=tensor_rules, ignored=IGNORED
)
