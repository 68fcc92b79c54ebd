"""Merges an adapter into the tensors of its base, tensor by tensor, while they are read.

The sum is computed in float32 from the values as they are stored, and rounded once, to the dtype that is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from llmlab.checkpoints.placing import row_pieces
from llmlab.checkpoints.sources.protocol import TensorSource

__all__ = ["Change", "MergedSource", "RenamedSource"]


@dataclass(frozen=True)
class Change:
    """What becomes of a stored tensor.

    Args:
        replaced: the name of the adapter's tensor that stands in its place; None for its own values.
        left: with `right`, a matrix that is added: left @ right, in the order of the stored axes.
        right: see `left`.
        added: a vector that is added.
        magnitude: the length that each output's weights then get; None for the one they have.
        outputs_first: the outputs are the tensor's first axis, not its last.
    """

    replaced: str | None = None
    left: Float32[np.ndarray, "N R"] | None = None
    right: Float32[np.ndarray, "R M"] | None = None
    added: Float32[np.ndarray, " N"] | None = None
    magnitude: Float32[np.ndarray, " O"] | None = None
    outputs_first: bool = True


@dataclass
class MergedSource:
    """A base's tensors with the changes of an adapter.

    Args:
        base: the base's tensors.
        adapter: the adapter's.
        changes: of the base's tensors, by their names.
    """

    base: TensorSource
    adapter: TensorSource
    changes: Mapping[str, Change]
    _lengths: dict[str, np.ndarray] = field(default_factory=dict)

    def names(self) -> Collection[str]:
        """The base's names."""
        return self.base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, which no adapter changes."""
        return self.base.shape(name)

    def stored_as(self, name: str) -> str:
        """The format in the base's file."""
        return self.base.stored_as(name)

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """The merged values, or some rows of them; those of a tensor that is changed are float32."""
        change = self.changes.get(name)
        if change is None:
            return self.base.read(name, rows)
        value = self._summed(name, change, slice(None) if rows is None else rows)
        if change.magnitude is None:
            return value
        if change.outputs_first:
            lengths = np.linalg.norm(value, axis=1)
            return value * (change.magnitude[rows if rows is not None else slice(None)] / lengths)[:, None]
        if name not in self._lengths:  # of columns, which every row is a part of
            squares = sum(np.sum(np.square(self._summed(name, change, r)), 0) for r in row_pieces(self.shape(name)))
            self._lengths[name] = np.sqrt(squares)
        return value * (change.magnitude / self._lengths[name])[None, :]

    def _summed(self, name: str, change: Change, rows: slice) -> np.ndarray:
        source, held = (self.base, name) if change.replaced is None else (self.adapter, change.replaced)
        value = source.read(held, rows).astype(np.float32)
        if change.left is not None and change.right is not None:
            value += change.left[rows] @ change.right
        return value if change.added is None else value + change.added[rows]

    def close(self) -> None:
        """Closes the base's files; the adapter is its owner's."""
        self.base.close()


@dataclass
class RenamedSource:
    """Tensors of which one has a second name.

    Args:
        source: the tensors.
        name: the new name.
        held: the tensor's own.
    """

    source: TensorSource
    name: str
    held: str

    def names(self) -> Collection[str]:
        """The names, the new one included."""
        return {*self.source.names(), self.name}

    def shape(self, name: str) -> tuple[int, ...]:
        """As the source says."""
        return self.source.shape(self._own(name))

    def stored_as(self, name: str) -> str:
        """As the source says."""
        return self.source.stored_as(self._own(name))

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """As the source does."""
        return self.source.read(self._own(name), rows)

    def close(self) -> None:
        """Closes the source."""
        self.source.close()

    def _own(self, name: str) -> str:
        return self.held if name == self.name else name
