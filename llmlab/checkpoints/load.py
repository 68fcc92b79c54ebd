"""Loads a decoder onto the device from a folder with config.json and safetensors files, or from a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from llmlab.checkpoints.lora.adapter import Adapter
from llmlab.checkpoints.lora.beside import put_beside
from llmlab.checkpoints.lora.fitting import fit, tied_names, unties
from llmlab.checkpoints.lora.merging import MergedSource, RenamedSource
from llmlab.checkpoints.opened import Checkpoint, open_checkpoint
from llmlab.checkpoints.placing import load_int8, load_parameter, row_pieces
from llmlab.checkpoints.sources.protocol import TensorSource
from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.cpu.products import usable
from llmlab.models.families import build_model, family_of, read_config
from llmlab.models.parameter import declared_axes, summed_axis
from llmlab.models.sharding import fitted, parameter_sharding
from llmlab.models.tensors import Rule, Tensor
from llmlab.models.transformer import Transformer

__all__ = ["load_model", "model_from"]

_MOST_PROBLEMS = 12
#: What describes the weights of a folder and of a file, and what to do where they do not fit it.
_IN_A_FOLDER = ("config.json", "weights and config.json belong together: fetch both again from one place")
_IN_A_FILE = (
    "metadata",
    "the file is not as its converter should have left it: fetch it again, or convert the model anew",
)
#: What other programs put before the name of every tensor: torch.compile, torch's data parallelism.
_WRAPPERS = ("", "_orig_mod.", "module.")
#: What the formats of no weights begin with: integers, and floats of fewer bits that need more than their own values.
_NO_WEIGHTS = ("BOOL", "C", "F4", "F6_", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I", "U")


def load_model(
    held: Path | Checkpoint,
    *,
    dtype: DTypeLike,
    int8: bool = False,
    progress: Callable[[int, int], None] | None = None,
    mesh: Mesh | None = None,
    adapter: Adapter | None = None,
    beside: Mapping[str, Adapter] | None = None,
) -> tuple[ModelConfig, Transformer]:
    """Builds the decoder that config.json describes and fills it from the checkpoint's tensors.

    Every missing, surplus or misshapen tensor is found before anything is put on the device, and one error names them
    all.

    Args:
        held: the checkpoint, or the folder or GGUF file that it lies in.
        dtype: of the parameters on the device.
        int8: whether the parameters that can be are held in int8; `dtype` is then that of the others, of the
            activations and of the cache. They are converted one by one.
        progress: called with (bytes loaded, bytes in total) after each parameter.
        mesh: the devices that the parameters are spread over, as each declares; None for one device.
        adapter: is merged into the weights.
        beside: adapters that lie beside the weights, by their names; see `lora.beside.put_beside`.

    Raises:
        CheckpointError: see the message; nothing was loaded.
    """
    checkpoint = held if isinstance(held, Checkpoint) else open_checkpoint(held)
    config = read_config(checkpoint.config)
    how: dict[str, Any] = {"dtype": dtype, "int8": int8, "progress": progress, "mesh": mesh}
    with closing(checkpoint.open_weights()) as source:
        model = model_from(source, config, held=checkpoint.path, adapter=adapter, beside=beside, **how)
    return model.config, model


def model_from(
    source: TensorSource,
    config: ModelConfig,
    *,
    held: Path,
    dtype: DTypeLike,
    int8: bool = False,
    progress: Callable[[int, int], None] | None = None,
    mesh: Mesh | None = None,
    adapter: Adapter | None = None,
    beside: Mapping[str, Adapter] | None = None,
) -> Transformer:
    """Builds the decoder of a configuration and fills it from a source, whose tensors have the family's own names.

    Args:
        source: stays open.
        config: the decoder.
        held: the folder or file that the tensors lie in, for errors.
        dtype: of the parameters on the device.
        int8: as in `load_model`.
        progress: as in `load_model`.
        mesh: as in `load_model`.
        adapter: as in `load_model`.
        beside: as in `load_model`.

    Raises:
        CheckpointError: the tensors do not fit the configuration; one error names them all, and nothing was loaded.
    """
    config = fitted(config, mesh)
    if untied := adapter is not None and unties(adapter, config):
        config, source = _untied(config, source)
    module = nnx.eval_shape(lambda: build_model(config, rngs=nnx.Rngs(0), dtype=dtype))
    graph, abstract = nnx.split(module)
    flat = dict(nnx.to_flat_state(abstract))
    for path, slot in flat.items():
        declared_axes(slot, path)
    names = source.names()
    family = family_of(config)
    table = [_by_stored_names(rule, names, family.prefixes) for rule in family.tensors(config)]
    _check(held, source, table, config)
    if adapter is not None:
        source = MergedSource(source, adapter.source, fit(adapter, table, config, source, untied=untied)[1])
    total = sum(prod(slot.shape) * slot.dtype.itemsize for slot in flat.values())
    done = 0
    for rule in table:
        slot = flat[rule.path]
        if slot.shape != rule.shape:
            raise CheckpointError(f"{'.'.join(map(str, rule.path))} is {rule.shape}, expected {slot.shape}")
        where = None if mesh is None else parameter_sharding(mesh, slot, rule.path)
        summed = summed_axis(slot) if int8 else None
        if summed is None:  # what is float32 in every decoder, as a router is, stays so
            flat[rule.path] = slot.replace(load_parameter(source, rule, dtype=slot.dtype, sharding=where))
        else:
            turned = where is None and summed == -2 and usable()
            narrow = load_int8(source, rule, summed=summed, dtype=dtype, sharding=where, turned=turned)
            flat[rule.path] = slot.replace(narrow)
        done += prod(rule.shape) * slot.dtype.itemsize
        if progress:
            progress(done, total)
    model: Transformer = nnx.merge(graph, nnx.from_flat_state(list(flat.items())))
    if beside:
        put_beside(model, beside, table, source, mesh=mesh)
    return model


def _untied(config: ModelConfig, source: TensorSource) -> tuple[ModelConfig, TensorSource]:
    """The decoder with an output matrix of its own, which begins as the embedding."""
    names, prefixes = source.names(), family_of(config).prefixes
    ends = tied_names(config)
    held = [_stored(name, names, prefixes) for name in ends]
    for name, own, other in zip(ends, held, reversed(held), strict=True):
        if own is None and other is not None:
            source = RenamedSource(source, name, other)
    return replace(config, tie_word_embeddings=False), source


def _by_stored_names(rule: Rule, names: Collection[str], prefixes: Sequence[tuple[str, str]]) -> Rule:
    """The rule with the names by which the checkpoint holds its tensors: a tied tensor may be there by its other name.

    Where the checkpoint holds the tensors of the other way to make the parameter, that way is taken.
    """
    named = []
    if rule.otherwise is not None and all(_stored(tensor.name, names, prefixes) for tensor in rule.otherwise.tensors):
        return _by_stored_names(rule.otherwise, names, prefixes)
    for tensor in rule.tensors:
        own = _stored(tensor.name, names, prefixes)
        tied = None if tensor.tied is None else _stored(tensor.tied, names, prefixes)
        if own is None and tied is not None:
            named.append(replace(tensor, name=tied, tied=None))
        else:
            named.append(replace(tensor, name=own or tensor.name, tied=tied or tensor.tied))
    return replace(rule, tensors=tuple(named))


def _stored(name: str, names: Collection[str], prefixes: Sequence[tuple[str, str]]) -> str | None:
    """The name by which a checkpoint holds a tensor; None if it does not.

    Some programs put a word before every name, and a family's prefixes may be others (`Family.prefixes`).
    """
    spelled = [name, *(other + name.removeprefix(own) for own, other in prefixes if name.startswith(own))]
    return next((one for wrapper in _WRAPPERS for end in spelled if (one := f"{wrapper}{end}") in names), None)


def _check(held: Path, source: TensorSource, table: list[Rule], config: ModelConfig) -> None:
    # Each once: several parameters may share a tensor.
    wanted = list(dict.fromkeys(tensor for rule in table for tensor in rule.tensors))
    ignored = family_of(config).ignores(config)
    problems = list(_problems(source, wanted, ignored)) or list(_contradictions(source, wanted))
    if problems:
        described, way_out = _IN_A_FILE if held.is_file() else _IN_A_FOLDER
        more = f"\n  ... and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise CheckpointError(
            f"the weights in {held} do not fit its {described}:\n  "
            + "\n  ".join(problems[:_MOST_PROBLEMS])
            + f"{more}\n{way_out}"
        )


def _problems(source: TensorSource, wanted: list[Tensor], ignored: Sequence[str]) -> Iterator[str]:
    names = source.names()
    for name, shape in ((tensor.name, tensor.shape) for tensor in wanted):
        if name not in names:
            yield f"missing: {name} {list(shape)}"
            continue
        if source.shape(name) != shape:
            yield f"misshapen: {name} is {list(source.shape(name))}, the shape of the model implies {list(shape)}"
        if source.stored_as(name).startswith(_NO_WEIGHTS):
            yield f"unreadable: {name} is stored as {source.stored_as(name)}; only floating-point weights are read"
    known = {tensor.name for tensor in wanted} | {tensor.tied for tensor in wanted}
    for name in sorted(set(names) - known):
        if not any(fnmatchcase(name, pattern) for pattern in ignored):
            yield f"surplus: {name}"


def _contradictions(source: TensorSource, wanted: list[Tensor]) -> Iterator[str]:
    """Tied tensors that are stored twice and differ: which of the two counts depends on the program that reads them."""
    for tensor in wanted:
        if tensor.tied is None or tensor.tied not in source.names():
            continue
        one, other = tensor.name, tensor.tied
        same = source.shape(one) == source.shape(other) and all(
            np.array_equal(source.read(one, rows), source.read(other, rows)) for rows in row_pieces(tensor.shape)
        )
        if not same:
            yield (
                f"contradictory: {other} is not {one}, but tie_word_embeddings is true: "
                f"set it to false, or remove {other}"
            )
