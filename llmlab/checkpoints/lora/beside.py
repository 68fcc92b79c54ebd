"""Puts adapters beside the weights of a decoder, so that each row of a batch has the base or one of the adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from llmlab.checkpoints.lora.adapter import Adapter, listed
from llmlab.checkpoints.lora.fitting import Fitted, fit
from llmlab.checkpoints.lora.merging import Change
from llmlab.checkpoints.sources.protocol import TensorSource
from llmlab.errors import CheckpointError
from llmlab.models.layers import Projection
from llmlab.models.low_rank import LowRank
from llmlab.models.parameter import VOCABULARY, declared_axes
from llmlab.models.sharding import array_sharding
from llmlab.models.tensors import Rule, Tensor
from llmlab.models.transformer import Transformer

__all__ = ["put_beside"]

#: A place in the decoder.
_Path: TypeAlias = tuple[str | int, ...]

#: The two ends of a decoder, which are no projections, or are used without being called.
_EMBEDDING: _Path = ("embedding",)
_HEAD: _Path = ("head",)


class _Part(NamedTuple):
    """The factors of one update of one adapter: [I, R] and [R, O], or [V, R] and [R, D] for a table."""

    adapter: int
    down: np.ndarray
    up: np.ndarray


def put_beside(
    model: Transformer,
    adapters: Mapping[str, Adapter],
    table: Sequence[Rule],
    base: TensorSource,
    *,
    mesh: Mesh | None = None,
) -> None:
    """Gives a loaded decoder the adapters; a row has the first one by the number 1 (`Transformer.choose`).

    Args:
        model: the decoder.
        adapters: name -> an adapter that is open.
        table: the rules that the decoder was made by, with the names that its checkpoint has.
        base: the tensors that it was made of.
        mesh: that the decoder lies on.

    Raises:
        CheckpointError: an adapter is for another base, or has changes that are no product of two matrices beside a
            matrix that all rows share; the message says that it can be merged.
    """
    parts: dict[_Path, list[_Part]] = {}
    for number, (name, adapter) in enumerate(adapters.items(), start=1):
        updates, changes = fit(adapter, table, model.config, base)
        problems = [f"{stored} changes otherwise than by B A" for stored, one in changes.items() if not _is_plain(one)]
        for fitted in updates:
            found = _placed(model, fitted, number, both=adapter.config.keeps_ties)
            problems += [] if found else [f"{fitted.module} is part of a parameter that rows cannot differ in"]
            for path, part in found.items():
                parts.setdefault(path, []).append(part)
        if problems:
            raise CheckpointError(
                f"adapters={{{name!r}: ...}}: {adapter.folder} cannot lie beside the base: {listed(problems)}. "
                "Merge it at load, adapter=, which gives a lab of its own",
                param="adapters",
            )
    for path, several in parts.items():
        _add(model, path, several, mesh=mesh)
    model.adapters = tuple(adapters)


def _is_plain(change: Change) -> bool:
    return change.replaced is None and change.added is None and change.magnitude is None


def _placed(model: Transformer, fitted: Fitted, number: int, *, both: bool) -> dict[_Path, _Part]:
    """Where an update goes, and its factors there; {} where that is nowhere."""
    down, up, rule = fitted.update.down.T, fitted.update.up.T, fitted.rule
    if rule.path in (_EMBEDDING, (*_HEAD, "kernel")):
        found: dict[_Path, _Part] = {_EMBEDDING if fitted.update.table else _HEAD: _Part(number, down, up)}
        if both and model.head is None and fitted.update.table:  # the transposed product gives logits
            found[_HEAD] = _Part(number, up.T, down.T)
        return found
    *path, last = rule.path
    if rule.stacked or last != "kernel" or not isinstance(_at(model, path), Projection):
        return {}
    return {tuple(path): _Part(number, down, _joined(rule, fitted.tensor, fitted.update.up))}


def _joined(rule: Rule, tensor: int, up: np.ndarray) -> np.ndarray:
    """B [out, R] of one stored tensor as [R, outputs of the parameter]; 0 at the outputs of the other tensors."""
    rank, parts, tensors = up.shape[1], [], []
    for i, stored in enumerate(rule.tensors):
        outputs = rule.turned_shape(stored.shape)[-1]
        value = up if i == tensor else np.zeros((outputs, rank), np.float32)
        parts.append(value if rule.transpose else value.T)
        tensors.append(Tensor(stored.name, parts[-1].shape))
    return replace(rule, tensors=tuple(tensors), otherwise=None).join(parts)


def _add(model: Transformer, path: _Path, parts: Sequence[_Part], *, mesh: Mesh | None) -> None:
    owners = [part.adapter for part in parts for _ in range(part.down.shape[1])]
    down, up = np.concatenate([part.down for part in parts], 1), np.concatenate([part.up for part in parts], 0)
    if path == _EMBEDDING:
        axes: tuple[Any, Any] = (VOCABULARY, None)
    elif path == _HEAD:
        axes = (None, VOCABULARY)
    else:
        inputs, outputs = declared_axes(_at(model, path).kernel, path)
        axes = (inputs, outputs)

    def put(value: np.ndarray, *spread: str | None) -> Array:
        value = value.astype(model.dtype)
        return jax.device_put(
            value, None if mesh is None else array_sharding(mesh, PartitionSpec(*spread), value.shape)
        )

    added = LowRank(put(down, axes[0], None), put(up, None, axes[1]), owners=owners, axes=axes)
    if path == _EMBEDDING:
        model.embedding_added = nnx.data(added)
    elif path == _HEAD:
        model.head_added = nnx.data(added)
    else:
        _at(model, path).added = nnx.data(added)


def _at(model: Transformer, path: Sequence[str | int]) -> Any:
    found: Any = model
    for step in path:
        found = found[step] if isinstance(step, int) else getattr(found, step)
    return found
