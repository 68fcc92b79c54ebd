"""Readers for the fields of `config.json`, which the families put together.

A field is either read, known to change nothing at inference, or refused. A checkpoint whose configuration asks for a
computation that the decoder does not do must fail at load; it must never answer with wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.layers import ACTIVATIONS

#: Field -> the values that change nothing. A family that honours a field says so; any other value is refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_sliding_window": (False, None),
    "is_causal": (True,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1, 1.0),
    "logits_scaling": (None, 1, 1.0),
    "residual_multiplier": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0),
    "attention_multiplier": (None,),
    "clip_qkv": (None,),
    "qk_layernorm": (False, None),
    "use_qk_norm": (False, None),
    "lm_head_bias": (False, None),
    "full_attn_mod": (1, None),
    "interpolate_factor": (1, None),
    "use_parallel_residual": (False, None),
    "alibi": (False, None),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "is_encoder_decoder": (False, None),
    "use_bidirectional_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "add_cross_attention": (False, None),
}

#: No size of a decoder comes near this.
_LARGEST = 2**31 - 1
_MOST_LAYERS = 10_000

#: The kinds of a layer's attention: it sees all tokens before its own, or a window of them.
FULL, SLIDING = "full_attention", "sliding_attention"
_LAYER_TYPES = (FULL, SLIDING)


def positive(
    config: Mapping[str, Any], field: str, default: int | None = None, *, least: int = 1, most: int = _LARGEST
) -> int:
    """The value of a field that must be an integer from `least` to `most`; `default` where it is absent or null.

    Raises:
        CheckpointError: any other value, or no value and no default.
    """
    value = default if config.get(field) is None else config[field]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        kind = "a positive integer" if least else "an integer from 0"
        raise CheckpointError(f"config.json: {field} must be {kind}, found {value!r}", param=field)
    return value


def layer_count(config: Mapping[str, Any]) -> int:
    """`num_hidden_layers`.

    Raises:
        CheckpointError: it is absent, or no decoder has so many.
    """
    return positive(config, "num_hidden_layers", most=_MOST_LAYERS)


def number(config: Mapping[str, Any], field: str, default: float) -> float:
    """The value of a field that must be a number above 0; `default` where the field is absent or null.

    Raises:
        CheckpointError: any other value.
    """
    value = default if config.get(field) is None else config[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise CheckpointError(f"config.json: {field} must be a number above 0, found {value!r}", param=field)
    return float(value)


def cap(config: Mapping[str, Any], field: str, default: float | None = None) -> float | None:
    """The value of a field that is a number above 0, or null for none; `default` where the field is absent.

    Raises:
        CheckpointError: any other value.
    """
    value = config.get(field, default)
    return None if value is None else number({field: value}, field, value)


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
    if "layer_types" not in honoured:
        kinds = config.get("layer_types") or ["full_attention"]
        if not isinstance(kinds, list | tuple) or any(kind != "full_attention" for kind in kinds):
            raise CheckpointError(
                f"config.json: layer_types {kinds!r} is not supported; only full_attention is", param="layer_types"
            )


def layer_types(config: Mapping[str, Any], default: Callable[[int], str]) -> tuple[str, ...]:
    """The kind of each layer's attention, "full_attention" or "sliding_attention".

    Args:
        config: the parsed config.json.
        default: the family's kind of layer number i, counted from 0, where the field is absent.

    Raises:
        CheckpointError: not one kind for each layer, or an unknown one.
    """
    count = layer_count(config)
    kinds = config.get("layer_types") or [default(i) for i in range(count)]
    if not isinstance(kinds, list | tuple) or len(kinds) != count or not set(map(str, kinds)) <= set(_LAYER_TYPES):
        raise CheckpointError(
            f"config.json: layer_types must be {count} of {', '.join(_LAYER_TYPES)}, found {kinds!r}",
            param="layer_types",
        )
    return tuple(kinds)


def windows(config: Mapping[str, Any], kinds: Sequence[str], default: int | None) -> tuple[int | None, ...]:
    """How many tokens a token sees in each layer: `sliding_window` where the layer slides, None where it is full.

    Args:
        config: the parsed config.json.
        kinds: of the layers, from `layer_types`.
        default: the family's window where the field is absent; a null in the field means none.

    Raises:
        CheckpointError: the window is no positive integer.
    """
    size = config.get("sliding_window", default)
    if size is None and SLIDING in (config.get("layer_types") or ()):
        raise CheckpointError(
            f"config.json: layer_types has {SLIDING}, but sliding_window is null; set one of them", param="layer_types"
        )
    if size is None or SLIDING not in kinds:
        return ()
    size = positive(config, "sliding_window", default)
    return tuple(size if kind == SLIDING else None for kind in kinds)


def switched_windows(
    config: Mapping[str, Any], slides: Callable[[int], bool], default: int | None
) -> tuple[int | None, ...]:
    """As `windows`, for families whose layers slide only where `use_sliding_window` is true; it is false if absent.

    Args:
        config: the parsed config.json.
        slides: whether layer number i, counted from 0, has the window where `layer_types` is absent.
        default: the family's window where `sliding_window` is absent.

    Raises:
        CheckpointError: an impossible field, or fields that contradict each other.
    """
    kinds = layer_types(config, lambda i: SLIDING if slides(i) else FULL)
    if flag(config, "use_sliding_window", False):
        return windows(config, kinds, default)
    if SLIDING in (config.get("layer_types") or ()):
        raise CheckpointError(
            f"config.json: layer_types has {SLIDING}, but use_sliding_window is false; change one of them",
            param="layer_types",
        )
    return ()


#: The fields that `upper_windows` reads.
WINDOW_FIELDS = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")


def upper_windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The windows of Qwen 2 and 3: where they are used at all, the layers from `max_window_layers` on have them."""
    first = positive(config, "max_window_layers", 28, least=0)
    return switched_windows(config, lambda i: i >= first, 4096)
