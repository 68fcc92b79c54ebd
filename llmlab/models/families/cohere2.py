"""Command R (`cohere`) and R7B (`cohere2`): both halves of a layer at once, LayerNorm without a bias, scaled logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import FULL, SLIDING, flag, layer_types, number, positive, windows
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; in `cohere2` three layers in four have a window, and only they rotate."""
    alternates = config.get("model_type") == "cohere2"
    fields = shape_fields(
        config,
        max_position=8192,
        honoured=["logit_scale", *(("layer_types", "sliding_window") if alternates else ())],
        rope=RopeDefaults(theta=10000.0 if alternates else 500000.0, interleaved=True),
        eps_field="layer_norm_eps",
        eps=1e-5,
        tied=True,
    )
    if alternates:
        every = positive(config, "sliding_window_pattern", 4)
        kinds = layer_types(config, lambda i: SLIDING if (i + 1) % every else FULL)
        sights = windows(config, kinds, 4096)
        rotates = [sights[i] is not None if sights else False for i in range(len(kinds))]
        fields |= {"windows": sights, "ropes": tuple(fields["rope"] if one else None for one in rotates)}
    bias = flag(config, "attention_bias", False)
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        norm="layer",
        norm_bias=False,
        parallel=True,
        feed_forward_norm=False,
        logit_scale=number(config, "logit_scale", 0.0625),
    )


FAMILY = Family(
    model_types=("cohere2", "cohere"),
    architectures=("Cohere2ForCausalLM", "CohereForCausalLM"),
    read=read,
    tensors=tensor_rules,
    ignored=IGNORED,
)
