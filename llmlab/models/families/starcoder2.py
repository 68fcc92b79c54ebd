"""StarCoder 2 (arXiv:2402.19173): LayerNorm, biases, GELU without a gate, and a window in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import SLIDING, flag, windows
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, Names, shape_fields, tensor_rules

NAMES = Names(up="c_fc", down="c_proj")


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape."""
    fields = shape_fields(
        config,
        max_position=4096,
        honoured=["sliding_window"],
        activation_default="gelu_pytorch_tanh",
        eps_field="norm_epsilon",
        eps=1e-5,
        tied=True,
    )
    bias = flag(config, "use_bias", True)
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        windows=windows(config, [SLIDING] * fields["num_layers"], None),
        norm="layer",
        gated=False,
    )


FAMILY = Family(
    model_types=("starcoder2",),
    architectures=("Starcoder2ForCausalLM",),
    read=read,
    tensors=partial(tensor_rules, names=NAMES),
    ignored=IGNORED,
)
