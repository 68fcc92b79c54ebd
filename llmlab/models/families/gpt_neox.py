"""GPT-NeoX and Pythia (arXiv:2204.06745): both halves of a layer at once, each after a LayerNorm of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import flag
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, Names, layer_rules, projection, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults
from llmlab.models.tensors import Rule, under

NAMES = Names(
    model="gpt_neox.",
    embedding="embed_in",
    norm="final_layer_norm",
    attention="attention",
    o="dense",
    up="dense_h_to_4h",
    down="dense_4h_to_h",
)

ROPE = RopeDefaults(partial=0.25, theta_field="rotary_emb_base", partial_field="rotary_pct")


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; a quarter of each head is rotated."""
    fields = shape_fields(
        {**config, "num_key_value_heads": None, "head_dim": None},
        max_position=2048,
        honoured=["use_parallel_residual"],
        rope=ROPE,
        activation_default="gelu",
        eps_field="layer_norm_eps",
        eps=1e-5,
    )
    bias = flag(config, "attention_bias", True)
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=True,
        norm="layer",
        gated=False,
        parallel=flag(config, "use_parallel_residual", True),
    )


def tensors(config: ModelConfig) -> list[Rule]:
    """The rules. One tensor holds q, k and v head by head, which is how the decoder holds them too."""
    inner = config.num_heads * config.head_dim
    fused = {"query_key_value": 3 * inner}
    qkv = projection(("attention", "qkv"), fused, inputs=config.hidden_size, bias=config.qkv_bias)

    def layer(_: int) -> list[Rule]:
        apart = [rule for rule in layer_rules(config, NAMES) if rule.path[:2] != ("attention", "qkv")]
        return [*apart, *under("attention.", (), qkv)]

    return tensor_rules(config, names=NAMES, layer=layer)


FAMILY = Family(
    model_types=("gpt_neox",),
    architectures=("GPTNeoXForCausalLM",),
    read=read,
    tensors=tensors,
    ignored=(*IGNORED, "*.attention.bias", "*.attention.masked_bias"),
    prefixes=(("gpt_neox.", ""), ("lm_head.", "embed_out.")),
)
