"""Batches side by side: on a CPU, two of them run at once where one would leave a core idle.

XLA's CPU backend runs the products of attention, one small product a row and head, on a single thread, however wide
the batch is. Two batches of 32 rows in two threads take 0.7 times as long as one of 64 (on two cores, with the
embedded model). Up to `SPREAD` rows one batch is the better: the weights are read once for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from llmlab.engine.batch import Batch, Live, Outcome
from llmlab.engine.decode import CHUNK
from llmlab.engine.programs import Programs
from llmlab.engine.prompts import Prompts
from llmlab.engine.scheduler import Job, Row
from llmlab.sampling.logprobs import Figures

#: Rows that one lane takes before the next one is opened.
SPREAD = 32


def lane_count() -> int:
    """Two on a CPU of at least two cores; an accelerator runs one program at a time."""
    return 2 if jax.default_backend() == "cpu" and (os.cpu_count() or 1) >= 2 else 1


class Lanes:
    """One or more batches behind the face of one. Everything but `run` stays on the driver's thread.

    Args:
        programs: the compiled programs, shared.
        count: how many batches.
        widths: the widths of each, rising; one alone pins it.
        lengths: the cache lengths, rising.
        memory: bytes that all caches together may take, None for no limit.
        ends: token ids that end a row.
    """

    def __init__(
        self,
        programs: Programs,
        *,
        count: int,
        widths: tuple[int, ...],
        lengths: tuple[int, ...],
        memory: int | None,
        ends: tuple[int, ...],
    ):
        self._prompts = Prompts(programs, lengths=lengths)
        self._memory = memory
        self._batches = [
            Batch(programs, self._prompts, widths=widths, lengths=lengths, memory=memory, ends=ends, spare=lane > 0)
            for lane in range(count)
        ]
        self._pool: ThreadPoolExecutor | None = None

    @property
    def live(self) -> list[Live]:
        """The rows that are being generated."""
        return [live for batch in self._batches for live in batch.live]

    @property
    def prefills(self) -> int:
        """How many prompts have been run through the model."""
        return self._prompts.prefills

    def clear(self) -> None:
        """Forget every row, free the device's memory and end the threads."""
        for batch in self._batches:
            batch.clear()
        self._prompts.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    def allowed_widths(self, length: int) -> tuple[int, ...]:
        """The widths of a lane whose cache fits the memory; see `Batch.allowed_widths`."""
        return self._batches[0].allowed_widths(length)

    def has_room(self, row: Row) -> bool:
        """Whether some lane can take the row."""
        return bool(self._roomy(row))

    def admit(self, job: Job, index: int, *, waiting: int, waits: Callable[[bytes], bool]) -> None:
        """Put a row in a slot; `waiting` rows stand in line, this one among them; `waits`: whether one has a prompt."""
        share = self._share(len(self.live) + waiting)
        roomy = self._roomy(job.rows[index])
        batch = next((batch for batch in roomy if len(batch.live) < share), None)
        batch = batch or min(roomy, key=lambda batch: len(batch.live))
        for other in self._batches:  # who has no row claims no memory, and so must hold none
            if other is not batch and not other.live:
                other.clear()
        batch.admit(job, index, coming=max(1, min(waiting, share - len(batch.live))), waits=waits)

    def release(self, job: Job, rows: set[int]) -> int:
        """Free the slots of some of a job's rows; how many there were."""
        return sum(batch.release(job, rows) for batch in self._batches)

    def narrow(self) -> None:
        """Lanes of which few rows are left go on narrower, and those of which none is left free their memory."""
        for batch in self._batches:
            if batch.live:
                batch.narrow()
            else:
                batch.clear()

    def run(self, *, order: str) -> list[tuple[Live, Outcome]]:
        """A chunk of steps of every lane, all at once: what every row got."""
        busy = [batch for batch in self._batches if batch.live]
        # A lane whose rows go step by step must not wait for another's whole chunk.
        most = 1 if any(batch.constrained for batch in busy) else CHUNK
        if len(busy) == 1:
            return busy[0].run(order=order, most=most)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(self._batches) - 1, thread_name_prefix="llmlab-lane")
        others = [self._pool.submit(batch.run, order=order, most=most) for batch in busy[1:]]
        try:
            found = busy[0].run(order=order, most=most)
        finally:  # no lane may still be running when an error is dealt with
            rest = [other.exception() or other.result() for other in others]
        for outcome in rest:
            if isinstance(outcome, BaseException):
                raise outcome
            found += outcome
        return found

    def next_logits(self, row: Row, *, waits: Callable[[bytes], bool]) -> np.ndarray:
        """The raw logits [V] of what follows a prompt."""
        return self._batches[0].next_logits(row, waits=waits)

    def score(
        self,
        row: Row,
        tokens: np.ndarray,
        *,
        masks: np.ndarray | None,
        order: str,
        waits: Callable[[bytes], bool],
    ) -> Iterator[Figures]:
        """The figures of given tokens; see `Batch.score`."""
        return self._batches[0].score(row, tokens, masks=masks, order=order, waits=waits)

    def logits(self, row: Row, tokens: np.ndarray, *, waits: Callable[[bytes], bool]) -> Iterator[np.ndarray]:
        """The raw logits that given tokens were drawn from; see `Batch.logits`."""
        return self._batches[0].logits(row, tokens, waits=waits)

    def step_logits(
        self, row: Row, tokens: np.ndarray, *, rows: int, waits: Callable[[bytes], bool]
    ) -> Iterator[np.ndarray]:
        """The raw logits behind tokens that a row drew, by the same steps; see `Batch.step_logits`."""
        return self._batches[0].step_logits(row, tokens, rows=min(rows, self._share(rows)), waits=waits)

    def _roomy(self, row: Row) -> list[Batch]:
        """The lanes that can take a row, with what the others may come to need left to them."""
        if self._memory is not None:
            claims = {batch: batch.claim for batch in self._batches}
            for batch in self._batches:
                batch.memory = self._memory - sum(claims[other] for other in self._batches if other is not batch)
        return [batch for batch in self._batches if batch.has_room(row)]

    def _share(self, rows: int) -> int:
        return rows if rows <= SPREAD else -(-rows // len(self._batches))
