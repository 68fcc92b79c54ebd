"""Rules from the tensors of a checkpoint to the parameters of a decoder, and back.

A family lists one rule per parameter; `checkpoints` reads and writes by these rules and knows nothing else of a family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

ArrayT = TypeVar("ArrayT")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint.

    Args:
        name: as stored.
        shape: as stored.
        tied: another name that the tensor may be stored under. Where a checkpoint holds both, they must be equal.
    """

    name: str
    shape: tuple[int, ...]
    tied: str | None = None


@dataclass(frozen=True)
class Rule:
    """How one parameter is made of tensors.

    Args:
        path: the parameter's place in the decoder.
        tensors: what it is made of, in order. Several tensors are joined along the last axis.
        transpose: the tensors are stored as [out, in], as torch's linear layers are; a parameter is [in, out].
        groups: the number of groups in which several tensors are joined, as `group` does.
    """

    path: tuple[str | int, ...]
    tensors: tuple[Tensor, ...]
    transpose: bool = False
    groups: int = 1

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The parameter, from its tensors as they are stored."""
        turned = [part.T if self.transpose else part for part in parts]
        return group(turned, self.groups) if len(turned) > 1 else np.ascontiguousarray(turned[0])

    def split(self, value: np.ndarray) -> list[np.ndarray]:
        """The tensors as they are stored, from the parameter; the inverse of `join`."""
        sizes = [tensor.shape[0] for tensor in self.tensors]
        parts = ungroup(value, sizes, self.groups) if len(sizes) > 1 else [value]
        return [np.ascontiguousarray(part.T if self.transpose else part) for part in parts]


def under(prefix: str, path: tuple[str | int, ...], rules: Sequence[Rule]) -> list[Rule]:
    """The rules of a part of a decoder, with the part's place put before their paths and names."""
    return [
        replace(
            rule,
            path=(*path, *rule.path),
            tensors=tuple(replace(tensor, name=prefix + tensor.name) for tensor in rule.tensors),
        )
        for rule in rules
    ]


def group(parts: Sequence[ArrayT], groups: int, *, concatenate: Callable[..., Any] = np.concatenate) -> ArrayT:
    """Joins arrays along the last axis, group by group: the first group of each part, then the second of each, ...

    With q, k and v and one group per key head, the columns of a key head (its query heads, its key, its value) lie side
    by side. A device that holds a share of the key heads then holds one piece of the array, and splitting the product
    needs no communication.

    Args:
        parts: arrays [..., out_i], each out_i a multiple of `groups`.
        groups: 1 joins the parts whole.
        concatenate: of numpy or of jax.numpy.
    """
    leading = parts[0].shape[:-1]  # type: ignore[attr-defined]
    cut = [part.reshape(*leading, groups, -1) for part in parts]  # type: ignore[attr-defined]
    joined: ArrayT = concatenate(cut, axis=-1).reshape(*leading, -1)
    return joined


def ungroup(value: np.ndarray, sizes: Sequence[int], groups: int) -> list[np.ndarray]:
    """The parts of what `group` joined; `sizes` are those of their last axes."""
    leading = value.shape[:-1]
    ends = np.cumsum([size // groups for size in sizes])[:-1]
    cut = np.split(value.reshape(*leading, groups, -1), ends, axis=-1)
    return [part.reshape(*leading, -1) for part in cut]
