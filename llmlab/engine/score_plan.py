"""Packs texts that are to be scored into few passes of the model. Pure and on the host.

A pass reads the cache of what all of its texts begin with, and a tree of the tokens after it (`models.kv.tree`): texts
that agree for longer share these tokens too. A beginning that is common to all texts, and one that has more texts than
a pass has room for, is read into a cache first, in the pieces in which any prompt is read, so that it is found in the
prefix store the next time. Beginnings with few texts are packed into the trees, many of them side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmlab.engine.prefill import pieces
from llmlab.engine.scheduler import Row


@dataclass(frozen=True, eq=False)
class Text:
    """Tokens [T] to score after a row's; `masks` are packed bits [T, ceil(V / 32)] of what a grammar allowed."""

    row: Row
    tokens: np.ndarray
    masks: np.ndarray | None = None

    @cached_property
    def fed(self) -> np.ndarray:
        """All tokens except the last, which is a target only."""
        return np.concatenate([self.row.given, self.tokens]).astype(np.int32)[:-1]

    @cached_property
    def sort_key(self) -> bytes:
        """Orders texts by their tokens."""
        return self.fed.astype(">u4").tobytes()


@dataclass(frozen=True, eq=False)
class Packed:
    """One pass: the texts, by their numbers, and a tree of all their tokens from position `start` on.

    Attributes:
        start: how many tokens all of the texts begin with; they are read into a cache.
        texts: the texts' numbers.
        tokens: [n], in depth-first order.
        positions: [n].
        ends: [n]; the tokens below token i are i + 1 to ends[i] - 1.
        nodes: for each target of each text, in order, the token of the tree that it follows.
    """

    start: int
    texts: tuple[int, ...]
    tokens: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    nodes: np.ndarray


def plan(texts: Sequence[Text], *, room: int, sizes: tuple[int, ...]) -> Iterator[Packed]:
    """Yields the passes for texts that share an adapter and parameters.

    Args:
        texts: each has at most `room` tokens to score.
        room: the most tokens, and the most targets, of one pass.
        sizes: of the pieces in which prompts are read.
    """
    order = sorted(range(len(texts)), key=lambda at: texts[at].sort_key)
    cuts = {at: [piece.ids.tobytes() for piece in pieces(texts[at].row.given[:-1], sizes=sizes)] for at in order}
    for start, members in _clusters(texts, order, cuts, depth=0, start=0, room=room):
        yield from _fill(texts, members, start=start, room=room)


def _clusters(
    texts: Sequence[Text], members: list[int], cuts: dict[int, list[bytes]], *, depth: int, start: int, room: int
) -> Iterator[tuple[int, list[int]]]:
    """Yields groups of texts, each with the length of the beginning that is read for it. `start` is after `depth`."""
    while (piece := _common([cuts[at] for at in members], depth)) is not None:
        depth, start = depth + 1, start + len(piece) // 4
    if _count(texts, members, start) <= room:
        yield start, members
        return
    groups: dict[bytes | None, list[int]] = {}
    for at in members:
        groups.setdefault(cuts[at][depth] if depth < len(cuts[at]) else None, []).append(at)
    few: list[int] = []
    for piece, group in groups.items():
        if piece is not None and _count(texts, group, start) > room:
            yield from _clusters(texts, group, cuts, depth=depth, start=start, room=room)
        else:
            few += group
    if few:
        yield start, few


def _common(cuts: list[list[bytes]], depth: int) -> bytes | None:
    """The piece that all texts have at this place."""
    first = cuts[0][depth] if depth < len(cuts[0]) else None
    return first if all(depth < len(cut) and cut[depth] == first for cut in cuts) else None


def _count(texts: Sequence[Text], members: Iterable[int], start: int) -> int:
    """The tokens of the tree of sorted texts, or their targets where those are more."""
    tree = _Tree(start)
    for at in members:
        tree.add(texts[at])
    return max(len(tree.tokens), len(tree.nodes))


def _fill(texts: Sequence[Text], members: list[int], *, start: int, room: int) -> Iterator[Packed]:
    tree = _Tree(start)
    inside: list[int] = []
    for at in members:
        if inside and max(len(tree.tokens) + tree.more(texts[at]), len(tree.nodes) + len(texts[at].tokens)) > room:
            yield tree.packed(inside)
            tree, inside = _Tree(start), []
        tree.add(texts[at])
        inside.append(at)
    yield tree.packed(inside)


class _Tree:
    """A tree that grows by one text after the other, in sorted order."""

    def __init__(self, start: int):
        self.start = start
        self.tokens: list[int] = []
        self.nodes: list[int] = []
        self._ends: list[int] = []
        self._depths: list[int] = []
        self._path: list[int] = []
        self._last = np.zeros(0, np.int32)

    def more(self, text: Text) -> int:
        """How many tokens the text would add."""
        return len(text.fed) - self.start - self._shared(text)

    def add(self, text: Text) -> None:
        """Adds a text's tokens."""
        shared = self._shared(text)
        del self._path[shared:]
        for token in text.fed[self.start + shared :].tolist():
            self._depths.append(len(self._path))
            self._path.append(len(self.tokens))
            self.tokens.append(token)
            self._ends.append(0)
        for node in self._path:
            self._ends[node] = len(self.tokens)
        self.nodes += self._path[len(text.row.given) - 1 - self.start :]
        self._last = text.fed

    def packed(self, members: list[int]) -> Packed:
        """The pass of the texts that were added."""
        return Packed(
            start=self.start,
            texts=tuple(members),
            tokens=np.array(self.tokens, np.int32),
            positions=np.array(self._depths, np.int32) + np.int32(self.start),
            ends=np.array(self._ends, np.int32),
            nodes=np.array(self.nodes, np.int32),
        )

    def _shared(self, text: Text) -> int:
        count = min(len(self._last), len(text.fed))
        differ = np.flatnonzero(self._last[self.start : count] != text.fed[self.start : count])
        return int(differ[0]) if len(differ) else max(0, count - self.start)
