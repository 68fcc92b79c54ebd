"""Ministral 3: Mistral's layers with a stretched rotation, and queries that grow with their position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import SLIDING, layer_types, windows
from llmlab.models.family import Family
from llmlab.models.llama_like import BESIDE, IGNORED, INSIDE, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults

#: The rotation where config.json says nothing of it.
ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; every layer has the window, if there is one."""
    if not config.get("rope_parameters") and not config.get("rope_scaling"):
        config = {**config, "rope_parameters": ROPE}
    kinds = layer_types(config, lambda _: SLIDING)
    fields = shape_fields(
        config,
        max_position=262144,
        head_dim=128,
        honoured=["layer_types", "sliding_window"],
        rope=RopeDefaults(scales_queries=True),
        eps=1e-5,
    )
    return ModelConfig(**fields, windows=windows(config, kinds, None))


FAMILY = Family(
    model_types=("ministral3",),
    architectures=("Ministral3ForCausalLM",),
    inside=("mistral3",),
    read=read,
    tensors=tensor_rules,
    ignored=(*IGNORED, *BESIDE),
    prefixes=INSIDE,
)
