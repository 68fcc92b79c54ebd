"""DeepSeek-V2 and V2-Lite (arXiv:2405.04434): latent attention, softmax routing, two shared experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.config import Experts, Latent, ModelConfig
from llmlab.models.config_json import flag, number, positive
from llmlab.models.expert_rules import mixed_rules
from llmlab.models.experts_json import (
    COUNTS,
    TINY_EXPERTS,
    TINY_LATENT,
    checked,
    either,
    first_dense_layers,
    latent_fields,
    only,
)
from llmlab.models.family import Family
from llmlab.models.kv.latent import empty_latent_cache
from llmlab.models.llama_like import IGNORED

#: The sizes where config.json is silent.
LATENT = Latent(rank=512, query_rank=1536, plain=128, rotated=64, value=128)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; experts are chosen from the groups with the best expert, or from all."""
    only(config, "moe_layer_freq", (1,))
    only(config, "scoring_func", ("softmax",))
    only(config, "norm_topk_prob", (False,))
    only(config, "rope_interleave", (True,))
    method = config.get("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise CheckpointError(
            f"config.json: topk_method must be 'greedy' or 'group_limited_greedy', found {method!r}",
            param="topk_method",
        )
    grouped = method != "greedy"
    units = positive(config, "moe_intermediate_size", 1407)
    return ModelConfig(
        **latent_fields(config, LATENT, max_position=2048, honoured=COUNTS),
        mlp_bias=flag(config, "mlp_bias", False),
        experts=checked(
            Experts(
                count=either(config, COUNTS, 64),
                per_token=positive(config, "num_experts_per_tok"),
                units=units,
                dense_layers=first_dense_layers(config, 0),
                renormalise=False,
                groups=positive(config, "n_group") if grouped else 1,
                groups_kept=positive(config, "topk_group") if grouped else 1,
                scaling=number(config, "routed_scaling_factor", 1.0),
                shared_units=units * positive(config, "n_shared_experts", 2),
            )
        ),
    )


FAMILY = Family(
    model_types=("deepseek_v2",),
    architectures=("DeepseekV2ForCausalLM",),
    read=read,
    tensors=mixed_rules,
    ignored=IGNORED,
    empty_cache=empty_latent_cache,
    tiny={**TINY_LATENT, **TINY_EXPERTS, "q_lora_rank": None, "first_k_dense_replace": 1},
)
