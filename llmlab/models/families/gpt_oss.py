"""gpt-oss (arXiv:2508.10925): experts with biases and an activation of their own, attention sinks, windows of 128."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import Experts, ModelConfig
from llmlab.models.config_json import FULL, SLIDING, flag, layer_types, number, positive, windows
from llmlab.models.expert_rules import mixed_rules
from llmlab.models.experts_json import COUNTS, checked, either, only
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields
from llmlab.models.rope_json import RopeDefaults
from llmlab.models.tensors import Rule, Tensor, under

#: The scaling where config.json has none.
SCALING = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: layers 0, 2, 4, ... have the window; the weights are those of the chosen experts' logits."""
    if not config.get("rope_parameters") and not config.get("rope_scaling"):
        config = {**config, "rope_scaling": SCALING}
    per_token = positive(config, "num_experts_per_tok", 4)
    only(config, "experts_per_token", (per_token,))
    only(config, "hidden_act", ("silu",))
    fields = shape_fields(
        config,
        max_position=131072,
        head_dim=64,
        honoured=["layer_types", "sliding_window", *COUNTS],
        rope=RopeDefaults(theta=150000.0),
        eps=1e-5,
    )
    bias = flag(config, "attention_bias", True)
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        sinks=True,
        windows=windows(config, layer_types(config, lambda i: FULL if i % 2 else SLIDING), 128),
        experts=checked(
            Experts(
                count=either(config, COUNTS, 128),
                per_token=per_token,
                units=fields["intermediate_size"],
                router_bias=True,
                bias=True,
                limit=number(config, "swiglu_limit", 7.0),
                alpha=number(config, "swiglu_alpha", 1.702),
            )
        ),
    )


def mixture(config: ModelConfig, experts: Experts) -> list[Rule]:
    """The rules of a mixture, whose tensors lie as the parameters do."""
    d, f, e = config.hidden_size, experts.units, experts.count
    rules = [
        Rule(("router", "kernel"), (Tensor("router.weight", (e, d)),), transpose=True),
        Rule(("router", "bias"), (Tensor("router.bias", (e,)),)),
        Rule(("gate_up",), (Tensor("experts.gate_up_proj", (e, d, 2 * f)),)),
        Rule(("gate_up_bias",), (Tensor("experts.gate_up_proj_bias", (e, 2 * f)),)),
        Rule(("down",), (Tensor("experts.down_proj", (e, f, d)),)),
        Rule(("down_bias",), (Tensor("experts.down_proj_bias", (e, d)),)),
    ]
    return under("mlp.", ("feed_forward",), rules)


FAMILY = Family(
    model_types=("gpt_oss",),
    architectures=("GptOssForCausalLM",),
    read=read,
    tensors=partial(mixed_rules, mixture=mixture),
    ignored=IGNORED,
    tiny={"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
)
