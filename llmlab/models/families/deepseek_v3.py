"""DeepSeek-V3 and R1 (arXiv:2412.19437), and Kimi K2, which is the same: latent attention, experts in groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import Latent, ModelConfig
from llmlab.models.expert_rules import mixed_rules
from llmlab.models.experts_json import (
    COUNTS,
    TINY_EXPERTS,
    TINY_LATENT,
    deepseek_experts,
    first_dense_layers,
    latent_fields,
    skipped_layers,
)
from llmlab.models.family import Family
from llmlab.models.kv.latent import empty_latent_cache
from llmlab.models.llama_like import IGNORED

#: The sizes where config.json is silent.
LATENT = Latent(rank=512, query_rank=1536, plain=128, rotated=64, value=128)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; the norms within latent attention have their own epsilon, 1e-6."""
    return ModelConfig(
        **latent_fields(config, LATENT, max_position=4096, honoured=COUNTS),
        skipped_layers=skipped_layers(config, 1),
        experts=deepseek_experts(
            config,
            dense=first_dense_layers(config, 3),
            count=256,
            per_token=8,
            units=2048,
            groups=8,
            groups_kept=4,
            scaling=2.5,
        ),
    )


FAMILY = Family(
    model_types=("deepseek_v3", "kimi_k2"),
    architectures=("DeepseekV3ForCausalLM",),
    read=read,
    tensors=mixed_rules,
    ignored=IGNORED,
    empty_cache=empty_latent_cache,
    tiny={**TINY_LATENT, **TINY_EXPERTS, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1},
)
