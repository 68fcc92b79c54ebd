"""Reads adapter_config.json, as peft writes it: what a LoRA adapter changes, and by how much.

A field is either read, known to change nothing once the adapter is trained, or refused. An adapter whose configuration
asks for a computation that is not done must fail at load; it must never answer with wrong numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

from llmlab.checkpoints.files import read_json
from llmlab.errors import CheckpointError, short

__all__ = ["ADAPTER_CONFIG", "LoraConfig", "read_lora_config"]

#: The name of the file.
ADAPTER_CONFIG = "adapter_config.json"
#: The value of `target_modules` that means every linear layer except the output matrix.
ALL_LINEAR = "all-linear"

_READ = (
    "peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias", "lora_bias",
    "init_lora_weights", "base_model_name_or_path", "ensure_weight_tying",
)  # fmt: skip
#: Fields of the training, of peft itself, and of an initialisation that leaves the base as it is. `fan_in_fan_out` says
#: how the base stores a matrix, which its family knows; peft, too, takes the layer's word for it.
_NEUTRAL = (
    "auto_mapping", "task_type", "inference_mode", "peft_version", "revision", "lora_dropout", "fan_in_fan_out",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config",
    "qalora_group_size", "runtime_config",
)  # fmt: skip
#: What `init_lora_weights` may say. Any other way to begin also changes the base's own weights, which then are not the
#: ones that are loaded here.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
_MERGE = "merge the adapter with peft (model.merge_and_unload()), save the result and load that folder"


@dataclass(frozen=True)
class LoraConfig:
    """What adapter_config.json says. A module is named as in the model that was trained: "model.layers.0.mlp.up_proj".

    Args:
        rank: r, of the modules that `ranks` does not name.
        alpha: the numerator of the factor on the update, of the modules that `alphas` does not name.
        stabilised: the denominator of that factor is sqrt(r), not r (Kalajdzievski 2023, arXiv:2312.03732).
        ranks: pattern -> r.
        alphas: pattern -> alpha.
        targets: the ends of the modules' names, or a pattern of a whole name, or "all-linear".
        excluded: what is left out of the targets, in the same way.
        layers: the numbers of the layers that are changed; None for all.
        layers_pattern: what stands before a layer's number in a name; () for anything.
        saved: the ends of the names of modules that are stored whole.
        dora: a matrix is decomposed into direction and magnitude (Liu et al. 2024, arXiv:2402.09353).
        keeps_ties: embedding and output matrix stay one where the adapter changes either.
        base: the name of the model that was trained; "" where it is not said.
    """

    rank: int
    alpha: float
    stabilised: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    targets: tuple[str, ...] | str = ALL_LINEAR
    excluded: tuple[str, ...] | str = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    dora: bool = False
    keeps_ties: bool = False
    base: str = ""

    def rank_of(self, module: str) -> int:
        """r of a module."""
        return _matched(self.ranks, module, self.rank)

    def factor_of(self, module: str) -> float:
        """The factor on a module's update B A."""
        rank = self.rank_of(module)
        return _matched(self.alphas, module, self.alpha) / (sqrt(rank) if self.stabilised else rank)

    def changes(self, module: str) -> bool:
        """Whether the configuration means this module, where it is a linear layer or an embedding."""
        if _named(self.excluded, module) or self.saves(module):
            return False
        if self.targets == ALL_LINEAR:
            return True
        if not _named(self.targets, module):
            return False
        if self.layers is None or isinstance(self.targets, str) or module in self.targets:
            return True
        heads = [rf"(?:^|.*?\.){pattern}\." for pattern in self.layers_pattern] or [r".*?\.[^.]*\."]
        found = next((match for head in heads if (match := re.match(rf"{head}(\d+)\.", module))), None)
        return found is not None and int(found[1]) in self.layers

    def saves(self, module: str) -> bool:
        """Whether the configuration says that this module is stored whole."""
        return any(re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", module) for name in self.saved)


def _named(names: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _matched(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that the end of a module's name fits."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def read_lora_config(folder: Path) -> LoraConfig:
    """What an adapter's configuration says.

    Raises:
        CheckpointError: it is absent or no JSON; it is no LoRA adapter; a field is of the wrong type, or asks for a
            computation that is not done. The message names the field and its value.
    """
    said = read_json(folder, ADAPTER_CONFIG)
    kind = said.get("peft_type")
    if kind != "LORA":
        raise _error(folder, "peft_type", kind, f"is not LORA, the only kind of adapter that is read; {_MERGE}")
    for name, value in said.items():
        if name not in (*_READ, *_NEUTRAL) and value:
            raise _error(folder, name, value, f"asks for what is not done here; {_MERGE}")
    begun = said.get("init_lora_weights", True)
    if begun not in _PLAIN_BEGINNINGS:
        why = "also changed the base's own weights; save the adapter with path_initial_model_for_weight_conversion="
        raise _error(folder, "init_lora_weights", begun, f"{why}, or {_MERGE}")
    if said.get("bias", "none") not in ("none", "all", "lora_only"):
        raise _error(folder, "bias", said["bias"], "is none of none, all and lora_only")
    layers = said.get("layers_to_transform")
    return LoraConfig(
        rank=_number(folder, said, "r", 8, whole=True),
        alpha=_number(folder, said, "lora_alpha", 8),
        stabilised=_flag(folder, said, "use_rslora"),
        ranks=_numbers(folder, said, "rank_pattern", whole=True),
        alphas=_numbers(folder, said, "alpha_pattern"),
        targets=_names(folder, said, "target_modules", pattern=True),
        excluded=_names(folder, said, "exclude_modules", pattern=True),
        layers=None if layers in (None, []) else _indices(folder, layers),
        layers_pattern=tuple(_one_or_more(folder, said, "layers_pattern")),
        saved=tuple(_names(folder, said, "modules_to_save")),
        dora=_flag(folder, said, "use_dora"),
        keeps_ties=_flag(folder, said, "ensure_weight_tying"),
        base=str(said.get("base_model_name_or_path") or ""),
    )


def _error(folder: Path, name: str, value: Any, what: str) -> CheckpointError:
    return CheckpointError(f"{folder / ADAPTER_CONFIG}: {name} {short(value)} {what}", param=name)


def _flag(folder: Path, said: Mapping[str, Any], name: str) -> bool:
    value = said.get(name)
    if not isinstance(value, bool | None):
        raise _error(folder, name, value, "must be true or false")
    return bool(value)


def _number(folder: Path, said: Mapping[str, Any], name: str, default: int, *, whole: bool = False) -> Any:
    value = default if said.get(name) is None else said[name]
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or (whole and value < 1):
        raise _error(folder, name, value, f"must be a {'positive integer' if whole else 'number'}")
    return value


def _numbers(folder: Path, said: Mapping[str, Any], name: str, *, whole: bool = False) -> dict[str, Any]:
    values = said.get(name) or {}
    if not isinstance(values, Mapping):
        raise _error(folder, name, values, "must be an object from patterns to numbers")
    for pattern in values:
        _compiled(folder, name, pattern)
    return {pattern: _number(folder, values, pattern, 1, whole=whole) for pattern in values}


def _names(folder: Path, said: Mapping[str, Any], name: str, *, pattern: bool = False) -> Any:
    value = said.get(name) or ()
    if pattern and isinstance(value, str):
        if value.lower() != ALL_LINEAR:
            _compiled(folder, name, value)
        return value if value.lower() != ALL_LINEAR else ALL_LINEAR
    if isinstance(value, str) or not _are(value, str):
        raise _error(folder, name, value, "must be a list of names")
    return tuple(value)


def _one_or_more(folder: Path, said: Mapping[str, Any], name: str) -> Collection[str]:
    value = said.get(name) or ()
    value = (value,) if isinstance(value, str) else value
    if not _are(value, str):
        raise _error(folder, name, value, "must be a name or a list of names")
    return value


def _indices(folder: Path, value: Any) -> tuple[int, ...]:
    listed = [value] if isinstance(value, int) else value
    if not _are(listed, int):
        raise _error(folder, "layers_to_transform", value, "must be a list of layers' numbers")
    return tuple(listed)


def _are(value: Any, kind: type) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)


def _compiled(folder: Path, name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise _error(folder, name, pattern, f"is not a regular expression: {error}") from None
