"""SmolLM 3: Llama's layers, of which every fourth does not rotate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.config_json import WINDOW_FIELDS, flag, layer_count, positive, switched_windows
from llmlab.models.family import Family
from llmlab.models.llama_like import IGNORED, shape_fields, tensor_rules
from llmlab.models.rope_json import RopeDefaults


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape; where windows are used, the layers that do not rotate have them."""
    fields = shape_fields(
        config, max_position=32768, honoured=WINDOW_FIELDS, rope=RopeDefaults(theta=2000000.0), tied=True
    )
    rotates = _rotating(config)
    bias = flag(config, "attention_bias", False)
    return ModelConfig(
        **fields,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=flag(config, "mlp_bias", False),
        ropes=tuple(fields["rope"] if rotates[i] else None for i in range(fields["num_layers"])),
        windows=switched_windows(config, lambda i: not rotates[i], None),
    )


def _rotating(config: Mapping[str, Any]) -> list[bool]:
    """Which layers rotate: those that have a 1 in `no_rope_layers`, which is a list of the layers with rope."""
    count = layer_count(config)
    interval = positive(config, "no_rope_layer_interval", 4)
    listed = config.get("no_rope_layers")
    if listed is None:
        return [(i + 1) % interval != 0 for i in range(count)]
    if not isinstance(listed, list) or len(listed) < count or any(one not in (0, 1) for one in listed):
        raise CheckpointError(
            f"config.json: no_rope_layers must be {count} numbers, 1 for a layer that rotates and 0 for one that does "
            f"not, found {listed!r}",
            param="no_rope_layers",
        )
    return [bool(one) for one in listed[:count]]


FAMILY = Family(
    model_types=("smollm3",), architectures=("SmolLM3ForCausalLM",), read=read, tensors=tensor_rules, ignored=IGNORED
)
