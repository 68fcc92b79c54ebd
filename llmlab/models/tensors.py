"""Rules from the tensors of a checkpoint to the parameters of a decoder, and back.

A family lists one rule per parameter; `checkpoints` reads and writes by these rules and knows nothing else of a family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
class Run:
    """Outputs of one stored tensor that lie at equal distances in the parameter: `groups` times `count` of them.

    Output r of the run lies at (r // count) * width + before + r % count along the parameter's last axis. The axes
    before the last are the same in both, except that a stacked parameter has one more, in front.
    """

    tensor: int  #: the tensor's number in the rule
    start: int  #: the first output, along the last axis of the tensor once it is turned
    groups: int
    count: int
    width: int  #: the distance from one group to the next in the parameter
    before: int
    lot: int | None  #: along the first axis of the parameter; None for a parameter that is not stacked

    def outputs(self, start: int, stop: int) -> tuple[int, int]:
        """The run's outputs between two places of the parameter's last axis: from the first number to the second."""
        low, high = (self._before_place(place) for place in (start, stop))
        return low, high

    def _before_place(self, place: int) -> int:
        """How many of its outputs lie before a place of the parameter."""
        group = min(place // self.width, self.groups - 1)
        return group * self.count + min(max(place - group * self.width - self.before, 0), self.count)

    def in_tensor(self, turned: np.ndarray) -> np.ndarray:
        """The run's values [..., groups, count] in the tensor."""
        stop = self.start + self.groups * self.count
        return turned[..., self.start : stop].reshape(*turned.shape[:-1], self.groups, self.count)

    def in_parameter(self, value: np.ndarray) -> np.ndarray:
        """The run's values [..., groups, count] in the parameter."""
        lot = value if self.lot is None else value[self.lot]
        grouped = lot.reshape(*lot.shape[:-1], self.groups, self.width)
        return grouped[..., self.before : self.before + self.count]


@dataclass(frozen=True)
class Rule:
    """How one parameter is made of tensors.

    Args:
        path: the parameter's place in the decoder.
        tensors: what it is made of, in order. Several tensors are joined along the last axis.
        transpose: the tensors are stored as [..., out, in], as torch's linear layers are; a parameter has [in, out].
        groups: the number of groups in which several tensors are joined, as `group` does.
        parts: the sizes of several outputs that lie one after the other in one stored tensor; () for one output.
        copies: how often each of the outputs is held, one number an output; () for once each. An output's numbers are
            `groups` / copies blocks, and the copies of a block lie side by side.
        stacked: the number of lots that the tensors are, one lot an expert; each is joined as above, and the results
            are stacked along a new first axis. 0 for a parameter without such an axis.
        picked: the lots lie one after the other in one stored tensor, and of each lot's outputs only those from the
            first number to the second are the parameter's; () for all. Several parameters share such a tensor.
        otherwise: how the parameter is made where a checkpoint holds other tensors than these.
    """

    path: tuple[str | int, ...]
    tensors: tuple[Tensor, ...]
    transpose: bool = False
    groups: int = 1
    parts: tuple[int, ...] = ()
    copies: tuple[int, ...] = ()
    stacked: int = 0
    picked: tuple[int, int] | tuple[()] = ()
    otherwise: Rule | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        run = next(self.runs())
        first = self.turned_shape(self.tensors[0].shape)
        return (*((self.stacked,) if self.stacked else ()), *first[:-1], run.groups * run.width)

    def runs(self) -> Iterator[Run]:
        """How the parameter is put together."""
        if self.picked:
            (first, last), outputs = self.picked, self.turned_shape(self.tensors[0].shape)[-1]
            for lot in range(self.stacked):
                start = lot * (outputs // self.stacked) + first
                yield Run(0, start, 1, last - first, last - first, 0, lot)
            return
        each = len(self.tensors) // (self.stacked or 1)
        for lot in range(self.stacked or 1):
            tensors = range(lot * each, (lot + 1) * each)
            if self.parts:
                ends = np.cumsum(self.parts).tolist()
                held = [(tensors[0], end - size, size) for end, size in zip(ends, self.parts, strict=True)]
            else:
                held = [(i, 0, self.turned_shape(self.tensors[i].shape)[-1]) for i in tensors]
            copies = self.copies or (1,) * len(held)
            groups = self.groups if len(held) > 1 or self.copies else 1
            width = sum(size * n for (_, _, size), n in zip(held, copies, strict=True)) // groups
            before = 0
            for (tensor, start, size), n in zip(held, copies, strict=True):
                count = size * n // groups
                for copy in range(n):
                    place = before + copy * width
                    yield Run(tensor, start, groups // n, count, n * width, place, lot if self.stacked else None)
                before += count

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The parameter, from its tensors as they are stored."""
        value = np.empty(self.shape, parts[0].dtype)
        for run in self.runs():
            run.in_parameter(value)[...] = run.in_tensor(self.turned(parts[run.tensor]))
        return value

    def split(self, value: np.ndarray, parts: Sequence[np.ndarray] | None = None) -> Sequence[np.ndarray]:
        """The tensors as they are stored, from the parameter; the inverse of `join`.

        Args:
            value: the parameter.
            parts: the tensors, of which the parameter's share is written; None makes them.
        """
        parts = [np.empty(tensor.shape, value.dtype) for tensor in self.tensors] if parts is None else parts
        for run in self.runs():
            run.in_tensor(self.turned(parts[run.tensor]))[...] = run.in_parameter(value)
        return parts

    def turned(self, array: np.ndarray) -> np.ndarray:
        """A stored tensor, or some of it, with the axes in the order of the parameter's; a view."""
        return array.swapaxes(-1, -2) if self.transpose and array.ndim > 1 else array

    def turned_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of `turned`."""
        return (*shape[:-2], shape[-1], shape[-2]) if self.transpose and len(shape) > 1 else tuple(shape)


def under(prefix: str, path: tuple[str | int, ...], rules: Sequence[Rule]) -> list[Rule]:
    """The rules of a part of a decoder, with the part's place put before their paths and names."""
    return [
        replace(
            rule,
            path=(*path, *rule.path),
            tensors=tuple(replace(tensor, name=prefix + tensor.name) for tensor in rule.tensors),
            otherwise=None if rule.otherwise is None else under(prefix, path, [rule.otherwise])[0],
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
