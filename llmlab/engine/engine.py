"""The engine: anybody submits rows, one driver thread owns the device and serves every ticket."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from llmlab.engine.lanes import Lanes, lane_count
from llmlab.engine.programs import Programs
from llmlab.engine.scheduler import WIDTHS, Job, Piece, Row, Scheduler, Ticket, cache_lengths
from llmlab.errors import EngineError
from llmlab.models.config import ModelConfig
from llmlab.models.transformer import Transformer
from llmlab.sampling.logprobs import Figures
from llmlab.sampling.params import SamplingParams
from llmlab.sampling.pipeline import ORDERS

#: Seconds without work after which the driver's thread ends and frees the batch; the next submission starts it again.
IDLE_SECONDS = 2.0

_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


class _Cancel(NamedTuple):
    job: Job
    rows: tuple[int, ...]


class _Call(NamedTuple):
    function: Callable[[], Any]
    answer: Future[Any]


class Engine:
    """Generates token ids. Thread-safe: any thread may submit, one driver works.

    Args:
        config: the decoder's shape.
        model: the decoder.
        ends: token ids that end a row.
        max_context: positions a row may take, at most the model's own.
        slots: pin the batch width (and the cache's length): the same row then gives the same bits alone or beside
            anything. Without it the width follows the load.
        memory: bytes that the batch's cache may take; what does not fit waits its turn.
        mesh: what the model's weights are spread over, where they are.
    """

    def __init__(
        self,
        config: ModelConfig,
        model: Transformer,
        *,
        ends: Sequence[int] = (),
        max_context: int | None = None,
        slots: int | None = None,
        memory: int | None = None,
        mesh: Mesh | None = None,
    ):
        self.config = config
        self.max_context = min(max_context or config.max_position, config.max_position)
        self.ends = tuple(sorted(set(ends)))
        # Two programs at once, each over all the devices, would wait for each other.
        count = 1 if slots or mesh else lane_count()
        self.widths = (slots,) if slots else tuple(width for width in WIDTHS if width * count <= WIDTHS[-1])
        self.lengths = cache_lengths(self.max_context)[-1:] if slots else cache_lengths(self.max_context)
        self.mesh = mesh
        self.programs = Programs(config, model, ends=self.ends, mesh=mesh)
        self._mail: queue.SimpleQueue[Job | _Cancel | _Call | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process = os.getpid()
        # What follows belongs to the driver's thread alone.
        self._line = Scheduler()
        self._lanes = Lanes(
            self.programs,
            count=count,
            widths=self.widths,
            lengths=self.lengths,
            memory=memory,
            ends=self.ends,
        )
        self._order: str | None = None
        _ENGINES.add(self)

    @property
    def prefills(self) -> int:
        """How many prompts have been prefilled so far."""
        return self._lanes.prefills

    def submit(self, rows: Sequence[Row], *, order: str = "llmlab", client: object = None) -> Ticket:
        """Put rows in line; read their tokens from the ticket.

        Args:
            rows: what to generate.
            order: of the sampler's stages.
            client: who asks; slots are shared out fairly between clients, and to one client's rows in their order.
                None: somebody who asks this alone.

        Raises:
            ValueError: an unknown order; a row that is empty, may make no token, is too long for the context, or has
                ids outside the vocabulary.
            EngineError: the engine is closed.
        """
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
        for row in rows:
            if row.budget < 1:
                raise ValueError(f"a row's budget must be at least 1, got {row.budget}")
            self._check(row.given, budget=row.budget)
        job = Job(rows=tuple(rows), order=order, client=client)
        ticket = Ticket(job, self._cancel)
        if rows:
            self._post(job)
        else:
            job.results.put(None)
        return ticket

    def next_logits(self, prompt: np.ndarray) -> np.ndarray:
        """The raw logits [V], float32, of the token that follows the prompt [L]."""
        self._check(prompt, budget=0)
        row = Row(prompt=np.asarray(prompt, np.int32), params=SamplingParams(), budget=0)
        logits: np.ndarray = self._call(lambda: self._lanes.next_logits(row, waits=self._line.waits))
        return logits

    def score(self, row: Row, tokens: np.ndarray, *, masks: np.ndarray | None = None, order: str = "llmlab") -> Figures:
        """The figures [T, ...] of given tokens, as if the row had drawn them: teacher forcing.

        The row's budget, seed and grammar do not count: a law is asked about, nothing is drawn.

        Args:
            row: prompt, tokens made so far, and the sampling fields that the processed law is of.
            tokens: token ids [T], at least one.
            masks: [T, ceil(V / 32)] what a grammar allowed in the place of each, packed; None where all were free.
            order: the order of the stages.
        """
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
        if not len(tokens):
            raise ValueError("there is no token to score")
        self._check(np.concatenate([row.given, tokens]), budget=0)
        waits = self._line.waits
        parts = list(self._parts(lambda: self._lanes.score(row, tokens, masks=masks, order=order, waits=waits)))
        joined: Figures = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        return joined

    def logits(self, row: Row, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """The raw logits, float32, that given tokens [T] were drawn from: pieces [C, V] that add up to T rows.

        They come a piece at a time, because those of a long text over a large vocabulary would not fit the memory.

        Args:
            row: prompt and tokens made so far; nothing else of it counts.
            tokens: token ids [T].
        """
        self._check(np.concatenate([row.given, tokens]), budget=0)
        return self._parts(lambda: self._lanes.logits(row, tokens, waits=self._line.waits))

    def step_logits(self, row: Row, tokens: np.ndarray, *, rows: int = 1) -> np.ndarray:
        """The raw logits [V], float32, behind tokens that the row drew, by the steps in which it drew them.

        Equal to the bit to those that the next token was drawn from, where the batch had the same width then as it has
        now with so many `rows`; `logits` does many positions in a pass, and may differ from those in the last bits.

        Args:
            row: prompt and tokens made before; nothing else of it counts.
            tokens: token ids [T], also none.
            rows: how many were generated side by side.
        """
        self._check(np.concatenate([row.given, tokens]), budget=0)
        parts = self._parts(lambda: self._lanes.step_logits(row, tokens, rows=rows, waits=self._line.waits))
        logits: np.ndarray = list(parts)[-1]
        return logits

    def _parts(self, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """What the driver's thread works out a pass at a time, so that rows being generated need not wait for all."""
        found = self._call(start)
        while (part := self._call(lambda: next(found, None))) is not None:
            yield part

    def warmup(
        self, *, orders: tuple[str, ...] = ("llmlab",), progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Compile for every shape that the engine can meet; `progress` is told (done, all)."""
        widths = {length: self._lanes.allowed_widths(length) for length in self.lengths}
        visits = list(self.programs.visits(widths=widths, orders=orders))
        for done, visit in enumerate(visits):
            self._call(visit)
            if progress:
                progress(done + 1, len(visits))

    def close(self) -> None:
        """End the driver; what was running fails with an EngineError. A closed engine takes no more rows."""
        if os.getpid() != self._process:
            return  # the driver is the other process's
        with self._starting:
            self._closed = True
            thread = self._thread
            self._mail.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _check(self, prompt: np.ndarray, *, budget: int) -> None:
        if len(prompt) < 1:
            raise ValueError("a row needs at least one prompt token")
        if len(prompt) + budget > self.max_context:
            raise ValueError(f"{len(prompt)} prompt tokens and {budget} more exceed {self.max_context} positions")
        if np.min(prompt) < 0 or np.max(prompt) >= self.config.vocab_size:
            raise ValueError(f"prompt ids must lie in 0..{self.config.vocab_size - 1}")

    def _cancel(self, job: Job, rows: Iterable[int] | None) -> None:
        # May run inside a garbage collection on any thread: nothing but a set and a re-entrant queue is touched.
        which = tuple(range(len(job.rows)) if rows is None else rows)
        job.dropped.update(which)
        self._mail.put(_Cancel(job, which))

    def _call(self, function: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()
        self._post(_Call(function, answer))
        return answer.result()

    def _post(self, message: Job | _Call) -> None:
        if os.getpid() != self._process:
            raise EngineError(
                "this process was forked from the one that loaded the model, and its driver's thread did not come "
                "along; load the model here, or start processes by 'spawn'"
            )
        with self._starting:
            if self._closed:
                raise EngineError("this engine is closed; load the model again", status=503)
            self._mail.put(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._drive, name="llmlab-engine", daemon=True)
                self._thread.start()

    # --- the driver's thread ---------------------------------------------------------------------------------------

    def _drive(self) -> None:
        while True:
            try:
                if not self._read_mail():
                    return
                self._admit_waiting()
                if self._lanes.live:
                    self._run_chunk()
            except BaseException as error:  # a panic of compiled code too: the readers hear of it, the engine goes on
                self._fail(error)

    def _read_mail(self) -> bool:
        """Take in what was posted; wait when there is nothing else to do. False: the thread ends."""
        while True:
            busy = bool(self._lanes.live or self._line.waiting(order=None))
            try:
                message = self._mail.get(block=not busy, timeout=IDLE_SECONDS)
            except queue.Empty:
                if busy:
                    return True
                with self._starting:
                    if not self._mail.empty():
                        continue
                    self._lanes.clear()
                    self._thread = None
                    return False
            if message is None:
                self._fail(EngineError("the engine was closed", status=503))
                return False
            if isinstance(message, Job):
                self._line.add(message)
            elif isinstance(message, _Cancel):
                self._drop(message.job, set(message.rows))
            else:
                _answer(message)

    def _drop(self, job: Job, rows: set[int], error: EngineError | None = None) -> None:
        for _ in range(self._lanes.release(job, rows)):
            self._line.ended(job)
        self._line.drop(job, rows)
        if job.open:
            job.open -= rows
            if not job.open:
                job.results.put(error)

    def _fail(self, error: BaseException) -> None:
        jobs = {live.job for live in self._lanes.live} | set(self._line.clear())
        self._lanes.clear()
        self._order = None
        told = _told(error)
        for job in jobs:
            job.open.clear()
            job.results.put(told)

    def _admit_waiting(self) -> None:
        """Fill the slots. A row that fails on its way into one ends its own job and no other."""
        while True:
            if not self._lanes.live:
                self._order = None
            first = self._line.first(order=self._order)
            if first is None or not self._lanes.has_room(first[0].rows[first[1]]):
                break
            job, index = first
            self._order = job.order
            try:
                self._lanes.admit(job, index, waiting=self._line.waiting(order=job.order), waits=self._line.waits)
            except BaseException as error:
                self._drop(job, set(range(len(job.rows))), _told(error))
            else:
                self._line.started(job)
        if self._lanes.live and first is None:
            self._lanes.narrow()

    def _run_chunk(self) -> None:
        """Give every job the tokens of its rows; a job of which a row failed ends with the row's error."""
        assert self._order is not None
        blocks: dict[Job, list[Piece]] = {}
        failed: dict[Job, EngineError] = {}
        for live, outcome in self._lanes.run(order=self._order):
            if isinstance(outcome, EngineError):
                failed.setdefault(live.job, outcome)
                self._line.ended(live.job)
                continue
            blocks.setdefault(live.job, []).append(outcome)
            if outcome.finish:
                self._line.ended(live.job)
                live.job.open.discard(live.index)
        for job, block in blocks.items():
            job.results.put(block)
            if not job.open and job not in failed:
                job.results.put(None)
        for job, error in failed.items():
            self._drop(job, set(range(len(job.rows))), error)


def _told(error: BaseException) -> EngineError:
    """What a reader is told of an error on the driver's thread."""
    if isinstance(error, EngineError):
        return error
    if "RESOURCE_EXHAUSTED" in str(error):
        told = EngineError(f"the device ran out of memory; load with a smaller max_context or slots ({error})")
    else:
        told = EngineError(f"the engine failed: {type(error).__name__}: {error}")
    told.__cause__ = error
    return told


def _answer(call: _Call) -> None:
    try:
        call.answer.set_result(call.function())
    except BaseException as error:  # the caller's thread raises it
        call.answer.set_exception(error)


@atexit.register
def _close_engines() -> None:
    """A thread inside XLA while the interpreter goes down would abort the process."""
    for engine in list(_ENGINES):
        engine.close()
