"""GLM-4 0414 (`glm4`, norms before and after each half of a layer) and GLM-4 before it (`glm`, norms before only)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import flag
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, Names, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults

NAMES = Names(
    attention_norm_after="post_self_attn_layernorm",
    feed_forward_norm_after="post_mlp_layernorm",
    gate_up="gate_up_proj",
)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; neighbours of the first half of each head are rotated."""
    fields = shape_fields(
        config, max_position=131072, head_dim=128, rope=RopeDefaults(partial=0.5, interleaved=True), eps=1.5625e-07
    )
    return ModelConfig(
        **fields, qkv_bias=flag(config, "attention_bias", True), norm_after=config.get("model_type") == "glm4"
    )


FAMILY = Family(
    model_types=("glm4", "glm"),
    architectures=("Glm4ForCausalLM", "GlmForCausalLM"),
    read=read,
    tensors=partial(tensor_rules, names=NAMES),
    ignored=IGNORED,
)
