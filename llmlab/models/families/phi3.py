"""Phi-3, 3.5 and Phi-4-mini: Llama's layers with fused matrices, a window, and a rotation that changes with the length.

`longrope` uses one set of factors in a text of up to `original_max_position_embeddings` tokens, and another beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmlab.models.config import ModelConfig
from llmlab.models.config_json import SLIDING, windows
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, Names, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults

NAMES = Names(qkv="qkv_proj", gate_up="gate_up_proj")

#: The first releases called their rope "su" or "yarn"; it never was another.
ROPE = RopeDefaults(partial=1.0, names={"su": "longrope", "yarn": "longrope"}, original=4096)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; every layer has the window, if there is one."""
    fields = shape_fields(config, max_position=4096, honoured=["sliding_window"], rope=ROPE, eps=1e-5)
    return ModelConfig(**fields, windows=windows(config, [SLIDING] * fields["num_layers"], None))


FAMILY = Family(
    model_types=("phi3",),
    architectures=("Phi3ForCausalLM",),
    read=read,
    tensors=partial(tensor_rules, names=NAMES),
    ignored=IGNORED,
)
