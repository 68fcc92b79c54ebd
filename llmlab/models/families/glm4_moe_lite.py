"""GLM-4.7-Flash: latent attention and experts as in DeepSeek-V3, in one group."""

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
LATENT = Latent(rank=512, query_rank=768, plain=192, rotated=64, value=256)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; the norms within latent attention have their own epsilon, 1e-6."""
    return ModelConfig(
        **latent_fields(config, LATENT, max_position=202752, honoured=COUNTS, eps=1e-5),
        skipped_layers=skipped_layers(config, 1),
        experts=deepseek_experts(
            config, dense=first_dense_layers(config, 1), count=64, per_token=4, units=1536, scaling=1.8
        ),
    )


FAMILY = Family(
    model_types=("glm4_moe_lite",),
    architectures=("Glm4MoeLiteForCausalLM",),
    read=read,
    tensors=mixed_rules,
    ignored=IGNORED,
    empty_cache=empty_latent_cache,
    tiny={**TINY_LATENT, **TINY_EXPERTS},
)
