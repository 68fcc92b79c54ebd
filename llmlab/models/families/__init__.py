"""The model families. Each file in this folder is one family and holds its value, `FAMILY`.

A file that is added here is found; no list is kept. The functions below are how the other rooms ask a family.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from importlib import import_module
from math import prod
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from llmlab.errors import CheckpointError, short
from llmlab.models.config import ModelConfig
from llmlab.models.family import Family
from llmlab.models.kv.protocol import Cache
from llmlab.models.transformer import Transformer


@cache
def families() -> dict[str, Family]:
    """Every family by its name, in alphabetical order."""
    found: dict[str, Family] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        family: Family = import_module(f"{__name__}.{module.name}").FAMILY
        found[family.name] = family
    return found


def family_of(config: ModelConfig) -> Family:
    """The family of a decoder."""
    return families()[config.family]


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder's shape, from a parsed `config.json`.

    Raises:
        CheckpointError: an unsupported family, a missing or impossible field, or a field whose value asks for a
            computation that the decoder does not do. The message names the field and its value.
    """
    kind = config.get("model_type")
    known = {name: family for family in families().values() for name in family.model_types}
    if not isinstance(kind, str) or kind not in known:
        raise CheckpointError(
            f"config.json: model_type {short(kind)} is not supported; supported are {', '.join(sorted(known))}"
            + _nearest(config, known),
            param="model_type",
        )
    read: ModelConfig = known[kind].read(config)
    return replace(read, family=known[kind].name)


def build_model(config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = "float32") -> Transformer:
    """A decoder of this shape with random weights."""
    return family_of(config).build(config, rngs=rngs, dtype=dtype)


def empty_cache(config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike) -> Cache:
    """A cache for `batch` rows of `length` positions, none of them filled."""
    return family_of(config).empty_cache(config, batch=batch, length=length, dtype=dtype)


@lru_cache(maxsize=4096)
def cache_bytes(config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike) -> int:
    """The bytes that such a cache takes on the device."""
    made = jax.eval_shape(lambda: empty_cache(config, batch=batch, length=length, dtype=dtype))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))


def parameter_count(config: ModelConfig) -> int:
    """The number of weights in a checkpoint of this shape; a tied output matrix counts once."""
    rules = family_of(config).tensors(config)
    return sum(prod(tensor.shape) for rule in rules for tensor in rule.tensors)


def _nearest(config: Mapping[str, Any], known: Mapping[str, Family]) -> str:
    """The end of a refusal: the supported name that is most like the one given."""
    given = [config.get("model_type"), *(listed if isinstance(listed := config.get("architectures"), list) else [])]
    names = {name.lower(): kind for kind, family in known.items() for name in (kind, *family.architectures)}
    for name in given:
        if isinstance(name, str) and (close := difflib.get_close_matches(name.lower(), names, n=1, cutoff=0)):
            return f", of which the nearest by name is {names[close[0]]}"
    return ""
