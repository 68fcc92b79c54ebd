"""Search over continuations of one prompt: rows of a cache that go on from any of each other, step by step.

A caller opens a `Search`, which reads the prompt once, and says at each step which rows come next: each is a row of the
step before with one more token. It gets raw logits and decides by itself; beam search, sampling without replacement and
best-first search differ in nothing else. The rows may be of different lengths, and as many as the search was opened
for; no number of them and no choice of parents compiles anything.

A search has a cache of its own. Its steps run on the driver thread, between the chunks of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Integer

from llmlab.engine.live import positions as positions_of
from llmlab.engine.programs import Programs
from llmlab.engine.prompts import Prompts
from llmlab.engine.scheduler import Row, bucket
from llmlab.engine.sharing import Sharing
from llmlab.engine.soundness import sound
from llmlab.errors import EngineError
from llmlab.models.kv.joined import Prefix
from llmlab.models.kv.protocol import Cache

__all__ = ["SearchRows", "Search"]


class SearchRows:
    """The rows of a search on the device. All methods except `clear` are called on the driver thread.

    Args:
        programs: the compiled programs.
        prompts: reads the prompt.
        sharing: tells whether the rows share the prompt's cache, or have copies of it.
        row: the given tokens, and how many may follow them.
        width: the rows of the cache.
        lengths: the cache lengths of the engine, ascending.
    """

    def __init__(
        self,
        programs: Programs,
        prompts: Prompts,
        sharing: Sharing,
        row: Row,
        *,
        width: int,
        lengths: tuple[int, ...],
    ) -> None:
        self._programs, self._prompts, self._sharing, self._row = programs, prompts, sharing, row
        self.width = width
        self._shared = sharing.worth(row, rows=width)
        self._lengths = sharing.lengths if self._shared else lengths
        self._cache: Cache | None = None
        self._prefix: Prefix | None = None
        self._closed = False
        self.vocab_size, self.switch = programs.config.vocab_size, programs.config.context_switch
        self.bytes = self._bytes()  #: the most that it can need on each device; 0 once it is closed

    def _bytes(self) -> int:
        size, row = self._programs.cache_bytes, self._row
        longest = bucket(self._lengths, positions_of(row, shared=self._shared, more=row.budget))
        # The rows of a step are copied from those before it, so that there are two caches for a moment.
        rows = 2 * size(width=self.width, length=longest)
        return rows + self._sharing.bytes_beside(row, self._shared, length=longest, used=False)

    def begin(self) -> Iterator[bool]:
        """Reads the prompt; yields after each piece of it, and where there is nothing to read."""
        row, shared = self._row, self._shared
        length = bucket(self._lengths, positions_of(row, shared=shared, more=1))
        reading = self._sharing.begin(row) if shared else self._prompts.begin(row, length=length)
        try:
            while not reading.done:
                reading.advance()
                yield True
            cache = self._programs.row_cache(length=length, width=self.width)
            if shared:
                self._prefix = self._sharing.read(reading)
            else:
                one, _ = self._prompts.finish(reading, length=length)
                cache = self._programs.seat(cache, one, np.ones(self.width, bool), len(row.given) - 1)
        finally:
            reading.close()
        self._keep(cache)
        yield True

    def step(
        self, parents: np.ndarray, tokens: np.ndarray, positions: np.ndarray, texts: Sequence[np.ndarray] | None
    ) -> Float32[np.ndarray, "K V"]:
        """Feeds a token to each of K rows, and returns the raw logits after them.

        Args:
            parents: the row that each goes on from.
            tokens: token ids [K].
            positions: of the tokens.
            texts: the tokens of each row after the given ones, these included; only for a model with a context switch.
        """
        cache = self._cache
        if cache is None:
            raise EngineError("this search is closed")
        while cache.length < int(positions.max()) + 1 - self._shared:
            cache = self._programs.lengthen(cache, length=self._lengths[self._lengths.index(cache.length) + 1])
        count = len(tokens)
        # Rows that nobody wants repeat the first one.
        parents, tokens, positions = (np.resize(x, self.width).astype(np.int32) for x in (parents, tokens, positions))
        parents[count:], tokens[count:], positions[count:] = parents[0], tokens[0], positions[0]
        if texts is not None and self.switch in positions[:count]:
            cache = self._programs.take(cache, parents)
            parents = np.arange(self.width, dtype=np.int32)
            for at in np.flatnonzero(positions[:count] == self.switch).tolist():
                cache = self._read_anew(cache, at, texts[at])
        cache, raw = self._programs.expand(
            cache, parents=parents, tokens=tokens, positions=positions, prefix=self._prefix, adapter=self._row.adapter
        )
        self._keep(cache)
        return sound(np.asarray(jax.device_get(raw), np.float32)[:count], self._programs.dtype)

    def clear(self) -> None:
        """Frees the memory. Any thread may call it, also during a step, which then leaves nothing."""
        self._closed = True
        self._cache = self._prefix = None
        self.bytes = 0

    def _keep(self, cache: Cache) -> None:
        self._cache = cache
        if self._closed:
            self._cache = self._prefix = None

    def _read_anew(self, cache: Cache, at: int, text: np.ndarray) -> Cache:
        """The cache with a row's text read anew, which its next token takes past `ModelConfig.context_switch`."""
        row = replace(self._row, made=np.concatenate([self._row.made, text]).astype(np.int32))
        one = self._prompts.read(row, length=cache.length)
        return self._programs.seat(cache, one, np.arange(self.width) == at, len(row.given) - 1)


class Search:
    """A search over continuations of one prompt. `Engine.search` opens one; close it, or use it as a context.

        with engine.search(row, rows=4) as search:
            first = search.start()                       # [V]
            logits = search.advance([0, 0], [17, 4])     # two rows begin with tokens 17 and 4; [2, V]
            logits = search.advance([1, 1, 0], [5, 6, 7])

    One thread uses it at a time. An error or an interrupt during a step closes it.

    Args:
        held: the rows on the device.
        row: the given tokens, and how many may follow them.
        rows: the most rows of a step.
        call: calls a function on the driver thread.
    """

    def __init__(self, held: SearchRows, row: Row, *, rows: int, call: Callable[[Callable[[], Any]], Any]) -> None:
        self._held, self._row, self._call = held, row, call
        self.rows, self.vocab_size = rows, held.vocab_size
        #: Of each row: its last token, and that token's position.
        self._tokens = row.given[-1:]
        self._positions = np.array([len(row.given) - 1], np.int32)
        self._texts: list[np.ndarray] | None = None if held.switch is None else [np.zeros(0, np.int32)]

    @classmethod
    def open(
        cls,
        make: Callable[..., SearchRows],
        row: Row,
        *,
        rows: int,
        widest: int,
        call: Callable[[Callable[[], Any]], Any],
    ) -> Search:
        """Makes room for the rows and reads the prompt, piece by piece.

        Args:
            make: makes room, on the driver thread.
            row: the given tokens, and how many may follow them.
            rows: the most rows of a step.
            widest: the most rows that a search can have.
            call: calls a function on the driver thread.

        Raises:
            ValueError: more rows than that, or none.
            EngineError: there is no memory for them.
        """
        if not 1 <= rows <= widest:
            raise ValueError(f"a search has 1 to {widest} rows, got {rows}")
        search = cls(call(lambda: make(row, rows=rows)), row, rows=rows, call=call)
        try:
            reading = search._held.begin()
            while call(lambda: next(reading, False)):
                pass
        except BaseException:
            search.close()
            raise
        return search

    def start(self) -> Float32[np.ndarray, " V"]:
        """Returns the raw logits of the first token after the given ones: there is one row then.

        It may be called before the first step only.
        """
        return self.advance([0], [-1])[0]

    def advance(
        self, parents: Sequence[int] | Integer[np.ndarray, " K"], tokens: Sequence[int] | Integer[np.ndarray, " K"]
    ) -> Float32[np.ndarray, "K V"]:
        """Returns the raw logits after K rows, which take the place of the rows of the step before.

        Args:
            parents: the number of the row that each goes on from, counted among those of the step before.
            tokens: the token id that each gets; -1 keeps a row as it is, and its logits are those it had.

        Raises:
            ValueError: too many rows, no such parent or token, or no room for another token of a row.
            EngineError: the search is closed, or the model failed.
        """
        parents, tokens = np.asarray(parents, np.int32), np.asarray(tokens, np.int32)
        if parents.shape != tokens.shape or not 1 <= len(tokens) <= self.rows:
            raise ValueError(f"a step has 1 to {self.rows} rows, each a parent and a token; got {len(parents)} parents "
                             f"and {len(tokens)} tokens")  # fmt: skip
        if parents.min() < 0 or parents.max() >= len(self._tokens):
            raise ValueError(f"parents must lie in 0..{len(self._tokens) - 1}, got {parents.tolist()}")
        if tokens.min() < -1 or tokens.max() >= self.vocab_size:
            raise ValueError(f"tokens must lie in -1..{self.vocab_size - 1}, got {tokens.tolist()}")
        moved = tokens >= 0
        positions = self._positions[parents] + moved
        most = len(self._row.given) + self._row.budget
        if positions.max() >= most:
            raise ValueError(f"the search has room for {self._row.budget} tokens in a row")
        tokens = np.where(moved, tokens, self._tokens[parents]).astype(np.int32)
        texts = None
        if self._texts is not None:
            old = self._texts
            texts = [
                np.append(old[p], t) if more else old[p] for p, t, more in zip(parents, tokens, moved, strict=True)
            ]
        try:
            found = self._call(lambda: self._held.step(parents, tokens, positions, texts))
        except BaseException:
            self.close()
            raise
        self._tokens, self._positions, self._texts = tokens, positions.astype(np.int32), texts
        logits: Float32[np.ndarray, "K V"] = found
        return logits

    def close(self) -> None:
        """Frees the search's memory. It may be called at any time, and more than once."""
        self._held.clear()

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
