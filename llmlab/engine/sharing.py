"""Prompts that the rows of a batch share: which rows do, and the one cache that is held for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import NamedTuple

import numpy as np

from llmlab.engine.programs import Programs
from llmlab.engine.prompts import Prompts, Reading
from llmlab.engine.scheduler import SHORTEST, Row, bucket
from llmlab.engine.visits import Visit, chunk_visits, move_visits
from llmlab.models.kv.joined import Prefix
from llmlab.models.kv.protocol import Cache, SharedCache

#: The fewest rows that share a prompt, and the fewest tokens of it: with less there is little to gain.
FEWEST_ROWS, FEWEST_TOKENS = 4, 128

#: The shortest cache of what follows a shared prompt, in positions.
SHORTEST_AFTER = SHORTEST // 2

#: The shortest cache of a shared prompt, where the context is not shorter; each longer one is four times as long. Few,
#: since programs are compiled for each of them with each length of what follows.
SHORTEST_PREFIX = 512


class Held(NamedTuple):
    """A prompt that rows of a batch share: how it was read, and what the programs take of it."""

    reading: Reading
    prefix: Prefix


class Sharing:
    """Decides which rows share their prompt, for one batch, and holds the prompt that they share: one at a time.

    Args:
        programs: the compiled programs.
        prompts: reads the prompt.
        lengths: the cache lengths of the engine, ascending.
        pinned: whether the batch's width is pinned. Nothing is shared there, so that a row's bits never depend on how
            many others begin like it.
    """

    def __init__(self, programs: Programs, prompts: Prompts, *, lengths: tuple[int, ...], pinned: bool):
        self._programs, self._prompts, self._lengths = programs, prompts, lengths
        self.on = programs.shares and not pinned
        self._prefix_lengths = prefix_lengths(lengths)
        #: The cache lengths of a batch. The first one is for rows alone that share their prompt.
        self.lengths = after_lengths(lengths) if self.on else lengths
        #: How many rows that wait begin with the same tokens as this one, itself included.
        self.alike: Callable[[Row], int] = lambda row: 1
        self._held: Held | None = None
        self._nothing: Cache | None = None

    @property
    def prefix(self) -> Prefix | None:
        """The prompt that is held."""
        return self._held.prefix if self._held else None

    @property
    def held_bytes(self) -> int:
        """The bytes of the prompt that is held, and of the cache that rows are admitted with, on each device."""
        held: list[Cache] = [self._held.prefix.cache] if self._held else []
        held += [self._nothing] if self._nothing else []
        return sum(self._programs.cache_bytes(width=1, length=cache.length) for cache in held)

    def count(self, row: Row, *, used: bool) -> int:
        """The tokens of its prompt that a row can share: with the rows of the batch, or with others that wait.

        Args:
            row: the row.
            used: whether rows of the batch use the prompt that is held; another one cannot take its place then.
        """
        if self.matches(row):
            return len(row.given) - 1
        if not self.on or used or len(row.given) <= FEWEST_TOKENS:
            return 0
        return self.worth(row, rows=self.alike(row))

    def worth(self, row: Row, *, rows: int) -> int:
        """The tokens of its prompt that a row shares with `rows` rows, itself included; 0 where that does not pay.

        It pays where the cache is smaller than one with a copy for each row: a step takes less time then, too.
        """
        count = len(row.given) - 1
        if not self.on or rows < FEWEST_ROWS or count < FEWEST_TOKENS or row.negative is not None:
            return 0
        apart = rows * bucket(self._lengths, len(row.given) + 1)
        return count if self._length(row) + rows * SHORTEST_AFTER < apart else 0

    def bytes_beside(self, row: Row, shared: int, *, length: int, used: bool) -> int:
        """The bytes that the row needs beside a batch of `length` positions: what it is read into, and the prompt.

        Args:
            row: the row.
            shared: as `count` says.
            length: of the batch's cache.
            used: whether rows of the batch use the prompt that is held.
        """
        size = partial(self._programs.cache_bytes, width=1)
        if not shared:
            return row.caches * size(length=length) + (self.held_bytes if used else 0)
        needed = size(length=self._length(row)) + size(length=length)
        return needed if self.matches(row) else needed + size(length=bucket(self._lengths, len(row.given) + 1))

    def begin(self, row: Row) -> Reading:
        """Begins to read the prompt of a row that shares it."""
        if self._held and self.matches(row):
            return self._held.reading
        length = bucket(self._lengths, len(row.given) + 1)
        return self._prompts.begin(row, length=length, longest=self._length(row))

    def hold(self, reading: Reading) -> None:
        """Reads the rest of a prompt and holds it, in place of the one before, which no row may use any more."""
        if self._held and self.matches(reading.row):
            return
        self._held = None  # frees it first
        prefix = self.read(reading)
        # A copy, since the prompt may be given a longer cache for a batch that does not share it.
        held = copy(reading)
        held.cache = prefix.cache
        self._held = Held(held, prefix)

    def read(self, reading: Reading) -> Prefix:
        """Returns a prompt as the programs take it."""
        cache, _ = self._prompts.finish(reading, length=self._length(reading.row))
        return _prefix(cache, len(reading.row.given) - 1)

    def nothing(self, *, length: int) -> Cache:
        """Returns the cache that a row is admitted with whose whole prompt is shared: an empty one, kept for others."""
        if self._nothing is None or self._nothing.length != length:
            self._nothing = None  # frees it first
            self._nothing = self._programs.row_cache(length=length)
        return self._nothing

    def drop(self) -> None:
        """Lets go of the prompt; no row may use it any more."""
        self._held = self._nothing = None

    def matches(self, row: Row) -> bool:
        """Whether the prompt that is held is the row's."""
        held = self._held and self._held.reading.row
        return (
            held is not None
            and row.negative is None
            and len(held.given) == len(row.given)
            and held.beginning == row.beginning
        )

    def _length(self, row: Row) -> int:
        return bucket(self._prefix_lengths, len(row.given) - 1)


def prefix_lengths(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """The lengths that the cache of a shared prompt can have, ascending; the last one holds the whole context."""
    every_second = lengths[::-2]
    return tuple(sorted(length for length in every_second if length >= SHORTEST_PREFIX or length == lengths[-1]))


def after_lengths(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """The cache lengths of a batch with a shared prompt, ascending."""
    return (SHORTEST_AFTER, *lengths)


def visits(
    programs: Programs,
    *,
    lengths: tuple[int, ...],
    widths: Callable[..., tuple[int, ...]],
    orders: tuple[str, ...],
) -> Iterator[Visit]:
    """Yields visits that together compile every program of batches with a shared prompt, as `visits.visits` does.

    Args:
        programs: the compiled programs.
        lengths: the cache lengths of the engine, ascending.
        widths: those of a cache length, ascending, beside a prompt of `prefix` positions.
        orders: the names of the orders of the sampler's stages.
    """

    def steps(width: int, length: int, prefix: int) -> Iterator[None]:
        shared = _prefix(programs.row_cache(length=prefix), 1)
        for order in orders:
            slots = programs.unshare(programs.empty(width=width, length=length, order=order))
            slots = yield from chunk_visits(programs, slots, order=order, prefix=shared)
            yield
            others = widths(length, prefix=prefix)
            yield from move_visits(programs, slots, longer=longer.get(length), widths=others, order=order)

    after = after_lengths(lengths)
    longer = dict(zip(after, after[1:], strict=False))
    for prefix in prefix_lengths(lengths):
        for length in after:
            for width in widths(length, prefix=prefix):
                yield Visit(prefix + width * length, partial(steps, width, length, prefix))


def _prefix(cache: Cache, filled: int) -> Prefix:
    assert isinstance(cache, SharedCache), "this cache cannot be shared"
    # An array on the host, which takes no program to make.
    return Prefix(cache, np.asarray(filled, np.int32))
