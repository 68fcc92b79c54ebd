"""Gemma 2 (arXiv:2408.00118): norms before and after, bent logits, every other layer with a window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import cap, flag, layer_types, number, windows
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, Names, shape_fields, tensor_rules

NAMES = Names(
    attention_norm_after="post_attention_layernorm",
    feed_forward_norm="pre_feedforward_layernorm",
    feed_forward_norm_after="post_feedforward_layernorm",
)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; layers 0, 2, 4, ... have the window."""
    fields = shape_fields(
        config,
        max_position=8192,
        head_dim=256,
        honoured=["layer_types", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping"],
        activation_field="hidden_activation",
        activation_default="gelu_pytorch_tanh",
        tied=True,
    )
    bias = flag(config, "attention_bias", False)
    kinds = layer_types(config, lambda i: "full_attention" if i % 2 else "sliding_attention")
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        windows=windows(config, kinds, 4096),
        attention_scale=number(config, "query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=cap(config, "attn_logit_softcapping", 50.0),
        logit_softcap=cap(config, "final_logit_softcapping", 30.0),
        norm_offset=1.0,
        norm_after=True,
        embedding_scale=math.sqrt(fields["hidden_size"]),
    )


FAMILY = Family(
    model_types=("gemma2",),
    architectures=("Gemma2ForCausalLM",),
    read=read,
    tensors=partial(tensor_rules, names=NAMES),
    ignored=IGNORED,
)
