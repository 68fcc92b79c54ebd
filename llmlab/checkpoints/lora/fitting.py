"""Fits an adapter to a base: which of the base's stored tensors it changes, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from llmlab.checkpoints.lora.adapter import WEIGHTS, Adapter, Update, listed
from llmlab.checkpoints.lora.merging import Change
from llmlab.checkpoints.placing import row_pieces
from llmlab.checkpoints.sources.protocol import TensorSource
from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.families import family_of
from llmlab.models.tensors import Rule, Tensor

__all__ = ["Fitted", "fit", "misfit", "tied_names", "unties"]


@dataclass(frozen=True)
class Fitted:
    """An update and the stored tensor of the base that it changes.

    Args:
        module: the module's name in the adapter.
        update: of the module.
        rule: makes the parameter that the tensor is a part of.
        tensor: the number of the tensor in the rule.
    """

    module: str
    update: Update
    rule: Rule
    tensor: int

    @property
    def stored(self) -> Tensor:
        """The tensor."""
        return self.rule.tensors[self.tensor]

    @property
    def outputs_first(self) -> bool:
        """Whether a linear layer's outputs are the first axis of the tensor; a table's values are."""
        return self.rule.transpose or self.rule.path == ("embedding",)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor has if the update is for it."""
        return self.update.shape if self.outputs_first and not self.update.table else self.update.shape[::-1]

    @property
    def change(self) -> Change:
        """What becomes of the tensor."""
        down, up = self.update.down, self.update.up
        magnitude = self.update.magnitude
        if self.outputs_first and not self.update.table:
            return Change(left=up, right=down, magnitude=magnitude)
        left, right = np.ascontiguousarray(down.T), np.ascontiguousarray(up.T)
        return Change(left=left, right=right, magnitude=magnitude, outputs_first=False)


def unties(adapter: Adapter, config: ModelConfig) -> bool:
    """Whether embedding and output matrix are no longer one with this adapter, which trained one of them, or each."""
    if not config.tie_word_embeddings or adapter.config.keeps_ties:
        return False
    changed = {f"{module}.weight" for module in adapter.updates} | {*adapter.saved}
    return not {_plain(name, config) for name in changed}.isdisjoint(_ends(config))


def tied_names(config: ModelConfig) -> tuple[str, str]:
    """The names of the embedding and of the output matrix in a family's checkpoints."""
    first = family_of(config).tensors(replace(config, tie_word_embeddings=True))[0].tensors[0]
    return first.name, first.tied or first.name


def fit(
    adapter: Adapter, table: Sequence[Rule], config: ModelConfig, base: TensorSource, *, untied: bool = False
) -> tuple[list[Fitted], dict[str, Change]]:
    """The updates with the tensors that they change, and what becomes of every stored tensor that is changed.

    Args:
        adapter: is open.
        table: the rules of the base, by the names that its checkpoint has.
        config: the base's shape.
        base: the base's tensors.
        untied: the adapter parts an embedding and an output matrix that are one in the base's checkpoint.

    Raises:
        CheckpointError: the adapter is for another base. One error names what does not fit.
    """
    places = _places(table, config)
    ignored = family_of(config).ignores(config)
    problems: list[str] = []
    updates: list[Fitted] = []
    changes: dict[str, Change] = {}

    def place(name: str) -> tuple[Rule, int] | None:
        found = places.get(_plain(name, config))
        if found is None and not any(fnmatchcase(name, pattern) for pattern in ignored):
            problems.append(f"the base has no {name}")
        return found

    # Tables first: of an embedding and an output matrix that are one, the embedding's update stands for both.
    for module, update in sorted(adapter.updates.items(), key=lambda item: not item[1].table):
        if (found := place(f"{module}.weight")) is None:
            continue
        fitted = Fitted(module, update, *found)
        if fitted.shape != fitted.stored.shape:
            problems.append(f"{module} is {list(fitted.shape)}, the base's {list(fitted.stored.shape)}")
            continue
        if adapter.config.keeps_ties and fitted.stored.name in changes:
            continue  # embedding and output matrix are one, and so are their updates
        updates.append(fitted)
        changes.setdefault(fitted.stored.name, fitted.change)
        if update.bias is not None and (found := place(f"{module}.bias")) is not None:
            changes[found[0].tensors[found[1]].name] = Change(added=update.bias)
    ends = _ends(config)
    for name, key in (*adapter.stored.items(), *adapter.saved.items()):
        both = untied and name in adapter.stored and _plain(name, config) in ends
        for found in map(place, tied_names(config) if both else (name,)):
            if found is None:
                continue
            tensor = found[0].tensors[found[1]]
            if adapter.source.shape(key) == tensor.shape:
                # peft stores an embedding that LoRA changes once more, as it was.
                if name in adapter.stored and _same(base, tensor.name, adapter.source, key):
                    continue
                changes[tensor.name] = replace(changes.get(tensor.name, Change()), replaced=key)
            else:
                problems.append(f"{name} is {list(adapter.source.shape(key))}, the base's {list(tensor.shape)}")
    if problems := problems or list(_missing(adapter, config)):
        raise misfit(adapter, problems)
    return updates, changes


def misfit(adapter: Adapter, problems: list[str]) -> CheckpointError:
    """The error for an adapter that does not fit its base."""
    named = f"; its configuration names {adapter.config.base} as its base" if adapter.config.base else ""
    return CheckpointError(
        f"the adapter {adapter.folder} does not fit this model: {listed(problems)}{named}. "
        "Load the base that it was trained on, or fetch the adapter again"
    )


def _places(table: Sequence[Rule], config: ModelConfig) -> dict[str, tuple[Rule, int]]:
    """Plain name of a tensor -> the rule that it is a part of, and its number in the rule."""
    places = {_plain(tensor.name, config): (rule, i) for rule in table for i, tensor in enumerate(rule.tensors)}
    for rule in family_of(config).tensors(config):
        other = rule.otherwise
        if other is None or not len(rule.tensors) == len(other.tensors) == 1:
            continue
        names = [_plain(one.tensors[0].name, config) for one in (rule, other)]
        found = next((places[name] for name in names if name in places), None)
        if found is not None and rule.tensors[0].shape == other.tensors[0].shape:
            places |= dict.fromkeys(names, found)
    if config.tie_word_embeddings:
        found = next((places[name] for name in _ends(config) if name in places), None)
        places |= {} if found is None else dict.fromkeys(_ends(config), found)
    return places


def _missing(adapter: Adapter, config: ModelConfig) -> Iterator[str]:
    """Modules that the configuration names and the file does not have, where it names them one by one."""
    if isinstance(adapter.config.targets, str):
        return
    held = {_plain(f"{module}.weight", config) for module in adapter.updates}
    for rule in family_of(config).tensors(config):
        # peft finds linear layers and embeddings; experts and routers are neither in the models of transformers.
        if (rule.stacked and not rule.picked) or "router" in rule.path:
            continue
        for tensor in rule.tensors:
            module = tensor.name.removesuffix(".weight")
            linear = len(tensor.shape) == 2 and module != tensor.name
            if linear and adapter.config.changes(module) and _plain(tensor.name, config) not in held:
                yield f"{WEIGHTS} has nothing for {module}, which target_modules names"


def _same(one: TensorSource, name: str, other: TensorSource, named: str) -> bool:
    """Whether two stored tensors are equal, as far as the dtype of the second goes."""
    for rows in row_pieces(one.shape(name)):
        value = other.read(named, rows)
        if not np.array_equal(one.read(name, rows).astype(value.dtype), value):
            return False
    return True


def _plain(name: str, config: ModelConfig) -> str:
    """A tensor's name without what some programs put before it."""
    name = next(name.removeprefix(word) for word in ("_orig_mod.", "module.", "") if name.startswith(word))
    pairs = family_of(config).prefixes
    words = sorted({word for pair in pairs for word in pair}, key=len, reverse=True)
    return next((name.removeprefix(word) for word in words if word and name.startswith(word)), name)


def _ends(config: ModelConfig) -> list[str]:
    return [_plain(name, config) for name in tied_names(config)]
