"""OLMo 2 (arXiv:2501.00656): norms after each half of a layer instead of before, and q and k normed over all heads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import flag
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, Names, shape_fields, tensor_rules

NAMES = Names(
    attention_norm_after="post_attention_layernorm",
    feed_forward_norm_after="post_feedforward_layernorm",
)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape."""
    bias = flag(config, "attention_bias", False)
    return ModelConfig(
        **shape_fields(config, max_position=2048, eps=1e-5),
        qkv_bias=bias,
        o_bias=bias,
        norm_before=False,
        norm_after=True,
        qk_norm="width",
    )


FAMILY = Family(
    model_types=("olmo2",),
    architectures=("Olmo2ForCausalLM",),
    read=read,
    tensors=partial(tensor_rules, names=NAMES),
    ignored=IGNORED,
)
