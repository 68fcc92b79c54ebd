"""A model family as a value: all that is particular to it, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
        inside: values of `model_type` of larger models, which see images too, whose `text_config` describes a decoder
            of this family. It is read, and the rest of such a model is left out.
        ignored: patterns (of `fnmatch`) of tensors that a checkpoint may hold although nothing is read from them.
        prefixes: pairs of what a tensor's name begins with and what may stand there instead: nothing, in a checkpoint
            of a decoder that was saved by itself; a longer prefix, where the decoder is a part of a larger model.
        build: makes the decoder with random weights, from a config, `rngs` and `dtype`.
        tiny: fields of config.json that this family cannot do without, of a decoder as small as can be; for tests.
        empty_cache: makes the cache that the decoder runs over, from a config, `batch`, `length` and `dtype`.
    """

    model_types: Sequence[str]
    architectures: Sequence[str]
    read: Callable[[Mapping[str, Any]], Any]
    tensors: Callable[[Any], list[Rule]]
    inside: Sequence[str] = ()
    ignored: Sequence[str] = ()
    prefixes: Sequence[tuple[str, str]] = (("model.", ""),)
    tiny: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[..., Transformer] = Transformer
    empty_cache: Callable[..., Cache] = empty_dense_cache

    def ignores(self, config: Any) -> list[str]:
        """The patterns of tensors that a checkpoint of this shape may hold although nothing is read from them."""
        last = config.num_layers
        return [*self.ignored, *(f"*layers.{i}.*" for i in range(last, last + config.skipped_layers))]

    @property
    def name(self) -> str:
        """How the family is called."""
        return self.model_types[0]
