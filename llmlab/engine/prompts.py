"""Reads prompts: computes their keys and values, starting from the longest beginning that was read before."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import replace

import jax

from llmlab.engine.prefill import PromptPiece, piece_sizes, pieces
from llmlab.engine.prefix_store import Node, PrefixStore
from llmlab.engine.programs import Programs
from llmlab.engine.scheduler import Row
from llmlab.models.kv.protocol import Cache

#: The share of the caches' memory that prompts may take which no row uses.
STORE_SHARE = 0.25

#: The bytes that they may take where the memory is unknown.
STORE_BYTES = 2**28


class Prompts:
    """Runs each prompt through the model once, and what several prompts begin with once.

    The pieces of a prompt are the same whether some of them are in the store or none, and a piece that comes from the
    store holds the bits that were computed when it was read. So in a cache of one length a prompt's entries do not
    depend on what was read before.

    Args:
        programs: the compiled programs.
        lengths: the cache lengths, ascending.
        memory: bytes for the caches of the batch and of the prompts together; None for no limit.
    """

    def __init__(self, programs: Programs, *, lengths: tuple[int, ...], memory: int | None):
        self.programs = programs
        self.sizes = piece_sizes(lengths[-1])
        self._lengths = lengths
        self._memory = memory
        self._most = STORE_BYTES if memory is None else int(memory * STORE_SHARE)
        self.store: PrefixStore[Cache] = PrefixStore(self._most)
        self._last: Reading | None = None
        self.prefills = 0  #: the number of prompts of which something was run through the model
        self.read_tokens = 0  #: the number of prompt tokens that were run through the model

    @property
    def held_bytes(self) -> int:
        """The bytes of the prompts that are kept, on each device."""
        return self.store.size

    def clear(self) -> None:
        """Forgets all prompts."""
        self._last = None
        self.store.clear()

    def rest(self) -> None:
        """Drops the cache that rows would share; its pieces stay in the store."""
        self._last = None

    def give_way(self, needed: int) -> None:
        """Leaves the batch the bytes that it needs on each device, and what a row takes while its prompt is read."""
        if self._memory is not None:
            self.store.limit(max(0, min(self._most, self._memory - needed)))

    def begin(self, row: Row, *, length: int, longest: int = 0) -> Reading:
        """Begins to read all given tokens of a row except the last into a cache of `length` positions.

        What was read last may be in one of any length up to that or, if that is more, `longest`.
        """
        last = self._last
        if last is not None and last.row.key == row.key and last.cache.length <= max(length, longest):
            return last
        self._last = None  # frees it first
        return Reading(self, row, length=length)

    def finish(self, reading: Reading, *, length: int) -> tuple[Cache, Cache | None]:
        """Reads the rest of a prompt and returns its cache, of `length` positions, and that of its negative prompt.

        Rows of one prompt that are admitted one after the other share it, so that it must not be donated.
        """
        try:
            while not reading.done:
                reading.advance()
        finally:
            reading.close()
        if reading.cache.length > length:  # the batch that it was begun for is gone
            return self.read_all(reading.row, length=length)
        for one in (reading, *([reading.negative] if reading.negative else [])):
            while one.cache.length < length:
                longer = self._lengths[self._lengths.index(one.cache.length) + 1]
                one.cache = self.programs.lengthen(one.cache, length=longer)
        self._last = reading
        return reading.cache, None if reading.negative is None else reading.negative.cache

    def read(self, row: Row, *, length: int) -> Cache:
        """Returns the cache of a row's prompt at once."""
        return self.finish(self.begin(replace(row, negative=None), length=length), length=length)[0]

    def read_all(self, row: Row, *, length: int) -> tuple[Cache, Cache | None]:
        """Returns what `finish` does, at once."""
        return self.finish(self.begin(row, length=length), length=length)


class Reading:
    """A prompt on the way into a cache, one piece after the other. `close` it, done or not.

    The row's negative prompt, if it has one, is read after it, into a cache of its own.
    """

    def __init__(self, prompts: Prompts, row: Row, *, length: int):
        self._prompts, self._programs, self._store = prompts, prompts.programs, prompts.store
        self.row, self._length, self._adapter = row, len(row.given), row.adapter
        switch = self._programs.config.context_switch
        #: A text beyond the switch is rotated in another way from its first token on.
        self._far = switch is not None and self._length > switch
        ahead = list(pieces(row.given[:-1], sizes=prompts.sizes))
        path = self._store.find(self._key(piece) for piece in ahead)
        self._node: Node[Cache] | None = path[-1] if path else None
        self._stored = True
        self._ahead = deque(ahead[len(path) :])
        self.cache = self._programs.row_cache(length=length)
        for node, piece in zip(path, ahead, strict=False):
            self.cache = self._programs.place(self.cache, node.value, piece.start)
        self._store.hold(self._node)
        prompts.prefills += bool(self._ahead)
        self.negative = None if row.negative is None else Reading(prompts, row.companion, length=length)

    @property
    def done(self) -> bool:
        """Whether the whole prompt is in the cache."""
        return not self._ahead and (self.negative is None or self.negative.done)

    @property
    def shape(self) -> tuple[int, int]:
        """What the time of the next piece depends on: its tokens, padding included, and the positions of the cache."""
        if not self._ahead and self.negative is not None:
            return self.negative.shape
        return self._ahead[0].padded.shape[1], self.cache.length

    def advance(self, *, wait: bool = False) -> None:
        """Reads the next piece, and keeps it where the store has room for it and its predecessors.

        With `wait`, it returns when the device has done so.
        """
        if not self._ahead and self.negative is not None:
            self.negative.advance(wait=wait)
            return
        piece = self._ahead.popleft()
        self.cache, entries = self._programs.prefill(
            self.cache, piece.padded, piece.start, length=self._length, adapter=self._adapter
        )
        self._prompts.read_tokens += len(piece.ids)
        if wait:
            jax.block_until_ready(entries)
        if not self._stored:
            return
        size = self._programs.cache_bytes(width=1, length=entries.length)
        node = self._store.add(self._node, self._key(piece), entries, size=size)
        self._stored = node is not None
        if node is not None:
            self._store.hold(node)
            self._store.release(self._node)
            self._node = node

    def close(self) -> None:
        """Lets go of the pieces that it began with."""
        self._store.release(self._node)
        self._node, self._stored = None, False
        if self.negative is not None:
            self.negative.close()

    def _key(self, piece: PromptPiece) -> Hashable:
        return self._far, self._adapter, piece.ids.tobytes()
