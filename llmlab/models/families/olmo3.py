"""OLMo 3: OLMo 2's layers, of which three in four have a window; the rotation is stretched on the others only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import FULL, SLIDING, flag, layer_types, windows
from llmlab.models.families.olmo2 import NAMES
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults, read_ropes

ROPE = RopeDefaults(theta=500000.0)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; layers 3, 7, 11, ... see all that came before."""
    kinds = layer_types(config, lambda i: SLIDING if (i + 1) % 4 else FULL)
    fields = shape_fields(
        config, max_position=2048, honoured=["layer_types", "sliding_window"], rope=ROPE.of(FULL), eps=1e-5
    )
    bias = flag(config, "attention_bias", False)
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        windows=windows(config, kinds, 4096),
        ropes=read_ropes(config, kinds, fields, sliding=ROPE),
        norm_before=False,
        norm_after=True,
        qk_norm="width",
    )


FAMILY = Family(
    model_types=("olmo3",),
    architectures=("Olmo3ForCausalLM",),
    read=read,
    tensors=partial(tensor_rules, names=NAMES),
    ignored=IGNORED,
)
