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
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jax.typing import DTypeLike

from llmlab.errors import CheckpointError, short
from llmlab.models.config import ModelConfig
from llmlab.models.family import Family
from llmlab.models.kv.protocol import Cache
from llmlab.models.sharding import array_sharding
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
    config = decoder_config(config)
    kind = config.get("model_type")
    known = {name: family for family in families().values() for name in family.model_types}
    if not isinstance(kind, str) or kind not in known:
        larger = {name for family in families().values() for name in family.inside}
        raise CheckpointError(
            f"config.json: model_type {short(kind)} is not supported{_nearest(config, known)}.\n"
            f"Supported are {', '.join(sorted({*known, *larger}))}",
            param="model_type",
        )
    read: ModelConfig = known[kind].read(config)
    return replace(read, family=known[kind].name)


def decoder_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config.json of the decoder alone: `config` itself, or the `text_config` of a larger model around it.

    Raises:
        CheckpointError: there is no `text_config` where there should be one, or none that is supported.
    """
    kind, text = config.get("model_type"), config.get("text_config")
    found = [family for family in families().values() if kind in family.inside]
    if not found:
        return config
    if not isinstance(text, Mapping):
        raise CheckpointError(f"config.json: text_config must be an object, found {short(text)}", param="text_config")
    known = {name: family for family in found for name in family.model_types}
    name = text.get("model_type") or (found[0].name if len(found) == 1 else None)
    if name not in known:
        raise CheckpointError(
            f"config.json: text_config with model_type {short(name)} is not supported in a {kind}; "
            f"{', '.join(sorted(known))} would be",
            param="text_config",
        )
    outer = {field: config[field] for field in _OF_BOTH if field in config}
    return {**outer, **text, "model_type": name, "architectures": [known[name].architectures[0]]}


#: The fields that a larger model may have in place of its `text_config`.
_OF_BOTH = ("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype")


def build_model(config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = "float32") -> Transformer:
    """A decoder of this shape with random weights."""
    return family_of(config).build(config, rngs=rngs, dtype=dtype)


def empty_cache(config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike) -> Cache:
    """A cache for `batch` rows of `length` positions, none of them filled."""
    return family_of(config).empty_cache(config, batch=batch, length=length, dtype=dtype)


@lru_cache(maxsize=4096)
def cache_bytes(
    config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike, mesh: Mesh | AbstractMesh | None = None
) -> int:
    """The bytes that such a cache takes on the device, or on each device of a mesh."""
    made = jax.eval_shape(lambda: empty_cache(config, batch=batch, length=length, dtype=dtype))
    arrays = jax.tree.leaves(made)
    if mesh is None:
        return sum(x.size * x.dtype.itemsize for x in arrays)
    axes = jax.tree.leaves(made.axes(), is_leaf=lambda x: isinstance(x, PartitionSpec))
    shards = [array_sharding(mesh, spec, x.shape).shard_shape(x.shape) for x, spec in zip(arrays, axes, strict=True)]
    return sum(prod(shard) * x.dtype.itemsize for shard, x in zip(shards, arrays, strict=True))


def parameter_count(config: ModelConfig) -> int:
    """The number of weights in a checkpoint of this shape; a tied output matrix counts once."""
    rules = family_of(config).tensors(config)
    return sum(prod(tensor.shape) for tensor in {tensor for rule in rules for tensor in rule.tensors})


def _nearest(config: Mapping[str, Any], known: Mapping[str, Family]) -> str:
    """The middle of a refusal: the supported name that is most like the one given; "" if none is like it."""
    given = [config.get("model_type"), *(listed if isinstance(listed := config.get("architectures"), list) else [])]
    names = {name.lower(): kind for kind, family in known.items() for name in (kind, *family.architectures)}
    for name in given:
        if isinstance(name, str) and (close := difflib.get_close_matches(name.lower(), names, n=1)):
            return f"; the nearest by name is {names[close[0]]}"
    return ""
