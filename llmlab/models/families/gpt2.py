"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases everywhere, and matrices that are stored turned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.config_json import activation, flag, number, positive, refuse_unsupported
from llmlab.models.family import Family
from llmlab.models.llama_like import Names, tensor_rules

NAMES = Names(
    model="transformer.",
    embedding="wte",
    positions="wpe",
    layers="h",
    norm="ln_f",
    attention="attn",
    attention_norm="ln_1",
    feed_forward_norm="ln_2",
    qkv="c_attn",
    o="c_proj",
    up="c_fc",
    down="c_proj",
    transpose=False,
)

MOST_LAYERS = 10_000


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape, of which `config.json` has its own names; there is no position after `n_positions`."""
    refuse_unsupported(config)
    width, heads, layers = (positive(config, field) for field in ("n_embd", "n_head", "n_layer"))
    if width % heads:
        raise CheckpointError(f"config.json: n_embd {width} is not a multiple of n_head {heads}", param="n_head")
    layers = positive(config, "n_layer", most=MOST_LAYERS)
    return ModelConfig(
        vocab_size=positive(config, "vocab_size", 50257),
        hidden_size=width,
        intermediate_size=positive(config, "n_inner", 4 * width),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        max_position=positive(config, "n_positions", 1024),
        rms_norm_eps=number(config, "layer_norm_epsilon", 1e-5),
        hidden_act=activation(config, "activation_function", "gelu_new"),
        ropes=(None,) * layers,
        tie_word_embeddings=flag(config, "tie_word_embeddings", True),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        attention_scale=None if flag(config, "scale_attn_weights", True) else 1.0,
        attention_scale_by_layer=flag(config, "scale_attn_by_inverse_layer_idx", False),
        norm="layer",
        gated=False,
        learned_positions=True,
    )


FAMILY = Family(
    model_types=("gpt2",),
    architectures=("GPT2LMHeadModel",),
    read=read,
    tensors=partial(tensor_rules, names=NAMES),
    # The masks, which old checkpoints hold.
    ignored=("*.attn.bias", "*.attn.masked_bias"),
    prefixes=(("transformer.", ""),),
    tiny={"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 512},
)
