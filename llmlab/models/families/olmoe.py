"""OLMoE (arXiv:2409.02060): 64 small experts a layer, q and k normed over all heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import Experts, ModelConfig
from llmlab.models.config_json import flag, positive
from llmlab.models.expert_rules import mixed_rules
from llmlab.models.experts_json import COUNTS, checked, either
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: every layer has experts, as wide as `intermediate_size`."""
    bias = flag(config, "attention_bias", False)
    fields = shape_fields(config, max_position=4096, honoured=COUNTS, eps=1e-5)
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        qk_norm="width",
        experts=checked(
            Experts(
                count=either(config, COUNTS, 64),
                per_token=positive(config, "num_experts_per_tok", 8),
                units=fields["intermediate_size"],
                renormalise=flag(config, "norm_topk_prob", False),
            )
        ),
    )


FAMILY = Family(
    model_types=("olmoe",),
    architectures=("OlmoeForCausalLM",),
    read=read,
    tensors=mixed_rules,
    ignored=IGNORED,
    tiny={"num_experts": 8, "num_experts_per_tok": 2},
)
