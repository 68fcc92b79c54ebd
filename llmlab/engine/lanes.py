"""Batches with the interface of one: rows with grammars have batches of their own, and CPUs run several at a time.

A row with a grammar needs a mask from the host before every token. In one batch with other rows it would hold them up
at every step; in another, they keep their chunks, and their compiled program with its bits.

XLA's CPU backend computes the products of attention (one small product per row and head) on a single thread, however
wide the batch is. Two batches of 32 rows on two threads take 0.7 times as long as one batch of 64 (two cores, embedded
model). Up to `SPREAD` rows a single batch is faster, because it reads the weights once for all rows.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeAlias

import jax

from llmlab.engine.batch import Batch
from llmlab.engine.chunks import ChunkedBatch
from llmlab.engine.live import Live, Outcome
from llmlab.engine.passes import Passes
from llmlab.engine.planner import CHUNK_SECONDS, Shares
from llmlab.engine.programs import Programs
from llmlab.engine.prompts import Prompts, Reading
from llmlab.engine.scheduler import Job, Row
from llmlab.engine.search import SearchRows
from llmlab.engine.sharing import Sharing
from llmlab.engine.soundness import no_room
from llmlab.engine.steps import SteppedBatch

#: The rows that one lane takes before a second lane is used.
SPREAD = 32

_Outcomes: TypeAlias = list[tuple[Live, Outcome]]


class _Choice(NamedTuple):
    """A lane, how many rows it may expect, and how many of those that are given it takes together."""

    batch: Batch
    coming: int
    taken: int


def lane_count() -> int:
    """The number of lanes: 2 on a CPU of two cores or more, else 1 (an accelerator runs one program at a time)."""
    return 2 if jax.default_backend() == "cpu" and (os.cpu_count() or 1) >= 2 else 1


class Lanes:
    """One or more batches with the interface of one. All methods are called on the driver thread.

    Args:
        programs: the compiled programs, shared.
        count: how many batches for rows with grammars, and how many for other rows.
        together: whether several batches run at the same time; else one after the other.
        widths: the batch widths of each lane, ascending; a single one pins the width.
        lengths: the cache lengths, ascending.
        memory: bytes that all caches together may take; None for no limit.
        ends: the token ids that end a row.
    """

    def __init__(
        self,
        programs: Programs,
        *,
        count: int,
        together: bool,
        widths: tuple[int, ...],
        lengths: tuple[int, ...],
        memory: int | None,
        ends: tuple[int, ...],
    ):
        self.programs = programs
        self._prompts = Prompts(programs, lengths=lengths, memory=memory)
        self._memory = memory
        options = {"widths": widths, "lengths": lengths, "memory": memory, "ends": ends}
        self._chunked = [ChunkedBatch(programs, self._prompts, **options) for _ in range(count)]
        self._stepped = [SteppedBatch(programs, self._prompts, **options) for _ in range(count)]
        self._batches: list[Batch] = [*self._chunked, *self._stepped]
        self._together = together
        self._shares = Shares()
        first = self._chunked[0]

        def width(rows: int, length: int, caches: int) -> int:
            return first.width_for(_share(rows, lanes=count), length=length, caches=caches)

        #: Runs the model over texts that are given whole; single steps have the width that the first lane has.
        self._sharing = sharing = Sharing(programs, self._prompts, lengths=lengths, pinned=len(widths) == 1)
        self.passes = Passes(programs, self._prompts, lengths=lengths, ends=ends, width=width, sharing=sharing)
        self._widths, self._lengths = widths, lengths
        #: The searches that are open, whose caches lie beside those of the batches.
        self._searches: weakref.WeakSet[SearchRows] = weakref.WeakSet()
        self._pool: ThreadPoolExecutor | None = None

    def share_with(self, alike: Callable[[Row], int]) -> None:
        """Says how many waiting rows have a row's given tokens, itself included: they may share its prompt."""
        for batch in self._batches:
            batch.sharing.alike = alike

    @property
    def live(self) -> list[Live]:
        """The rows that are being generated, of all lanes."""
        return [live for batch in self._batches for live in batch.live]

    @property
    def prompts(self) -> Prompts:
        """What reads the rows' prompts, and keeps them."""
        return self._prompts

    def search(self, row: Row, *, rows: int) -> SearchRows:
        """Makes room for a search of up to `rows` rows, which are no more than the widest batch has.

        Raises:
            EngineError: there is no memory for it beside the rows that are being generated and other searches.
        """
        width = next(width for width in self._widths if width >= rows)
        programs, lengths = self.programs, self._lengths
        found = SearchRows(programs, self._prompts, self._sharing, row, width=width, lengths=lengths)
        if self._memory is not None:
            beside = sum(batch.claim for batch in self._batches) + self._searched
            if found.bytes > self._memory - beside:
                raise no_room(found.bytes, of=self._memory, beside=beside, rows=width, budget=row.budget)
            self._prompts.give_way(beside + found.bytes)
        self._searches.add(found)
        return found

    @property
    def _searched(self) -> int:
        """The most bytes that the searches which are open can need on each device."""
        return sum(search.bytes for search in self._searches)

    def rest(self) -> None:
        """Frees the batches' memory and ends the worker threads; the prompts' pieces stay."""
        self._prompts.rest()
        for batch in self._batches:
            batch.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    def clear(self) -> None:
        """Drops every row and every prompt, frees the device's memory and ends the worker threads."""
        self._prompts.clear()
        self.rest()

    def allowed_widths(self, length: int) -> tuple[int, ...]:
        """The lane widths whose cache fits into memory; see `Batch.allowed_widths`."""
        self._limit()
        return self._batches[0].allowed_widths(length)

    def shared_widths(self, length: int, *, prefix: int) -> tuple[int, ...]:
        """The lane widths that fit beside a prompt that rows share; see `Batch.shared_widths`."""
        return self._batches[0].shared_widths(length, prefix=prefix)

    def has_room(self, row: Row) -> bool:
        """Whether some lane can take the row now."""
        return bool(self._roomy(row))

    def begin(self, row: Row, *, waiting: int) -> Reading:
        """Begins to read the prompt of a row for which there is room; `waiting` as in `admit`."""
        return self._choose([row], waiting=waiting).batch.begin(row)

    def admit(self, entrants: Sequence[tuple[Job, int]], *, reading: Reading, waiting: int) -> int:
        """Puts rows that are alike into slots of one lane, as many as go together; returns how many those are.

        Args:
            entrants: the job that each row belongs to, and the row's index in it. For the first there is room.
            reading: of their prompt; what is left of it is read now.
            waiting: the number of rows in the queue that have a grammar, or have none, as these, which are included.
        """
        batch, coming, taken = self._choose([job.rows[index] for job, index in entrants], waiting=waiting)
        batch.admit(entrants[:taken], reading=reading, coming=coming)
        return taken

    def _choose(self, rows: Sequence[Row], *, waiting: int) -> _Choice:
        """The lane for a row and those like it, with memory made free for as many of them as it takes together."""
        row = rows[0]
        lanes = self._of(row)
        share = _share(sum(len(batch.live) for batch in lanes) + waiting, lanes=len(lanes))
        roomy = self._roomy(row)
        batch = next((batch for batch in roomy if len(batch.live) < share), None)
        batch = batch or min(roomy, key=lambda batch: len(batch.live))
        for other in self._batches:  # a lane without rows is counted as using no memory, so it must free its cache
            if other is not batch and not other.live:
                other.clear()
        coming = max(1, min(waiting, share - len(batch.live)))
        taken = batch.room(rows[:coming])
        others = sum(other.claim for other in self._batches if other is not batch)
        self._prompts.give_way(others + batch.claim_with(rows[:taken], coming=coming) + self._searched)
        return _Choice(batch, coming, taken)

    def release(self, job: Job, rows: set[int]) -> int:
        """Frees the slots of some of a job's rows and returns how many slots that were."""
        return sum(batch.release(job, rows) for batch in self._batches)

    def narrow(self) -> None:
        """Makes lanes with few rows narrower, and frees the memory of lanes without rows."""
        for batch in self._batches:
            if batch.live:
                batch.narrow()
            else:
                batch.clear()

    @property
    def in_flight(self) -> bool:
        """Whether a chunk runs on the device whose tokens have not been read."""
        return any(batch.in_flight for batch in self._chunked)

    def run(self, *, order: str, ahead: bool = False) -> _Outcomes:
        """Runs a chunk, or a burst of steps, in every lane that has rows and returns what each row got.

        With `ahead`, the chunks after these are launched first, so that the device goes on while the host is busy. They
        are half as long then: rows that come wait for what was launched.
        """
        chunked = [batch for batch in self._chunked if batch.live]
        stepped = [batch for batch in self._stepped if batch.live]
        for batch in [*chunked, *stepped]:
            batch.renew()
        if not (chunked and stepped):
            self._shares.alone()
            until, seconds = _timer(CHUNK_SECONDS), _seconds(ahead)
            runs = [partial(batch.run, order=order, seconds=seconds, ahead=ahead) for batch in chunked]
            return self._at_once([*runs, *(partial(batch.run, order=order, enough=until) for batch in stepped)])
        if self._together:
            return self._side_by_side(chunked, stepped, order=order, ahead=ahead)
        return self._in_turn(chunked, stepped, order=order)

    def _side_by_side(
        self, chunked: list[ChunkedBatch], stepped: list[SteppedBatch], *, order: str, ahead: bool
    ) -> _Outcomes:
        """Runs chunks, and at the same time as many steps of the rows with grammars, or as many as are done by then."""
        most = max(batch.steps(_seconds(ahead)) for batch in chunked)
        left, done, until = threading.Semaphore(len(chunked) - 1), threading.Event(), _timer(CHUNK_SECONDS)

        def chunk(batch: ChunkedBatch) -> _Outcomes:
            try:
                return batch.run(order=order, seconds=_seconds(ahead), ahead=ahead)
            finally:
                if not left.acquire(blocking=False):  # the last of them
                    done.set()

        def enough() -> bool:
            return done.is_set() or until()

        bursts = [partial(batch.run, order=order, most=most, enough=enough) for batch in stepped]
        return self._at_once([*(partial(chunk, batch) for batch in chunked), *bursts])

    def _in_turn(self, chunked: list[ChunkedBatch], stepped: list[SteppedBatch], *, order: str) -> _Outcomes:
        """Runs chunks, and then the steps that the rows with grammars may have for it."""
        steps = max(batch.steps(CHUNK_SECONDS / 2) for batch in chunked)
        began = time.perf_counter()
        found = [outcome for batch in chunked for outcome in batch.run(order=order, seconds=CHUNK_SECONDS / 2)]
        middle = time.perf_counter()
        if burst := self._shares.chunk_done(steps, middle - began):
            for batch in stepped:
                found += batch.run(order=order, most=burst.steps, enough=_timer(burst.seconds))
            self._shares.burst_done(time.perf_counter() - middle)
        return found

    def _at_once(self, runs: Sequence[Callable[[], _Outcomes]]) -> _Outcomes:
        """Calls functions at the same time, each on a thread of its own, and joins what they return."""
        if len(runs) == 1:
            return runs[0]()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(self._batches) - 1, thread_name_prefix="llmlab-lane")
        others = [self._pool.submit(run) for run in runs[1:]]
        try:
            found = runs[0]()
        finally:  # no lane may still run while an error is handled
            rest = [other.exception() or other.result() for other in others]
        for outcome in rest:
            if isinstance(outcome, BaseException):
                raise outcome
            found += outcome
        return found

    def _of(self, row: Row) -> Sequence[Batch]:
        """The lanes for rows like this one: with a grammar, or without."""
        return self._stepped if row.grammar else self._chunked

    def _roomy(self, row: Row) -> list[Batch]:
        """The lanes that can take a row, with the memory that the other lanes' rows may still need set aside."""
        self._limit()
        return [batch for batch in self._of(row) if batch.has_room(row)]

    def _limit(self) -> None:
        """Tells each lane what memory the others leave it. Rows in another lane may have to end first."""
        # A batch has a claim where it has rows.
        claims, searched = [batch.claim for batch in self._batches], self._searched
        for batch, claim in zip(self._batches, claims, strict=True):
            others = sum(claims) - claim
            batch.spare = others > 0
            if self._memory is not None:
                batch.memory = self._memory - others - searched


def _share(rows: int, *, lanes: int) -> int:
    """The rows that one lane takes of so many."""
    return rows if rows <= SPREAD else -(-rows // lanes)


def _seconds(ahead: bool) -> float:
    """The seconds that a chunk should take: two of them are on their way where one is launched ahead."""
    return CHUNK_SECONDS / 2 if ahead else CHUNK_SECONDS


def _timer(seconds: float) -> Callable[[], bool]:
    """A function that tells whether so many seconds have passed since now."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end
