"""Phi-1.5 and Phi-2: both halves of a layer at once after one LayerNorm, and biases everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, Names, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults

NAMES = Names(norm="final_layernorm", o="dense", up="fc1", down="fc2")


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; a part of each head is rotated."""
    fields = shape_fields(
        config,
        max_position=2048,
        rope=RopeDefaults(partial=0.5),
        activation_default="gelu_new",
        eps_field="layer_norm_eps",
        eps=1e-5,
    )
    if fields["tie_word_embeddings"]:
        raise CheckpointError(
            "config.json: tie_word_embeddings = True is not supported for phi, whose output matrix has a bias",
            param="tie_word_embeddings",
        )
    return ModelConfig(
        **fields,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        head_bias=True,
        norm="layer",
        gated=False,
        parallel=True,
        feed_forward_norm=False,
    )


FAMILY = Family(
    model_types=("phi",),
    architectures=("PhiForCausalLM",),
    read=read,
    tensors=partial(tensor_rules, names=NAMES),
    ignored=IGNORED,
    tiny={"tie_word_embeddings": False},
)
