"""GLM-4.5, 4.6 and 4.7 (arXiv:2508.06471): grouped-query attention, DeepSeek-V3's experts in one group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import flag
from llmlab.models.expert_rules import mixed_rules
from llmlab.models.experts_json import COUNTS, TINY_EXPERTS, deepseek_experts, first_dense_layers, skipped_layers
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields
from llmlab.models.rope_json import RopeDefaults


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: half of each head is rotated; q and k are normed per head where it is said."""
    return ModelConfig(
        **shape_fields(
            config,
            max_position=131072,
            honoured=["use_qk_norm", *COUNTS],
            rope=RopeDefaults(partial=0.5),
            eps=1e-5,
        ),
        qkv_bias=flag(config, "attention_bias", False),
        qk_norm="head" if flag(config, "use_qk_norm", False) else "",
        skipped_layers=skipped_layers(config, 1),
        experts=deepseek_experts(
            config, dense=first_dense_layers(config, 1), count=128, per_token=8, units=1408, scaling=1.0
        ),
    )


FAMILY = Family(
    model_types=("glm4_moe",),
    architectures=("Glm4MoeForCausalLM",),
    read=read,
    tensors=mixed_rules,
    ignored=IGNORED,
    tiny=TINY_EXPERTS,
)
