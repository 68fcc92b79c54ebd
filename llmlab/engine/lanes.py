"""Runs two batches concurrently on CPUs, where one batch would leave a core idle.

XLA's CPU backend computes the products of attention (one small product per row and head) on a single thread, however
wide the batch is. Two batches of 32 rows on two threads take 0.7 times as long as one batch of 64 (two cores, embedded
model). Up to `SPREAD` rows a single batch is faster, because it reads the weights once for all rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax

from llmlab.engine.batch import Batch
from llmlab.engine.decode import CHUNK
from llmlab.engine.live import Live, Outcome
from llmlab.engine.passes import Passes
from llmlab.engine.programs import Programs
from llmlab.engine.prompts import Prompts, Reading
from llmlab.engine.scheduler import Job, Row
from llmlab.engine.sharing import Sharing

#: The rows that one lane takes before a second lane is used.
SPREAD = 32


def lane_count() -> int:
    """The number of lanes: 2 on a CPU of two cores or more, else 1 (an accelerator runs one program at a time)."""
    return 2 if jax.default_backend() == "cpu" and (os.cpu_count() or 1) >= 2 else 1


class Lanes:
    """One or more batches with the interface of one. All methods are called on the driver thread.

    Args:
        programs: the compiled programs, shared.
        count: how many batches.
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
        widths: tuple[int, ...],
        lengths: tuple[int, ...],
        memory: int | None,
        ends: tuple[int, ...],
    ):
        self._prompts = Prompts(programs, lengths=lengths, memory=memory)
        self._memory = memory
        self._batches = [
            Batch(programs, self._prompts, widths=widths, lengths=lengths, memory=memory, ends=ends, spare=lane > 0)
            for lane in range(count)
        ]
        first = self._batches[0]

        def width(rows: int, length: int) -> int:
            return first.width_for(_share(rows, lanes=count), length=length)

        #: Runs the model over texts that are given whole; single steps have the width that the first lane has.
        sharing = Sharing(programs, self._prompts, lengths=lengths, pinned=len(widths) == 1)
        self.passes = Passes(programs, self._prompts, lengths=lengths, ends=ends, width=width, sharing=sharing)
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
        return self._batches[0].allowed_widths(length)

    def shared_widths(self, length: int, *, prefix: int) -> tuple[int, ...]:
        """The lane widths that fit beside a prompt that rows share; see `Batch.shared_widths`."""
        return self._batches[0].shared_widths(length, prefix=prefix)

    def has_room(self, row: Row) -> bool:
        """Whether some lane can take the row now."""
        return bool(self._roomy(row))

    def begin(self, row: Row, *, waiting: int) -> Reading:
        """Begins to read the prompt of a row for which there is room; `waiting` as in `admit`."""
        return self._choose(row, waiting=waiting)[0].begin(row)

    def admit(self, job: Job, index: int, *, reading: Reading, waiting: int) -> None:
        """Puts a row into a slot.

        Args:
            job: the job that the row belongs to.
            index: the row's index in the job.
            reading: of its prompt; what is left of it is read now.
            waiting: the number of rows in the queue, this one included.
        """
        batch, coming = self._choose(job.rows[index], waiting=waiting)
        batch.admit(job, index, reading=reading, coming=coming)

    def _choose(self, row: Row, *, waiting: int) -> tuple[Batch, int]:
        """The lane for a row, with memory made free for it, and how many rows it may expect, this one included."""
        share = _share(len(self.live) + waiting, lanes=len(self._batches))
        roomy = self._roomy(row)
        batch = next((batch for batch in roomy if len(batch.live) < share), None)
        batch = batch or min(roomy, key=lambda batch: len(batch.live))
        for other in self._batches:  # a lane without rows is counted as using no memory, so it must free its cache
            if other is not batch and not other.live:
                other.clear()
        coming = max(1, min(waiting, share - len(batch.live)))
        others = sum(other.claim for other in self._batches if other is not batch)
        self._prompts.give_way(others + batch.claim_with(row, coming=coming))
        return batch, coming

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

    def run(self, *, order: str) -> list[tuple[Live, Outcome]]:
        """Runs a chunk of steps in every lane at the same time and returns what each row got."""
        busy = [batch for batch in self._batches if batch.live]
        for batch in busy:
            batch.renew()
        # A lane that runs single steps (a grammar) must not wait for a whole chunk of another lane.
        most = 1 if any(batch.constrained for batch in busy) else CHUNK
        if len(busy) == 1:
            return busy[0].run(order=order, most=most)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(self._batches) - 1, thread_name_prefix="llmlab-lane")
        others = [self._pool.submit(batch.run, order=order, most=most) for batch in busy[1:]]
        try:
            found = busy[0].run(order=order, most=most)
        finally:  # no lane may still run while an error is handled
            rest = [other.exception() or other.result() for other in others]
        for outcome in rest:
            if isinstance(outcome, BaseException):
                raise outcome
            found += outcome
        return found

    def _roomy(self, row: Row) -> list[Batch]:
        """The lanes that can take a row, with the memory that the other lanes' rows may still need set aside."""
        if self._memory is not None:
            claims = {batch: batch.claim for batch in self._batches}
            for batch in self._batches:
                batch.memory = self._memory - sum(claims[other] for other in self._batches if other is not batch)
        return [batch for batch in self._batches if batch.has_room(row)]


def _share(rows: int, *, lanes: int) -> int:
    """The rows that one lane takes of so many."""
    return rows if rows <= SPREAD else -(-rows // lanes)
