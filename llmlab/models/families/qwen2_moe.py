"""Qwen 1.5 and 2, the mixtures of experts: beside its experts every token gets a feed-forward that has a gate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import Experts, ModelConfig
from llmlab.models.config_json import flag, positive, switched_windows
from llmlab.models.expert_rules import ExpertNames, mixed_rules
from llmlab.models.experts_json import COUNTS, checked, either, stepped_dense_layers
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields

NAMES = ExpertNames(shared="shared_expert")


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: Qwen 2's attention; layers 0, 2, 4, ... below `max_window_layers` may have a window."""
    below = positive(config, "max_window_layers", 28, least=0)
    honoured = ["use_sliding_window", "sliding_window", "layer_types", *COUNTS]
    return ModelConfig(
        **shape_fields(config, max_position=32768, honoured=honoured),
        qkv_bias=flag(config, "qkv_bias", True),
        windows=switched_windows(config, lambda i: i % 2 == 0 and i < below, 4096),
        experts=checked(
            Experts(
                count=either(config, COUNTS, 60),
                per_token=positive(config, "num_experts_per_tok", 4),
                units=positive(config, "moe_intermediate_size", 1408),
                dense_layers=stepped_dense_layers(config),
                renormalise=flag(config, "norm_topk_prob", False),
                shared_units=positive(config, "shared_expert_intermediate_size", 5632),
                shared_gate=True,
            )
        ),
    )


FAMILY = Family(
    model_types=("qwen2_moe",),
    architectures=("Qwen2MoeForCausalLM",),
    read=read,
    tensors=partial(mixed_rules, experts=NAMES),
    ignored=IGNORED,
    tiny={
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24,
    },
)
