"""StableLM 3B and 2: Llama's layers with LayerNorm, of which a quarter of each head is rotated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import flag
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; where both halves of a layer are parallel, they share a norm."""
    fields = shape_fields(
        config,
        max_position=4096,
        honoured=["use_parallel_residual"],
        rope=RopeDefaults(partial=0.25),
        eps_field="layer_norm_eps",
        eps=1e-5,
    )
    parallel = flag(config, "use_parallel_residual", False)
    return ModelConfig(
        **fields,
        qkv_bias=flag(config, "use_qkv_bias", False),
        norm="layer",
        parallel=parallel,
        feed_forward_norm=not parallel,
    )


FAMILY = Family(
    model_types=("stablelm",),
    architectures=("StableLmForCausalLM",),
    read=read,
    tensors=tensor_rules,
    ignored=IGNORED,
)
