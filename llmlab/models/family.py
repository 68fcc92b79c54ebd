"""A model family as a value: all that is particular to it, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmlab.models.kv.dense import empty_dense_cache
from llmlab.models.kv.protocol import Cache
from llmlab.models.tensors import Rule
from llmlab.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Family:
    """What distinguishes a family; `checkpoints`, `models.sharding` and the engine only interpret it.

    How each parameter is spread over a mesh is declared where the parameter is made (`models.parameter`), in the layers
    that `build` puts together.

    Args:
        model_types: the values of `model_type` in config.json that mean this family; the first one is its name.
        architectures: the class names that its checkpoints give under `architectures`.
        read: makes the ModelConfig, or a subclass of it, from a parsed config.json. Raises CheckpointError for a field
            that changes the result and is not honoured.
        tensors: the rules from a checkpoint's tensors to the decoder's parameters, one per parameter.
        ignored: patterns (of `fnmatch`) of tensors that a checkpoint may hold although nothing is read from them.
        build: makes the decoder with random weights, from a config, `rngs` and `dtype`.
        empty_cache: makes the cache that the decoder runs over, from a config, `batch`, `length` and `dtype`.
    """

    model_types: Sequence[str]
    architectures: Sequence[str]
    read: Callable[[Mapping[str, Any]], Any]
    tensors: Callable[[Any], list[Rule]]
    ignored: Sequence[str] = ()
    build: Callable[..., Transformer] = Transformer
    empty_cache: Callable[..., Cache] = empty_dense_cache

    @property
    def name(self) -> str:
        """How the family is called."""
        return self.model_types[0]
