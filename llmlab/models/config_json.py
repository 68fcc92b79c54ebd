"""Readers for the fields of `config.json`, which the families put together.

A field is either read, known to change nothing at inference, or refused. A checkpoint whose configuration asks for a
computation that the decoder does not do must fail at load; it must never answer with wrong numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.config import Rope
from llmlab.models.layers import ACTIVATIONS

#: Field -> the values that change nothing. A family that honours a field says so; any other value is refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
    "is_causal": (True,),
    "partial_rotary_factor": (1, 1.0, None),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1, 1.0),
    "residual_multiplier": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0),
    "attention_multiplier": (None,),
    "clip_qkv": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "is_encoder_decoder": (False, None),
    "cross_attention_hidden_size": (None,),
}

#: No size of a decoder comes near this.
_LARGEST = 2**31 - 1

#: The context that rope scaling is measured from. It stands at the top of config.json, or beside the rope's type.
_ORIGINAL = "original_max_position_embeddings"

_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def positive(config: Mapping[str, Any], field: str, default: int | None = None) -> int:
    """The value of a field that must be a positive integer; `default` where the field is absent or null.

    Raises:
        CheckpointError: any other value, or no value and no default.
    """
    value = default if config.get(field) is None else config[field]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise CheckpointError(f"config.json: {field} must be a positive integer, found {value!r}", param=field)
    return value


def number(config: Mapping[str, Any], field: str, default: float) -> float:
    """The value of a field that must be a number above 0; `default` where the field is absent or null.

    Raises:
        CheckpointError: any other value.
    """
    value = default if config.get(field) is None else config[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise CheckpointError(f"config.json: {field} must be a number above 0, found {value!r}", param=field)
    return float(value)


def flag(config: Mapping[str, Any], field: str, default: bool) -> bool:
    """The value of a field that must be true or false; `default` where the field is absent or null.

    Raises:
        CheckpointError: any other value.
    """
    value = default if config.get(field) is None else config[field]
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {field} must be true or false, found {value!r}", param=field)
    return value


def activation(config: Mapping[str, Any], field: str = "hidden_act", default: str = "silu") -> str:
    """The name of the feed-forward activation.

    Raises:
        CheckpointError: an activation that `models.layers` does not have.
    """
    name = config.get(field) or default
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise CheckpointError(f"config.json: {field} {name!r} is not supported", param=field)
    return name


def refuse_unsupported(config: Mapping[str, Any], *, honoured: Collection[str] = ()) -> None:
    """Refuses fields that ask for a computation which the decoder does not do.

    Args:
        config: the parsed config.json.
        honoured: fields that the family reads itself, which are therefore not refused.

    Raises:
        CheckpointError: names the field and its value.
    """
    for field, neutral in _NEUTRAL.items():
        if field in config and field not in honoured and config[field] not in neutral:
            raise CheckpointError(
                f"config.json: {field} = {config[field]!r} asks for a computation that is not supported", param=field
            )
    layers = config.get("layer_types") or ["full_attention"]
    if "layer_types" in honoured:
        return
    if not isinstance(layers, list | tuple) or any(kind != "full_attention" for kind in layers):
        raise CheckpointError(
            f"config.json: layer_types {layers!r} is not supported; only full_attention is", param="layer_types"
        )


def read_rope(config: Mapping[str, Any], *, max_position: int) -> Rope:
    """The rotary embedding in either spelling: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.

    Raises:
        CheckpointError: an unsupported type, a missing or impossible value, or two spellings that differ.
    """
    read = [
        _rope_of(config, field, max_position=max_position)
        for field in ("rope_parameters", "rope_scaling")
        if config.get(field)
    ]
    if len(read) == 2 and read[0] != read[1]:
        raise CheckpointError(
            "config.json: rope_parameters and rope_scaling say different things; keep one of them", param="rope_scaling"
        )
    return read[0] if read else _rope_of(config, "rope_scaling", max_position=max_position)


def _rope_of(config: Mapping[str, Any], field: str, *, max_position: int) -> Rope:
    told = config.get(field) or {}
    if not isinstance(told, Mapping):
        raise CheckpointError(f"config.json: {field} must be an object, found {told!r}", param=field)
    for name, value in told.items():
        if isinstance(value, Mapping | list):  # an embedding a layer type, or a factor a frequency
            raise CheckpointError(
                f"config.json: {field} with {name} = {value!r} asks for a computation that is not supported",
                param=field,
            )
    given = {name: config.get(name) for name in ("rope_theta", _ORIGINAL)}
    given |= {name: value for name, value in told.items() if value is not None}
    if config.get(_ORIGINAL) not in (None, given[_ORIGINAL]):  # readers differ in which of the two they believe
        raise CheckpointError(
            f"config.json: {_ORIGINAL} is {config[_ORIGINAL]!r}, and {given[_ORIGINAL]!r} in {field}", param=_ORIGINAL
        )
    theta = number(given, "rope_theta", 10000.0)
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in _ROPE_TYPES:
        raise CheckpointError(
            f"config.json: rope type {kind!r} is not supported; supported are {', '.join(_ROPE_TYPES)}", param=field
        )
    if given.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise CheckpointError("config.json: a partial_rotary_factor is not supported", param="partial_rotary_factor")
    if kind == "default":
        return Rope(theta=theta)
    silent = given[_ORIGINAL] is None
    original = number(given, _ORIGINAL, max_position)
    if given.get("factor") is None and not (kind == "yarn" and not silent):
        raise CheckpointError(f"config.json: rope type {kind!r} needs a factor", param=field)
    factor = number(given, "factor", max_position / original)
    if kind == "llama3" and silent:
        raise CheckpointError(f"config.json: rope type 'llama3' needs {_ORIGINAL}", param=field)
    low, high = number(given, "low_freq_factor", 1.0), number(given, "high_freq_factor", 4.0)
    if kind == "llama3" and not low < high:
        raise CheckpointError(
            f"config.json: high_freq_factor must be above low_freq_factor {low}, found {high}", param=field
        )
    return Rope(
        theta=theta,
        kind=kind,
        factor=factor,
        original_max_position=int(original),
        low_freq_factor=low,
        high_freq_factor=high,
        beta_fast=number(given, "beta_fast", 32.0),
        beta_slow=number(given, "beta_slow", 1.0),
        attention_factor=_yarn_attention(given, factor=factor) if kind == "yarn" else 1.0,
        truncate=flag(given, "truncate", True),
    )


def _yarn_attention(given: Mapping[str, Any], *, factor: float) -> float:
    """The factor on cos and sin: given, or 0.1 m ln(factor) + 1 (YaRN, eq. 22), as a ratio where two m are given."""
    if given.get("attention_factor") is not None:
        return number(given, "attention_factor", 1.0)

    def scale(m: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return scale(number(given, "mscale", 1.0)) / scale(number(given, "mscale_all_dim", 1.0))
    return scale(1.0)
