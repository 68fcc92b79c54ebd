"""Prefilled prompts: the KV cache of each, kept for the rows that share it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from llmlab.engine.prefill import padded_length, piece_sizes, pieces
from llmlab.engine.programs import Programs
from llmlab.engine.scheduler import Row
from llmlab.models.kv.protocol import Cache

#: The number of prefilled prompts that are kept although no row waits for them.
KEPT_PROMPTS = 2


class Prompts:
    """Runs each prompt through the model once, however many rows share it.

    Args:
        programs: the compiled programs.
        lengths: the cache lengths, ascending.
    """

    def __init__(self, programs: Programs, *, lengths: tuple[int, ...]):
        self._programs = programs
        self._lengths = lengths
        self._sizes = piece_sizes(lengths[-1])
        self._read: OrderedDict[bytes, Cache] = OrderedDict()
        self.prefills = 0  #: the number of prompts that were run through the model

    def clear(self) -> None:
        """Drops all prompts."""
        self._read.clear()

    def row_length(self, row: Row) -> int:
        """The positions that a row needs at admission: its given tokens in padded pieces, and one more token."""
        return max(len(row.given) + 1, padded_length(len(row.given) - 1, sizes=self._sizes))

    def read(self, row: Row, *, length: int, waits: Callable[[bytes], bool]) -> Cache:
        """Returns the cache, of `length` positions, of all given tokens except the last.

        `waits` tells whether a row with a given key is in the queue; prompts that no row waits for are dropped in time.
        """
        held = self._read.pop(row.key, None)
        if held is None or held.length > length:
            held = self._programs.row_cache(length=length)
            for start, tokens in pieces(row.given[:-1], sizes=self._sizes):
                held = self._programs.prefill(held, tokens, start)
            self.prefills += 1
        while held.length < length:
            longer = self._lengths[self._lengths.index(held.length) + 1]
            held = self._programs.lengthen(held, length=longer)
        self._read[row.key] = held
        for old in list(self._read)[:-KEPT_PROMPTS]:
            if not waits(old):
                del self._read[old]
        return held
