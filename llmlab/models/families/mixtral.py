"""Mixtral (arXiv:2401.04088): Mistral's layers with two of eight experts a token."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import Experts, ModelConfig
from llmlab.models.config_json import SLIDING, layer_types, positive, windows
from llmlab.models.expert_rules import ExpertNames, mixed_rules
from llmlab.models.experts_json import COUNTS, checked, either
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields
from llmlab.models.rope_json import RopeDefaults

NAMES = ExpertNames(mixture="block_sparse_moe", gate="w1", up="w3", down="w2")


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape: every layer has experts, and a window where one is given."""
    fields = shape_fields(
        config,
        max_position=4096 * 32,
        honoured=["layer_types", "sliding_window", *COUNTS],
        rope=RopeDefaults(theta=1e6),
        eps=1e-5,
    )
    return ModelConfig(
        **fields,
        windows=windows(config, layer_types(config, lambda _: SLIDING), None),
        experts=checked(
            Experts(
                count=either(config, COUNTS, 8),
                per_token=positive(config, "num_experts_per_tok", 2),
                units=fields["intermediate_size"],
            )
        ),
    )


FAMILY = Family(
    model_types=("mixtral",),
    architectures=("MixtralForCausalLM",),
    read=read,
    tensors=partial(mixed_rules, experts=NAMES),
    ignored=IGNORED,
    tiny={"num_local_experts": 4},
)
