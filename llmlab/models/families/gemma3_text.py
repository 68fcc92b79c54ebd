"""Gemma 3 (arXiv:2503.19786): Gemma 2 without caps, with norms of q and k; five layers in six have a window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import FULL, SLIDING, cap, flag, layer_types, number, positive, windows
from llmlab.models.family import Family
from llmlab.models.llama_like import BESIDE, IGNORED, INSIDE, Names, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults, read_ropes

NAMES = Names(
    attention_norm_after="post_attention_layernorm",
    feed_forward_norm="pre_feedforward_layernorm",
    feed_forward_norm_after="post_feedforward_layernorm",
)

#: The sizes that a published config.json leaves out.
SIZES = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}

GLOBAL = RopeDefaults(theta=1e6)
LOCAL = RopeDefaults(theta=1e4, theta_field="rope_local_base_freq")


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape."""
    config = {**config, **{field: size for field, size in SIZES.items() if config.get(field) is None}}
    every = positive(config, "sliding_window_pattern", 6)
    kinds = layer_types(config, lambda i: SLIDING if (i + 1) % every else FULL)
    fields = shape_fields(
        config,
        max_position=131072,
        head_dim=256,
        honoured=["layer_types", "sliding_window", "final_logit_softcapping"],
        rope=GLOBAL.of(FULL),
        activation_field="hidden_activation",
        activation_default="gelu_pytorch_tanh",
        tied=True,
    )
    bias = flag(config, "attention_bias", False)
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        windows=windows(config, kinds, 4096),
        ropes=read_ropes(config, kinds, fields, sliding=LOCAL),
        attention_scale=number(config, "query_pre_attn_scalar", 256) ** -0.5,
        logit_softcap=cap(config, "final_logit_softcapping"),
        norm_offset=1.0,
        norm_after=True,
        qk_norm="head",
        embedding_scale=math.sqrt(fields["hidden_size"]),
    )


FAMILY = Family(
    model_types=("gemma3_text",),
    architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    inside=("gemma3",),
    read=read,
    tensors=partial(tensor_rules, names=NAMES),
    ignored=(*IGNORED, *BESIDE),
    prefixes=INSIDE,
)
