"""The fields of a checkpoint's `config.json` that shape the computation.

Every field that this module knows is either read, known to change nothing at inference, or refused: a checkpoint whose
configuration asks for something the decoder does not do must fail at load, never answer with wrong numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmlab.errors import CheckpointError

#: family -> what its published reference does where `config.json` is silent
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"qkv_bias": "attention_bias", "o_bias": "attention_bias", "mlp_bias": "mlp_bias", "qk_norm": False},
    "qwen2": {"qkv_bias": True, "o_bias": False, "mlp_bias": False, "qk_norm": False},
    "qwen3": {"qkv_bias": "attention_bias", "o_bias": "attention_bias", "mlp_bias": False, "qk_norm": True},
}

#: field -> the values under which it changes nothing; any other value is refused
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

#: No size of a decoder comes near.
_LARGEST = 2**31 - 1

#: What the rope's stretching is measured from; at the top of config.json, or beside the rope's type.
_ORIGINAL = "original_max_position_embeddings"

_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base, and how its frequencies are stretched beyond the trained context.

    `linear` divides every frequency by `factor` (Chen et al. 2023, arXiv:2306.15595); `llama3` divides only the long
    wavelengths, with a smooth passage (Llama 3.1); `yarn` interpolates by wavelength and scales the attention (Peng et
    al. 2023, arXiv:2309.00071).
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape. Names follow `config.json`; lengths are counted in tokens."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    rope: Rope = Rope()
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Read a parsed `config.json`.

        Raises:
            CheckpointError: an unsupported family, a missing or impossible field, or a field whose value asks for a
                computation that this decoder does not do. The message names the field and its value.
        """
        family = config.get("model_type")
        if not isinstance(family, str) or family not in FAMILIES:
            raise CheckpointError(
                f"config.json: model_type {family!r} is not supported; supported are {', '.join(sorted(FAMILIES))}",
                param="model_type",
            )
        _refuse_what_is_not_done(config)
        heads = _positive(config, "num_attention_heads")
        hidden = _positive(config, "hidden_size")
        kv_heads = _positive(config, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise CheckpointError(
                f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
                param="num_key_value_heads",
            )
        head_dim = _positive(config, "head_dim", 128 if family == "qwen3" else hidden // heads)
        if head_dim % 2:
            raise CheckpointError(
                f"config.json: head_dim {head_dim} is odd; rotary embedding needs pairs", param="head_dim"
            )
        flags = {
            key: _flag(config, rule, False) if isinstance(rule, str) else rule for key, rule in FAMILIES[family].items()
        }
        max_position = _positive(config, "max_position_embeddings", 2048 if family == "llama" else 32768)
        return cls(
            family=family,
            vocab_size=_positive(config, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_positive(config, "intermediate_size"),
            num_layers=_positive(config, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            max_position=max_position,
            rms_norm_eps=_number(config, "rms_norm_eps", 1e-6),
            hidden_act=config.get("hidden_act") or "silu",
            rope=_read_rope(config, max_position=max_position),
            tie_word_embeddings=_flag(config, "tie_word_embeddings", False),
            **flags,
        )

    @property
    def parameters(self) -> int:
        """How many weights the checkpoint holds; a tied output matrix counts once."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        d, f = self.hidden_size, self.intermediate_size
        layer = d * (q + 2 * kv) + q * d + 3 * d * f + 2 * d
        layer += (q + 2 * kv) * self.qkv_bias + d * self.o_bias + (2 * f + d) * self.mlp_bias
        layer += 2 * self.head_dim * self.qk_norm
        return self.vocab_size * d * (2 - self.tie_word_embeddings) + self.num_layers * layer + d


def _positive(config: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = default if config.get(field) is None else config[field]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise CheckpointError(f"config.json: {field} must be a positive integer, found {value!r}", param=field)
    return value


def _number(config: Mapping[str, Any], field: str, default: float) -> float:
    value = default if config.get(field) is None else config[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise CheckpointError(f"config.json: {field} must be a number above 0, found {value!r}", param=field)
    return float(value)


def _flag(config: Mapping[str, Any], field: str, default: bool) -> bool:
    value = default if config.get(field) is None else config[field]
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {field} must be true or false, found {value!r}", param=field)
    return value


def _refuse_what_is_not_done(config: Mapping[str, Any]) -> None:
    for field, neutral in _NEUTRAL.items():
        if field in config and config[field] not in neutral:
            raise CheckpointError(
                f"config.json: {field} = {config[field]!r} asks for a computation that is not supported", param=field
            )
    act = config.get("hidden_act") or "silu"
    if act not in ("silu", "gelu", "gelu_pytorch_tanh", "relu"):
        raise CheckpointError(f"config.json: hidden_act {act!r} is not supported", param="hidden_act")
    layers = config.get("layer_types") or ["full_attention"]
    if not isinstance(layers, list | tuple) or any(kind != "full_attention" for kind in layers):
        raise CheckpointError(
            f"config.json: layer_types {layers!r} is not supported; only full_attention is", param="layer_types"
        )


def _read_rope(config: Mapping[str, Any], *, max_position: int) -> Rope:
    """Both spellings: `rope_parameters` (transformers 5), and `rope_theta` beside `rope_scaling` (before)."""
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
    theta = _number(given, "rope_theta", 10000.0)
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
    original = _number(given, _ORIGINAL, max_position)
    if given.get("factor") is None and not (kind == "yarn" and not silent):
        raise CheckpointError(f"config.json: rope type {kind!r} needs a factor", param=field)
    factor = _number(given, "factor", max_position / original)
    if kind == "llama3" and silent:
        raise CheckpointError(f"config.json: rope type 'llama3' needs {_ORIGINAL}", param=field)
    low, high = _number(given, "low_freq_factor", 1.0), _number(given, "high_freq_factor", 4.0)
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
        beta_fast=_number(given, "beta_fast", 32.0),
        beta_slow=_number(given, "beta_slow", 1.0),
        attention_factor=_yarn_attention(given, factor=factor) if kind == "yarn" else 1.0,
        truncate=_flag(given, "truncate", True),
    )


def _yarn_attention(given: Mapping[str, Any], *, factor: float) -> float:
    """The factor on cos and sin: given, or 0.1 m ln(factor) + 1 (YaRN, eq. 22), as a ratio where two m are given."""
    if given.get("attention_factor") is not None:
        return _number(given, "attention_factor", 1.0)

    def scale(m: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return scale(_number(given, "mscale", 1.0)) / scale(_number(given, "mscale_all_dim", 1.0))
    return scale(1.0)
