"""MiniMax-M2: sigmoid routing with a correction and without groups, q and k normed over all heads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.config import Experts, ModelConfig
from llmlab.models.config_json import positive
from llmlab.models.expert_rules import ExpertNames, mixed_rules
from llmlab.models.experts_json import COUNTS, checked, either, only
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields
from llmlab.models.rope_json import RopeDefaults

NAMES = ExpertNames(mixture="block_sparse_moe", correction="e_score_correction_bias", gate="w1", up="w3", down="w2")

#: Fields of published files that say what every decoder of the family does -> what they may say.
_FIXED: dict[str, tuple[Any, ...]] = {
    "use_qk_norm": (True,),
    "qk_norm_type": ("per_layer",),
    "scoring_func": ("sigmoid",),
    "use_routing_bias": (True,),
    "shared_intermediate_size": (0,),
    "layernorm_full_attention_beta": (1,),
    "layernorm_mlp_beta": (1,),
    "sliding_window": (),
}


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; how much of a head is rotated is called `rotary_dim` in published files."""
    for field, values in _FIXED.items():
        only(config, field, values)
    kinds = config.get("attn_type_list")
    if kinds is not None and any(kind != 1 for kind in kinds):
        raise CheckpointError(
            f"config.json: attn_type_list {kinds!r} is not supported; only 1, full attention, is",
            param="attn_type_list",
        )
    size = positive(config, "head_dim", 128)
    if config.get("rotary_dim") is not None and config.get("partial_rotary_factor") is None:
        config = {**config, "partial_rotary_factor": positive(config, "rotary_dim", most=size) / size}
    fields = shape_fields(
        config,
        max_position=196608,
        head_dim=128,
        honoured=["use_qk_norm", *COUNTS],
        rope=RopeDefaults(theta=5e6, partial=1.0),
    )
    return ModelConfig(
        **fields,
        qk_norm="width",
        skipped_layers=positive(config, "num_mtp_modules", 0, least=0),
        experts=checked(
            Experts(
                count=either(config, COUNTS, 256),
                per_token=positive(config, "num_experts_per_tok", 8),
                units=fields["intermediate_size"],
                scoring="sigmoid",
                correction=True,
            )
        ),
    )


FAMILY = Family(
    model_types=("minimax_m2",),
    architectures=("MiniMaxM2ForCausalLM",),
    read=read,
    tensors=partial(mixed_rules, experts=NAMES),
    ignored=IGNORED,
    tiny={"num_local_experts": 8, "num_experts_per_tok": 2},
)
