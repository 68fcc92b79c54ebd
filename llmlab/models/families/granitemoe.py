"""Granite 3, the mixtures of experts: Granite's factors on the embedding, the residual stream and the logits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import Experts, ModelConfig
from llmlab.models.config_json import flag, number, positive
from llmlab.models.expert_rules import mixed_rules
from llmlab.models.experts_json import COUNTS, checked, either
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields
from llmlab.models.tensors import Rule, Tensor, under

FACTORS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: every layer has experts, as wide as `intermediate_size`."""
    bias = flag(config, "attention_bias", False)
    fields = shape_fields(config, max_position=2048, honoured=[*FACTORS, *COUNTS])
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        embedding_scale=number(config, "embedding_multiplier", 1.0),
        residual_scale=number(config, "residual_multiplier", 1.0),
        attention_scale=number(config, "attention_multiplier", 1.0),
        logit_scale=1.0 / number(config, "logits_scaling", 1.0),
        experts=checked(
            Experts(
                count=either(config, COUNTS, 8),
                per_token=positive(config, "num_experts_per_tok", 2),
                units=fields["intermediate_size"],
            )
        ),
    )


def mixture(config: ModelConfig, experts: Experts) -> list[Rule]:
    """The rules of a mixture: all experts lie in one tensor, gate and up one after the other."""
    d, f, e = config.hidden_size, experts.units, experts.count
    both, down = Tensor("input_linear.weight", (e, 2 * f, d)), Tensor("output_linear.weight", (e, d, f))
    rules = [
        Rule(("router", "kernel"), (Tensor("router.layer.weight", (e, d)),), transpose=True),
        Rule(("gate_up",), (both,), transpose=True, groups=f, parts=(f, f)),
        Rule(("down",), (down,), transpose=True),
    ]
    return under("block_sparse_moe.", ("feed_forward",), rules)


FAMILY = Family(
    model_types=("granitemoe",),
    architectures=("GraniteMoeForCausalLM",),
    read=read,
    tensors=partial(mixed_rules, mixture=mixture),
    ignored=IGNORED,
    tiny={"num_local_experts": 4, "attention_multiplier": 0.3},
)
