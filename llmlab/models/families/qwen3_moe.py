"""Qwen 3, the mixtures of experts (arXiv:2505.09388)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import Experts, ModelConfig
from llmlab.models.config_json import flag, positive, switched_windows
from llmlab.models.expert_rules import mixed_rules
from llmlab.models.experts_json import COUNTS, checked, either, stepped_dense_layers
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: Qwen 3's attention; the weights of the chosen experts add up to 1 only where it is said."""
    bias = flag(config, "attention_bias", False)
    honoured = ["use_sliding_window", "sliding_window", "layer_types", *COUNTS]
    return ModelConfig(
        **shape_fields(config, max_position=32768, honoured=honoured),
        qkv_bias=bias,
        o_bias=bias,
        qk_norm="head",
        windows=switched_windows(config, lambda _: True, 4096),
        experts=checked(
            Experts(
                count=either(config, COUNTS, 128),
                per_token=positive(config, "num_experts_per_tok", 8),
                units=positive(config, "moe_intermediate_size", 768),
                dense_layers=stepped_dense_layers(config),
                renormalise=flag(config, "norm_topk_prob", False),
            )
        ),
    )


FAMILY = Family(
    model_types=("qwen3_moe",),
    architectures=("Qwen3MoeForCausalLM",),
    read=read,
    tensors=mixed_rules,
    ignored=IGNORED,
    tiny={"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "mlp_only_layers": [0]},
)
