"""The engine: any thread submits rows, and one driver thread owns the device and serves all of them.

The life of a request, from its token ids to the tokens that come back:

 1. `Engine.submit` checks the rows (one per choice of a request: a prompt, sampling parameters, a budget, perhaps a
    grammar), wraps them in a `Job`, posts the job to the driver's mailbox and returns a `Ticket` at once.
 2. The driver thread takes the job out of the mailbox (`_read_mail`) and puts its rows in the queue (`Scheduler.add`).
 3. Between two chunks of decoding the driver fills free slots (`Admission.advance`): the scheduler picks the next row,
    fairly between clients, and `Lanes.admit` puts it into a batch that has the memory for it.
 4. Admission is the prefill: a `Reading` runs the prompt through the model in padded pieces, starting after the longest
    beginning that the prefix store has; chunks of decoding come between the pieces, as the `Planner` says. The KV cache
    that results is copied into the row's slot. The batch grows to a wider or longer bucket if the row needs one.
 5. `_run_chunk` decodes: `ChunkedBatch.run` launches one compiled program that makes up to `CHUNK` steps for all slots
    on the device. A step is two pure functions, `forward` (the model) and `sample` (the sampler's stages and a draw).
    Rows with grammars have a batch of their own: `SteppedBatch.run` calls the two step by step, and the host computes
    the token masks during `forward`. While nobody waits, a chunk is launched before the one ahead of it is read.
 6. The new tokens and their statistics come back to the host as one `Piece` per row. A row ends with an end token
    ("stop"), with its budget used up ("length"), or with a grammar that is complete.
 7. The pieces go into the job's result queue, and the thread that iterates over the ticket yields them. The slots of
    rows that ended are free for step 3.
 8. `Ticket.cancel`, an interrupt or a forgotten ticket posts a message that frees the slots of these rows and of no
    others. An error on the driver thread reaches every reader as an `EngineError`; the engine itself goes on.
 9. After two seconds without work the driver frees the batch and its thread ends; the next submission starts it again.
    The pieces of the prompts stay in the prefix store, so that a later text that begins with them starts from there.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jax.sharding import Mesh

from llmlab.engine.admission import Admission
from llmlab.engine.lanes import Lanes, lane_count
from llmlab.engine.mail import Call, Cancel, Message, Retire, Warm, wait_for
from llmlab.engine.opened import OPENED
from llmlab.engine.passes import joined
from llmlab.engine.programs import Programs
from llmlab.engine.relay import Relay
from llmlab.engine.scheduler import WAIT_SECONDS, WIDTHS, Job, Piece, Row, Scheduler, Ticket, cache_lengths, check_row
from llmlab.engine.score_plan import Text
from llmlab.engine.search import Search
from llmlab.engine.soundness import as_engine_error
from llmlab.engine.warmup import Spare, every_visit
from llmlab.errors import EngineError, LLMLabError
from llmlab.models.config import ModelConfig
from llmlab.models.transformer import Transformer
from llmlab.sampling.logprobs import TokenStatistics
from llmlab.sampling.orders import order_key, placed
from llmlab.sampling.params import SamplingParams

#: Seconds without work after which the driver thread frees the batch and ends; the next submission starts it again.
IDLE_SECONDS = 2.0


class Engine:
    """Generates token ids. Thread-safe: any thread may submit rows; one driver thread runs them.

    Args:
        config: the decoder's shape.
        model: the decoder.
        ends: the token ids that end a row.
        max_context: positions a row may take, at most the model's own.
        slots: pins width and cache length, so that a row gives the same bits alone or beside any others.
        memory: bytes that the caches of the batch and of the prefix store may take on each device. Rows that do not
            fit wait in the queue; the store gives way to the batch.
        mesh: the devices over which the model's weights are spread; None for a single device.
        relay: has the other processes run the engine's programs too, where the mesh spans several.
        guesses: how many tokens are guessed at a time from what a text has said before (`engine.speculate`).
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
        relay: Relay | None = None,
        guesses: int = 0,
    ):
        self.config = config
        self.max_context = min(max_context or config.context, config.longest_context)
        self.ends = tuple(sorted(set(ends)))
        self._check = partial(check_row, context=self.max_context, vocab_size=config.vocab_size)
        # Two programs that each use all devices would only wait for each other.
        count = 1 if slots or mesh else lane_count()
        self.widths = (slots,) if slots else tuple(width for width in WIDTHS if width * count <= WIDTHS[-1])
        self.lengths = cache_lengths(self.max_context)[-1:] if slots else cache_lengths(self.max_context)
        self.mesh, self._relay = mesh, relay
        self.programs = Programs(
            config, model, mesh=mesh, relay=relay, guesses=guesses, pinned=slots is not None, context=self.max_context
        )
        self._mail: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process = os.getpid()
        # Only the driver thread touches the attributes below.
        self._queue = Scheduler()
        self._spare = Spare()
        self._lanes = Lanes(
            self.programs, count=count, together=not mesh and lane_count() > 1, widths=self.widths,
            lengths=self.lengths, memory=memory, ends=self.ends,
        )  # fmt: skip
        self._admission = Admission(self._queue, self._lanes, failed=self._refuse)
        self._retired = False
        OPENED.add(self)

    @property
    def prefills(self) -> int:
        """The number of prompts so far of which something had to be read: run through the model."""
        return self._lanes.prompts.prefills

    @property
    def read_tokens(self) -> int:
        """The number of prompt tokens that were read so far; those of a beginning that is kept are read once."""
        return self._lanes.prompts.read_tokens

    def submit(self, rows: Sequence[Row], *, order: str = "llmlab", client: object = None) -> Ticket:
        """Queues rows for generation and returns the ticket from which their tokens are read.

        Args:
            rows: what to generate.
            order: the name of the order of the sampler's stages.
            client: any object that stands for the caller. Slots are shared out fairly between clients, and in order of
                submission within one. None makes this submission a client of its own.

        Raises:
            ValueError: the order is unknown; a row is empty, has a budget below 1, is too long for the context, or has
                ids outside the vocabulary.
            EngineError: the engine is closed.
        """
        order = placed(order_key(order), [row.params for row in rows])
        for row in (rows := [row.for_order(order) for row in rows]):
            if row.budget < 1:
                raise ValueError(f"a row's budget must be at least 1, got {row.budget}")
            self._check(row, budget=row.budget)
        job = Job(rows=tuple(rows), order=order, client=client)
        ticket = Ticket(job, self._cancel, lost=self._lost)
        if rows:
            self._post(job)
        else:
            job.results.put(None)
        return ticket

    def next_logits(self, prompt: np.ndarray, *, adapter: int = 0) -> np.ndarray:
        """Returns the raw logits [V], float32, of the token that follows the prompt [L]; `adapter` as in `Row`."""
        row = Row(prompt=np.asarray(prompt, np.int32), params=SamplingParams(), budget=0, adapter=adapter)
        self._check(row)
        return np.asarray(self._call(lambda: self._lanes.passes.next_logits(row)))

    def score(
        self, row: Row, tokens: np.ndarray, *, masks: np.ndarray | None = None, order: str = "llmlab"
    ) -> TokenStatistics:
        """Returns the statistics [T, ...] of given tokens as if the row had drawn them (teacher forcing).

        `row`, `tokens` (at least one) and `masks` are those of a `Text`; the row's parameters are those of the
        processed distribution, and `order` is that of the stages.
        """
        return self.score_all([Text(row, tokens, masks)], order=order)[0]

    def score_all(self, texts: Sequence[Text], *, order: str = "llmlab") -> list[TokenStatistics]:
        """Returns what `score` does for several texts, up to rounding, from as few passes of the model as possible.

        Nothing is drawn, so the rows' budgets, seeds and grammars have no effect.
        """
        order = placed(order_key(order), [text.row.params for text in texts])
        texts = [replace(text, row=text.row.for_order(order)) for text in texts]
        for text in texts:
            if not len(text.tokens):
                raise ValueError("there is no token to score")
            self._check(text.row, more=text.tokens)
        found = list(self._parts(lambda: self._lanes.passes.score(texts, order=order)))
        return joined([scored for block in found for scored in block])

    def logits(self, row: Row, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the raw logits, float32, of given tokens [T] in pieces [C, V] that add up to T rows.

        Pieces, because the logits of a long text over a large vocabulary would not fit into memory.

        Args:
            row: the prompt and the tokens before the given ones; its other fields have no effect.
            tokens: token ids [T].
        """
        self._check(row, more=tokens)
        return self._parts(lambda: self._lanes.passes.logits(row, tokens))

    def step_logits(self, row: Row, tokens: np.ndarray, *, rows: int = 1) -> np.ndarray:
        """Returns the raw logits [V], float32, after tokens that the row drew, one decoding step per token.

        Of a row with a negative prompt it returns [2, V]; the second ones are those after the negative prompt.

        They are bit-equal to the logits that the next token was drawn from, provided that `rows` rows make the batch as
        wide now as it was then. `logits` reads many positions in one pass, and may differ in the last bits.

        Args:
            row: the prompts and the tokens before the drawn ones; its other fields have no effect.
            tokens: token ids [T]; T may be 0.
            rows: how many rows were generated side by side.
        """
        self._check(row, more=tokens)
        parts = self._parts(lambda: self._lanes.passes.step_logits(row, tokens, rows=rows))
        return np.asarray(list(parts)[-1])

    def search(self, row: Row, *, rows: int) -> Search:
        """Opens a search over continuations of a row's given tokens, of up to `rows` rows; see `Search.open`."""
        self._check(row, budget=row.budget)
        return Search.open(self._lanes.search, row, rows=rows, widest=self.widths[-1], call=self._call)

    def _parts(self, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Yields the items of an iterator; the driver thread advances it between two chunks of decoding."""
        found, end = self._call(start), object()
        while (part := self._call(lambda: next(found, end))) is not end:
            yield part

    def warmup(
        self,
        *,
        orders: tuple[str, ...] = ("llmlab",),
        progress: Callable[[int, int], None] | None = None,
        wait: bool = True,
    ) -> None:
        """Compiles the programs for every shape the engine can meet; `progress` is called with (done, total).

        Without `wait` they are compiled while the engine has nothing else to do, and without a report of progress.
        """
        every = every_visit(self.programs, self._lanes, lengths=self.lengths, orders=orders)
        if not wait:
            self._post(Warm(every))
            return
        for done, visit in enumerate(every):
            list(self._parts(visit.steps))
            if progress:
                progress(done + 1, len(every))

    def close(self) -> None:
        """Ends the driver thread and frees the weights; unfinished rows and later submissions get an EngineError."""
        if os.getpid() != self._process:
            return  # a fork: the driver thread lives in the parent process
        with self._starting:
            self._closed = True
            thread = self._thread
            self._mail.put(None)
        if thread is threading.current_thread():
            return  # in a garbage collection: the driver ends with its next message
        if thread is not None:
            # A driver that waits for a process that is gone never ends.
            thread.join(None if self._lost() is None else WAIT_SECONDS)
        self._lanes.clear()
        self.programs.free()

    def retire(self) -> None:
        """Frees the weights as soon as there is nothing to do: for the owner's finalizer.

        It may run inside a garbage collection on any thread, so it takes no lock.
        """
        self._mail.put(Retire())
        if self._thread is None:
            self.programs.free()

    def _cancel(self, job: Job, rows: Iterable[int] | None) -> None:
        # This may run inside a garbage collection on any thread, so it touches only a set and a re-entrant queue.
        which = tuple(range(len(job.rows)) if rows is None else rows)
        job.dropped.update(which)
        self._mail.put(Cancel(job, which))

    def _call(self, function: Callable[[], Any]) -> Any:
        self._post(call := Call(function, Future()))
        return wait_for(call.answer, self._lost)

    def _lost(self) -> EngineError | None:
        return self._relay.lost if self._relay else None

    def _post(self, message: Job | Call | Warm) -> None:
        if os.getpid() != self._process:
            raise EngineError(
                "this process was forked from the one that loaded the model, and a fork has no copy of the engine's "
                "thread; load the model in this process, or start processes with the 'spawn' method"
            )
        with self._starting:
            if self._closed:
                raise EngineError("this engine is closed; load the model again", status=503)
            if lost := self._lost():
                raise lost
            self._mail.put(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._drive, name="llmlab-engine", daemon=True)
                self._thread.start()

    # --- the driver thread -----------------------------------------------------------------------------------------

    def _drive(self) -> None:
        while True:
            try:
                if not self._read_mail():
                    return
                self._admission.advance()
                if self._lanes.live:
                    self._run_chunk()
            except BaseException as error:  # panics of compiled code too: readers get the error, the engine goes on
                self._fail(self._told(error))

    def _read_mail(self) -> bool:
        """Handles posted messages; waits if there is nothing else to do. Returns False where the thread has to end."""
        while True:
            busy = bool(self._lanes.live or self._queue.waiting(order=None))
            try:
                idle = not busy and not self._spare
                message = self._mail.get(block=idle, timeout=0 if self._retired else IDLE_SECONDS)
            except queue.Empty:
                if busy:
                    self._spare.pause()
                    return True
                if self._spare:
                    self._spare.step()
                    continue
                with self._starting:
                    if not self._mail.empty():
                        continue
                    self._lanes.rest()
                    if self._retired:
                        self._lanes.clear()
                        self.programs.free()
                    self._thread = None
                    return False
            if message is None:
                self._fail(EngineError("the engine was closed", status=503))
                return False
            if isinstance(message, Job):
                self._queue.add(message)
            elif isinstance(message, Cancel):
                self._drop(message.job, set(message.rows))
            elif isinstance(message, Retire):
                self._retired = True
                self._spare.clear()
            elif isinstance(message, Warm):
                self._spare.add(message.visits)
            else:
                message.run(self._told)

    def _told(self, error: BaseException) -> BaseException:
        """The error; where processes no longer agree after it, that of all of them."""
        return error if self._relay is None or isinstance(error, LLMLabError) else self._relay.failed(error)

    def _drop(self, job: Job, rows: set[int], error: EngineError | None = None) -> None:
        self._admission.drop(job, rows)
        for _ in range(self._lanes.release(job, rows)):
            self._queue.ended(job)
        self._queue.drop(job, rows)
        if job.open:
            job.open -= rows
            if not job.open:
                job.results.put(error)

    def _refuse(self, job: Job, error: BaseException) -> None:
        self._drop(job, set(range(len(job.rows))), as_engine_error(self._told(error)))

    def _fail(self, error: BaseException) -> None:
        jobs = {live.job for live in self._lanes.live} | set(self._queue.clear())
        self._admission.clear()
        self._lanes.clear()
        wrapped = as_engine_error(error)
        for job in jobs:
            job.open.clear()
            job.results.put(wrapped)

    def _run_chunk(self) -> None:
        """Runs a chunk and hands every job the tokens of its rows; a job ends with the error of a row that failed."""
        assert self._admission.order is not None
        blocks: dict[Job, list[Piece]] = {}
        failed: dict[Job, EngineError] = {}
        # Rows that come can only join after what was launched: none is launched ahead while somebody waits.
        ahead = self._mail.empty() and not self._queue.waiting(order=None)
        for live, outcome in self._lanes.run(order=self._admission.order, ahead=ahead):
            if isinstance(outcome, EngineError):
                failed.setdefault(live.job, outcome)
                self._queue.ended(live.job)
                continue
            blocks.setdefault(live.job, []).append(outcome)
            if outcome.finish:
                self._queue.ended(live.job)
                live.job.open.discard(live.index)
        for job, block in blocks.items():
            job.results.put(block)
            if not job.open and job not in failed:
                job.results.put(None)
        for job, error in failed.items():
            self._drop(job, set(range(len(job.rows))), error)
