"""Rows, the queue in which they wait for a slot, and the ticket from which their tokens are read."""

from __future__ import annotations

import queue
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import heapify, heappop, heapreplace
from itertools import chain, islice, repeat
from typing import NamedTuple

import numpy as np

from llmlab.engine.state import Guessed
from llmlab.grammar.matcher import Grammar
from llmlab.sampling.logprobs import TokenStatistics
from llmlab.sampling.orders import order_of
from llmlab.sampling.params import SamplingParams, same_tokens
from llmlab.sampling.stage import reads_negative
from llmlab.sampling.states import stateful

#: The batch widths that programs are compiled for; `load(slots=N)` pins one width instead. 64 is there for CPUs, where
#: the time of a small model's step is proportional to its width: 64 rows in 128 slots would take nearly twice as long.
WIDTHS = (1, 8, 32, 64, 128)

#: Seconds after which a waiting reader's `on_wait` is called, again and again.
WAIT_SECONDS = 0.5

#: How many rows may be admitted before one that was there first and does not fit into memory yet.
PATIENCE = 32

#: The shortest cache, in positions; each longer bucket is twice as long as the one before.
SHORTEST = 128


def cache_lengths(max_context: int) -> tuple[int, ...]:
    """The cache lengths that programs are compiled for; the last one holds the whole context."""
    lengths = [SHORTEST]
    while lengths[-1] < max_context:
        lengths.append(lengths[-1] * 2)
    return tuple(lengths)


def bucket(lengths: Sequence[int], length: int) -> int:
    """Returns the shortest of ascending cache lengths that holds `length` positions; the longest where none does."""
    return next((each for each in lengths if each >= length), lengths[-1])


def check_ids(given: np.ndarray, *, budget: int, context: int, vocab_size: int) -> None:
    """Raises ValueError if a row has no tokens [L], is too long with its budget, or has ids outside the vocabulary."""
    if len(given) < 1:
        raise ValueError("a row needs at least one prompt token")
    if len(given) + budget > context:
        raise ValueError(f"{len(given)} prompt tokens and {budget} more exceed {context} positions")
    if np.min(given) < 0 or np.max(given) >= vocab_size:
        raise ValueError(f"prompt ids must lie in 0..{vocab_size - 1}")


def check_row(
    row: Row, *, context: int, vocab_size: int, more: Sequence[int] | np.ndarray = (), budget: int = 0
) -> None:
    """Raises ValueError as `check_ids` does, for a row's prompt and its negative prompt with `more` tokens after it."""
    for each in (row,) if row.negative is None else (row, row.companion):
        check_ids(np.append(each.given, more), budget=budget, context=context, vocab_size=vocab_size)


@dataclass(frozen=True, eq=False)
class Row:
    """One sequence to generate.

    Attributes:
        prompt: token ids [L], at least one.
        params: the sampling parameters, with the row's own end tokens (`stop_token_ids`).
        budget: the most tokens that may be generated.
        ignore_ends: whether the model's end tokens are drawn like any other token and end nothing.
        grammar: restricts the tokens. A complete grammar that allows nothing more ends the row, even where
            `ignore_ends` or min_tokens would let it go on.
        made: token ids that count as generated already. They follow the prompt, penalties count them, and the noise of
            the next token is that of its position after them.
        adapter: the number of the decoder's adapter that the row has, from 1; 0 for the base alone.
        states: the states of the sampler's stages after `made`, each with 1 as first axis; None where the order has no
            stage with a state, or where nothing was made.
        negative: token ids, at least one, of the prompt that the generated tokens follow too, for the stages that read
            the logits after it; None where the order has no such stage.
    """

    prompt: np.ndarray
    params: SamplingParams
    budget: int
    ignore_ends: bool = False
    grammar: Grammar | None = None
    made: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    adapter: int = 0
    states: Mapping[str, np.ndarray] | None = None
    negative: np.ndarray | None = None

    @cached_property
    def companion(self) -> Row:
        """The row of the negative prompt, with the same generated tokens."""
        assert self.negative is not None, "the row has no negative prompt"
        return Row(self.negative, SamplingParams(), budget=self.budget, made=self.made, adapter=self.adapter)

    @property
    def ahead(self) -> int:
        """How many tokens the negative prompt is longer than the prompt; below 0 if shorter, 0 where there is none."""
        return 0 if self.negative is None else len(self.negative) - len(self.prompt)

    @property
    def caches(self) -> int:
        """How many caches the row takes."""
        return 1 if self.negative is None else 2

    @cached_property
    def given(self) -> np.ndarray:
        """The tokens before the first one that is drawn: the prompt, then `made`."""
        return np.concatenate([self.prompt, self.made]).astype(np.int32)

    def for_order(self, order: str) -> Row:
        """The row with a negative prompt where the order reads one, by default the prompt's last token; else without.

        Source of the default: Sanchez et al. 2023 (arXiv:2306.17806), as transformers has it.
        """
        if not reads_negative(order_of(order)):
            return self if self.negative is None else replace(self, negative=None)
        return self if self.negative is not None else replace(self, negative=self.prompt[-1:])

    @cached_property
    def beginning(self) -> bytes:
        """Identifies the given tokens except the last, and the adapter: what the cache holds of the row at first."""
        return np.append(np.int32(self.adapter), self.given[:-1]).tobytes()

    @cached_property
    def key(self) -> bytes:
        """Identifies the given tokens, the adapter and the negative prompt; rows with equal keys share one prefill."""
        found = np.append(np.int32(self.adapter), self.given)
        return found.tobytes() if self.negative is None else np.concatenate([found, [-1], self.negative]).tobytes()

    def like(self, other: Row) -> bool:
        """Whether the rows differ in numbers of their parameters, budgets and grammars alone.

        Such rows enter a batch together: the cache and all that has an axis for the vocabulary is the same for them.
        """
        return (
            self.key == other.key
            and len(self.made) == len(other.made)
            and self.ignore_ends == other.ignore_ends
            and bool(self.grammar) is bool(other.grammar)
            and same_tokens(self.params, other.params)
        )


class Piece(NamedTuple):
    """Consecutive tokens of one row as they leave the device: ids [T], statistics [T, ...].

    `finish` is None while the row goes on, "length" where its budget is used up, and "stop" where it ended with an end
    token (the last of the tokens) or with a complete grammar that allows nothing more (then T may be 0). `guessed` is
    None where no guesses were read (`engine.speculate`).
    """

    row: int
    tokens: np.ndarray
    figures: TokenStatistics
    finish: str | None
    guessed: Guessed | None = None


@dataclass(eq=False)
class Job:
    """The engine's side of a ticket: rows submitted together. Jobs of one `client` share that client's slots."""

    rows: Sequence[Row]
    order: str
    client: object = None  #: None makes the job a client of its own
    results: queue.SimpleQueue[list[Piece] | BaseException | None] = field(default_factory=queue.SimpleQueue)
    waiting: deque[int] = field(default_factory=deque)
    open: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    passed: int = 0  #: how many rows of other jobs were admitted because this job's next row did not fit

    @property
    def client_key(self) -> object:
        """Who submitted it: the job itself where it is a client of its own."""
        return self if self.client is None else self.client

    def __post_init__(self) -> None:
        if any(len(row.made) and row.states is None for row in self.rows) and (lost := stateful(order_of(self.order))):
            raise ValueError(f"rows that begin with generated tokens need the state of the stage {lost[0].name}")
        self.waiting.extend(range(len(self.rows)))
        self.open.update(range(len(self.rows)))


class Ticket:
    """The reader's side of a job: iterating yields lists of pieces until every row has ended.

    Leaving the iteration early (an exception, an interrupt, a ticket that is garbage collected) cancels these rows and
    no others. `on_wait`, if it is set, is called on the reading thread about twice a second while nothing arrives, and
    `lost` says then why nothing can arrive any more.
    """

    def __init__(
        self,
        job: Job,
        cancel: Callable[[Job, Iterable[int] | None], None],
        *,
        lost: Callable[[], BaseException | None] = lambda: None,
    ):
        self._job = job
        self._cancel = cancel
        self._lost = lost
        self.on_wait: Callable[[], None] | None = None
        self._gone = weakref.finalize(self, cancel, job, None)
        self._gone.atexit = False

    def cancel(self, rows: Iterable[int] | None = None) -> None:
        """Stops some rows, or all of them. Tokens that were handed out remain valid; no more follow."""
        self._cancel(self._job, rows)

    def __iter__(self) -> Iterator[list[Piece]]:
        try:
            while True:
                try:
                    block = self._job.results.get(timeout=WAIT_SECONDS)
                except queue.Empty:
                    if self.on_wait:
                        self.on_wait()
                    if lost := self._lost():
                        raise lost from None
                    continue
                if block is None or isinstance(block, BaseException):
                    self._job.results.put(block)  # a second iteration ends in the same way
                    if block is None:
                        return
                    raise block
                kept = [piece for piece in block if piece.row not in self._job.dropped]
                if kept:
                    yield kept
        finally:
            # Cancels the rows and releases the job. An exception kept in the job's results holds this frame, and with
            # it the ticket, which could otherwise never be collected.
            self._gone()


class Scheduler:
    """The queue of rows that wait for a slot.

    The next row is the oldest one of the client with the fewest running rows: a long sweep does not shut out a short
    question, and the sweep's own requests end one after the other. A row for which there is no memory yet lets others
    pass, but only `PATIENCE` of them: then the batch empties until the row fits.
    """

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._running: dict[Job, int] = {}
        self._alike: Counter[bytes] = Counter()

    def add(self, job: Job) -> None:
        """Appends a job's rows to the queue."""
        self._jobs.append(job)
        self._alike.update(job.rows[row].key for row in job.waiting)

    def drop(self, job: Job, rows: Iterable[int]) -> None:
        """Removes rows from the queue."""
        gone = set(rows)
        if job in self._jobs:
            self._left(job.rows[row] for row in job.waiting if row in gone)
        job.waiting = deque(row for row in job.waiting if row not in gone)
        self._forget(job)

    def first(self, *, order: str | None, fits: Callable[[Row], bool] = lambda row: True) -> tuple[Job, int] | None:
        """Returns the next (job, row index) that runs in `order` (None: in any order) and fits; None if there is none.

        A batch runs one order at a time. Once the oldest waiting job wants another order, no more rows are admitted, so
        that its turn comes as soon as the batch is empty.
        """
        ready = [job for job in self._jobs if job.waiting]
        if not ready or order not in (None, ready[0].order):
            return None
        ready = [job for job in ready if order in (None, job.order)]
        running = self._running_of_clients()
        ready.sort(key=lambda job: running[job.client_key])
        for at, job in enumerate(ready):
            if fits(job.rows[job.waiting[0]]):
                for other in ready[:at]:
                    other.passed += 1
                return job, job.waiting[0]
            if job.passed >= PATIENCE:
                return None
        return None

    def alike_after(self, job: Job, row: int, *, most: int) -> list[tuple[Job, int]]:
        """Returns the next (job, row index), and those whose turn it is after it as long as they are like it.

        No more than `most` are returned. `row` is the first that waits of its job, as `first` returned it.
        """
        found, one = [(job, row)], job.rows[row]
        if self.alike(one) == 1:
            return found
        ready = [each for each in self._jobs if each.waiting]
        if any(each.order != job.order for each in ready):
            return found
        running = self._running_of_clients()
        running[job.client_key] += 1
        rows: dict[object, list[Iterator[tuple[int, Job, int]]]] = {}
        for at, each in enumerate(ready):
            waiting = islice(each.waiting, 1 if each is job else 0, None)
            rows.setdefault(each.client_key, []).append(zip(repeat(at), repeat(each), waiting))
        lines = {client: chain.from_iterable(of_jobs) for client, of_jobs in rows.items()}
        # The rows that are next of each client; the job's number tells two clients' rows apart.
        turns = [(running[client], *head, client) for client, line in lines.items() if (head := next(line, None))]
        heapify(turns)
        while turns and len(found) < most:
            count, _, other, index, client = turns[0]
            if not one.like(other.rows[index]):
                break
            found.append((other, index))
            if head := next(lines[client], None):
                heapreplace(turns, (count + 1, *head, client))
            else:
                heappop(turns)
        return found

    def started(self, job: Job) -> None:
        """Notes that the job's first waiting row got a slot."""
        self._left([job.rows[job.waiting.popleft()]])
        job.passed = 0
        self._running[job] = self._running.get(job, 0) + 1

    def ended(self, job: Job) -> None:
        """Notes that one of the job's running rows left its slot."""
        self._running[job] -= 1
        self._forget(job)

    def waiting(self, *, order: str | None, like: Row | None = None) -> int:
        """The number of waiting rows, of one order or (None) of all; only those with a grammar, or without, as `like`.

        Of rows like another no more than the widest batch takes are counted: each row of a long queue asks for that.
        """
        jobs = [job for job in self._jobs if order in (None, job.order)]
        if like is None:
            return sum(len(job.waiting) for job in jobs)
        rows = (job.rows[row] for job in jobs for row in job.waiting)
        return sum(1 for _ in islice((row for row in rows if bool(row.grammar) is bool(like.grammar)), WIDTHS[-1]))

    def alike(self, row: Row) -> int:
        """The number of waiting rows whose given tokens and adapter are the row's, itself included."""
        return self._alike[row.key]

    def clear(self) -> list[Job]:
        """Empties the queue and returns the jobs that were not finished."""
        jobs, self._jobs, self._running = list(self._jobs), [], {}
        self._alike.clear()
        return jobs

    def _running_of_clients(self) -> Counter[object]:
        running: Counter[object] = Counter()
        for job, count in self._running.items():
            running[job.client_key] += count
        return running

    def _left(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._alike[row.key] -= 1
            if not self._alike[row.key]:
                del self._alike[row.key]

    def _forget(self, job: Job) -> None:
        if job in self._jobs and not job.waiting and not self._running.get(job):
            self._jobs.remove(job)
            self._running.pop(job, None)
