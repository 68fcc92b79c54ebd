"""Who runs when: buckets of shapes, rows waiting for a slot, and the ticket through which their tokens are read."""

from __future__ import annotations

import queue
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from llmlab.grammar.matcher import Grammar
from llmlab.sampling.logprobs import Figures
from llmlab.sampling.params import SamplingParams

#: The batch widths that are compiled for; `load(slots=N)` pins one of the caller's. 64 is there for CPUs, where a step
#: of a small model costs as much as its width: 64 rows in 128 slots would take nearly twice as long.
WIDTHS = (1, 8, 32, 64, 128)

#: How often a reader that waits is told so.
WAIT_SECONDS = 0.5

#: The shortest cache; each next one is twice as long.
SHORTEST = 128


def cache_lengths(max_context: int) -> tuple[int, ...]:
    """The cache lengths that are compiled for; the last one holds the whole context."""
    lengths = [SHORTEST]
    while lengths[-1] < max_context:
        lengths.append(lengths[-1] * 2)
    return tuple(lengths)


@dataclass(frozen=True, eq=False)
class Row:
    """One sequence to generate: prompt ids (at least one), its sampling, and how many tokens it may make.

    `made` are tokens that count as generated already: they follow the prompt, penalties count them, and the noise of
    the next one is that of its place behind them. A `grammar` says what the tokens may spell. Once it is complete and
    nothing more may come the row ends, whether or not `ignore_ends` or its min_tokens would have it go on.
    """

    prompt: np.ndarray
    params: SamplingParams
    budget: int
    ignore_ends: bool = False
    grammar: Grammar | None = None
    made: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @cached_property
    def given(self) -> np.ndarray:
        """All the tokens that are there before the first one is drawn."""
        return np.concatenate([self.prompt, self.made]).astype(np.int32)

    @property
    def key(self) -> bytes:
        """Rows with one key share one prefill."""
        return self.given.tobytes()


class Piece(NamedTuple):
    """A run of tokens of one row, as they leave the device: ids [T], figures [T, ...].

    `finish` is None while the row goes on; "length", or "stop": an end token, which is the last of the tokens, or a
    grammar that nothing can follow (then there may be no token at all).
    """

    row: int
    tokens: np.ndarray
    figures: Figures
    finish: str | None


@dataclass(eq=False)
class Job:
    """The engine's side of a ticket. Jobs of one `client` count as one when slots are given out."""

    rows: Sequence[Row]
    order: str
    client: object = None  #: None: the job by itself
    results: queue.SimpleQueue[list[Piece] | BaseException | None] = field(default_factory=queue.SimpleQueue)
    waiting: deque[int] = field(default_factory=deque)
    open: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.waiting.extend(range(len(self.rows)))
        self.open.update(range(len(self.rows)))


class Ticket:
    """The reader's side: iterate for blocks of pieces until every row has ended; `cancel` at any time.

    Leaving the iteration early, by an exception, an interrupt or by forgetting the ticket, cancels its rows and no
    others. `on_wait`, where it is set, is called on the reader's thread about twice a second while nothing comes.
    """

    def __init__(self, job: Job, cancel: Callable[[Job, Iterable[int] | None], None]):
        self._job = job
        self._cancel = cancel
        self.on_wait: Callable[[], None] | None = None
        self._gone = weakref.finalize(self, cancel, job, None)
        self._gone.atexit = False

    def cancel(self, rows: Iterable[int] | None = None) -> None:
        """Stop some rows, or all. What they have made was already handed out; nothing more comes."""
        self._cancel(self._job, rows)

    def __iter__(self) -> Iterator[list[Piece]]:
        try:
            while True:
                try:
                    block = self._job.results.get(timeout=WAIT_SECONDS)
                except queue.Empty:
                    if self.on_wait:
                        self.on_wait()
                    continue
                if block is None or isinstance(block, BaseException):
                    self._job.results.put(block)  # whoever reads on comes to the same end
                    if block is None:
                        return
                    raise block
                kept = [piece for piece in block if piece.row not in self._job.dropped]
                if kept:
                    yield kept
        finally:
            # Cancels, and lets go of the job: an error in its results remembers this frame, and with it the ticket,
            # which could then never be forgotten.
            self._gone()


class Scheduler:
    """Rows in line for a slot. The next one comes from the client with the fewest rows running, and there from the
    oldest job: a long sweep does not shut out a short question, and its own requests end one after the other."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._running: dict[Job, int] = {}

    def add(self, job: Job) -> None:
        """Put a job's rows in line."""
        self._jobs.append(job)

    def drop(self, job: Job, rows: Iterable[int]) -> None:
        """Take rows out of line."""
        gone = set(rows)
        job.waiting = deque(row for row in job.waiting if row not in gone)
        self._forget(job)

    def first(self, *, order: str | None) -> tuple[Job, int] | None:
        """Who is next in line, of the given order (one program runs one order at a time), or of any.

        Nobody, once who has waited longest wants another order: it gets its turn when the batch has run empty.
        """
        ready = [job for job in self._jobs if job.waiting]
        if not ready or order not in (None, ready[0].order):
            return None
        ready = [job for job in ready if order in (None, job.order)]
        running: dict[object, int] = {}
        for job, count in self._running.items():
            running[_client(job)] = running.get(_client(job), 0) + count
        job = min(ready, key=lambda job: running.get(_client(job), 0))
        return job, job.waiting[0]

    def started(self, job: Job) -> None:
        """The job's first row in line has a slot."""
        job.waiting.popleft()
        self._running[job] = self._running.get(job, 0) + 1

    def ended(self, job: Job) -> None:
        """One of the job's running rows has left its slot."""
        self._running[job] -= 1
        self._forget(job)

    def waits(self, key: bytes) -> bool:
        """Whether a row with this prompt is in line."""
        return any(job.rows[row].key == key for job in self._jobs for row in job.waiting)

    def waiting(self, *, order: str | None) -> int:
        """How many rows are in line."""
        return sum(len(job.waiting) for job in self._jobs if order in (None, job.order))

    def clear(self) -> list[Job]:
        """Forget everything; the jobs that were not done."""
        jobs, self._jobs, self._running = list(self._jobs), [], {}
        return jobs

    def _forget(self, job: Job) -> None:
        if job in self._jobs and not job.waiting and not self._running.get(job):
            self._jobs.remove(job)
            self._running.pop(job, None)


def _client(job: Job) -> object:
    return job if job.client is None else job.client
