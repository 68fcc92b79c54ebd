"""Readers for the rotary embedding in `config.json`, in both of its spellings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from llmlab.errors import CheckpointError
from llmlab.models.config import Rope
from llmlab.models.config_json import FULL, SLIDING, flag, number

#: The context that rope scaling is measured from. It stands at the top of config.json, or beside the rope's type.
_ORIGINAL = "original_max_position_embeddings"

_ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")

#: By how much queries grow with their position (Llama 4, Ministral 3).
_BETA = "llama_4_scaling_beta"

#: The fields that are a list of one factor for each frequency.
_FACTORS = ("short_factor", "long_factor")


@dataclass(frozen=True, kw_only=True)
class RopeDefaults:
    """What a family's rotary embedding is where config.json is silent, and what of it the family honours.

    Args:
        theta: the base.
        partial: the share of a head that is rotated; None for a family that always rotates all of it.
        interleaved: pairs are neighbours; see `Rope`.
        layer_type: the layers that are meant where `rope_parameters` has an object for each kind of layer; None for a
            family whose layers all rotate alike.
        scaled: whether `rope_scaling` is meant for these layers too.
        names: of types of rope -> what the family means by them, where that is another type.
        original: the context that stretching is measured from where config.json is silent; None for its own context.
        scales_queries: whether `llama_4_scaling_beta` is honoured.
        theta_field: what the family calls the base where it stands at the top of config.json.
        partial_field: so for the share.
    """

    theta: float = 10000.0
    partial: float | None = None
    interleaved: bool = False
    layer_type: str | None = None
    scaled: bool = True
    names: Mapping[str, str] = field(default_factory=dict)
    original: int | None = None
    scales_queries: bool = False
    theta_field: str = "rope_theta"
    partial_field: str = "partial_rotary_factor"

    def of(self, kind: str) -> RopeDefaults:
        """The same for the layers of one kind; the stretching is that of the layers that see everything."""
        return replace(self, layer_type=kind, scaled=kind == FULL)


class _Shape(NamedTuple):
    """What a rotation depends on beside its own fields: the context, and the numbers of a head that are rotated."""

    max_position: int
    rotated: int


def read_rope(config: Mapping[str, Any], *, max_position: int, head_dim: int, defaults: RopeDefaults) -> Rope:
    """The rotary embedding in either spelling: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.

    Raises:
        CheckpointError: an unsupported type, a missing or impossible value, or two spellings that differ.
    """

    def read_field(field: str) -> Rope:
        told = _of_layer_type(config, field, defaults)
        factor = _partial(config, told, defaults)
        rotated = int(head_dim * factor)
        if rotated % 2 or not rotated:
            raise CheckpointError(
                f"config.json: {defaults.partial_field} {factor} of head_dim {head_dim} is {rotated}; rotary "
                "embedding needs pairs",
                param=defaults.partial_field,
            )
        shape = _Shape(max_position=max_position, rotated=rotated)
        found = _rope_of(config, field, told, shape=shape, defaults=defaults)
        return replace(found, rotary_dim=0 if rotated == head_dim else rotated, interleaved=defaults.interleaved)

    spellings = ("rope_parameters", "rope_scaling") if defaults.scaled else ("rope_parameters",)
    read = [read_field(field) for field in spellings if config.get(field)]
    if len(read) == 2 and read[0] != read[1]:
        raise CheckpointError(
            "config.json: rope_parameters and rope_scaling say different things; keep one of them", param="rope_scaling"
        )
    return read[0] if read else read_field("")


def read_ropes(
    config: Mapping[str, Any], kinds: Sequence[str], fields: Mapping[str, Any], *, sliding: RopeDefaults
) -> tuple[Rope, ...]:
    """The rotary embedding of every layer, where the sliding layers rotate in another way than the full ones.

    Args:
        config: the parsed config.json.
        kinds: of the layers, from `config_json.layer_types`.
        fields: of the ModelConfig; `rope` is that of the full layers.
        sliding: of the layers with a window.
    """
    there = {"max_position": fields["max_position"], "head_dim": fields["head_dim"]}
    local = read_rope(config, **there, defaults=sliding.of(SLIDING))
    return tuple(local if kind == SLIDING else fields["rope"] for kind in kinds)


def _of_layer_type(config: Mapping[str, Any], field: str, defaults: RopeDefaults) -> Mapping[str, Any]:
    """What a field says of the layers that are meant; {} where nothing is said."""
    told = config.get(field) or {}
    if not isinstance(told, Mapping):
        raise CheckpointError(f"config.json: {field} must be an object, found {told!r}", param=field)
    if defaults.layer_type is None or field != "rope_parameters":
        return told
    if not set(told) <= {FULL, SLIDING}:
        raise CheckpointError(
            f"config.json: rope_parameters must have an object for {FULL} and one for {SLIDING}, found {dict(told)!r}",
            param=field,
        )
    part = told.get(defaults.layer_type) or {}
    if not isinstance(part, Mapping):
        raise CheckpointError(f"config.json: {field}: {defaults.layer_type} must be an object", param=field)
    return part


def _partial(config: Mapping[str, Any], told: Mapping[str, Any], defaults: RopeDefaults) -> float:
    """The share of a head that is rotated."""
    given = [config.get(defaults.partial_field), told.get("partial_rotary_factor")]
    factor = next((value for value in reversed(given) if value is not None), defaults.partial or 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise CheckpointError(
            f"config.json: {defaults.partial_field} must be a number above 0 and up to 1, found {factor!r}",
            param=defaults.partial_field,
        )
    if defaults.partial is None and factor != 1:
        raise CheckpointError(
            f"config.json: {defaults.partial_field} = {factor!r} asks for a computation that is not supported",
            param=defaults.partial_field,
        )
    return float(factor)


def _rope_of(
    config: Mapping[str, Any], field: str, told: Mapping[str, Any], *, shape: _Shape, defaults: RopeDefaults
) -> Rope:
    for name, value in told.items():
        if isinstance(value, Mapping | list) and name not in _FACTORS:  # an embedding a layer type, among others
            raise CheckpointError(
                f"config.json: {field} with {name} = {value!r} asks for a computation that is not supported",
                param=field,
            )
    given = {"rope_theta": config.get(defaults.theta_field), _ORIGINAL: config.get(_ORIGINAL)}
    given |= {name: value for name, value in told.items() if value is not None}
    if config.get(_ORIGINAL) not in (None, given[_ORIGINAL]):  # readers differ in which of the two they believe
        raise CheckpointError(
            f"config.json: {_ORIGINAL} is {config[_ORIGINAL]!r}, and {given[_ORIGINAL]!r} in {field}", param=_ORIGINAL
        )
    kind = given.get("rope_type") or given.get("type") or "default"
    kind = defaults.names.get(kind, kind) if isinstance(kind, str) else kind
    if kind not in _ROPE_TYPES:
        raise CheckpointError(
            f"config.json: rope type {kind!r} is not supported; supported are {', '.join(_ROPE_TYPES)}", param=field
        )
    silent = given[_ORIGINAL] is None
    original = number(given, _ORIGINAL, defaults.original or shape.max_position)
    if original < 1:
        raise CheckpointError(f"config.json: {_ORIGINAL} must be at least 1, found {original}", param=_ORIGINAL)
    beta = _query_beta(given, field, defaults)
    found = Rope(
        theta=number(given, "rope_theta", defaults.theta),
        kind=kind,
        original_max_position=int(original) if beta or kind != "default" else 0,
        query_beta=beta,
    )
    if kind == "default":
        return found
    if kind == "longrope":
        return _longrope(given, field, found, shape=shape, original=original)
    if given.get("factor") is None and not (kind == "yarn" and not silent):
        raise CheckpointError(f"config.json: rope type {kind!r} needs a factor", param=field)
    factor = number(given, "factor", shape.max_position / original)
    if kind == "llama3" and silent:
        raise CheckpointError(f"config.json: rope type 'llama3' needs {_ORIGINAL}", param=field)
    low, high = number(given, "low_freq_factor", 1.0), number(given, "high_freq_factor", 4.0)
    if kind == "llama3" and not low < high:
        raise CheckpointError(
            f"config.json: high_freq_factor must be above low_freq_factor {low}, found {high}", param=field
        )
    return replace(
        found,
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        beta_fast=number(given, "beta_fast", 32.0),
        beta_slow=number(given, "beta_slow", 1.0),
        attention_factor=_yarn_attention(given, factor=factor) if kind == "yarn" else 1.0,
        truncate=flag(given, "truncate", True),
        stretched=0 if silent else int(original * factor),
    )


def _query_beta(given: Mapping[str, Any], field: str, defaults: RopeDefaults) -> float:
    """The factor by which queries grow with their position; 0 for a family that has none."""
    if given.get(_BETA) in (None, 0):
        return 0.0
    if not defaults.scales_queries:
        raise CheckpointError(
            f"config.json: {field} with {_BETA} = {given[_BETA]!r} asks for a computation that is not supported",
            param=field,
        )
    return number(given, _BETA, 0.0)


def _longrope(given: Mapping[str, Any], field: str, found: Rope, *, shape: _Shape, original: float) -> Rope:
    """LongRoPE (arXiv:2402.13753): two lists of factors, and two factors on cos and sin, equal unless given apart.

    The default of the latter is sqrt(1 + ln s / ln L), s the ratio of the contexts and L the original one,
    as in Phi-3's own modeling file.
    """
    pairs = shape.rotated // 2
    for name in _FACTORS:
        factors = given.get(name)
        if not isinstance(factors, list) or len(factors) != pairs or not all(_is_factor(one) for one in factors):
            raise CheckpointError(
                f"config.json: rope type 'longrope' needs {name} in {field}, a list of {pairs} numbers above 0, found "
                f"{factors!r}",
                param=field,
            )
    ratio = number(given, "factor", shape.max_position / original)
    attention = 1.0 if ratio <= 1 or original <= 1 else math.sqrt(1 + math.log(ratio) / math.log(original))
    attention = number(given, "attention_factor", attention)
    return replace(
        found,
        short_factor=tuple(map(float, given["short_factor"])),
        long_factor=tuple(map(float, given["long_factor"])),
        short_attention_factor=number(given, "short_mscale", attention),
        attention_factor=number(given, "long_mscale", attention),
    )


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30


def _yarn_attention(given: Mapping[str, Any], *, factor: float) -> float:
    """The factor on cos and sin: given, or 0.1 m ln(factor) + 1 (YaRN, eq. 22), as a ratio where two m are given."""
    if given.get("attention_factor") is not None:
        return number(given, "attention_factor", 1.0)

    def scale(m: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return scale(number(given, "mscale", 1.0)) / scale(number(given, "mscale_all_dim", 1.0))
    return scale(1.0)
