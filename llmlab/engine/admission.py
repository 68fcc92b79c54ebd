"""How rows get from the queue into the batch: prompt by prompt, each read piece by piece beside decoding.

Rows of one prompt that follow one another in the queue enter together: by themselves each would cost the host more than
a step of a small model, and the device a program of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from llmlab.engine.lanes import Lanes
from llmlab.engine.planner import Planner
from llmlab.engine.prompts import Reading
from llmlab.engine.scheduler import Job, Scheduler


class _Entrant(NamedTuple):
    job: Job
    row: int
    reading: Reading


class Admission:
    """Admits waiting rows. All methods are called on the driver thread.

    Args:
        queue: the rows that wait.
        lanes: the batches that they are put into.
        failed: called with the job and the error where a row cannot be admitted.
    """

    def __init__(self, queue: Scheduler, lanes: Lanes, *, failed: Callable[[Job, BaseException], None]):
        self._queue, self._lanes, self._failed = queue, lanes, failed
        self._planner = Planner()
        lanes.share_with(queue.alike)
        self._entrant: _Entrant | None = None
        self._decoding_since: float | None = None
        self.order: str | None = None  #: the order of the rows in the batch; None while there are none

    def advance(self) -> None:
        """Reads and admits waiting rows, as many as fit and as long as the rows in the batch may wait for it.

        A row that cannot be admitted ends its own job and no other.
        """
        since = self._decoding_since
        if self._lanes.in_flight and self._queue.waiting(order=None):
            self._decoding_since = time.perf_counter()
            return  # a prompt's pieces would wait for that chunk, and be taken for slow
        self._planner.chunk_done(None if since is None else time.perf_counter() - since)
        while self._admit_next():
            pass
        if self._lanes.live and self._queue.first(order=self.order) is None:
            self._lanes.narrow()
        self._decoding_since = time.perf_counter() if self._lanes.live else None

    def _admit_next(self) -> bool:
        """Admits the next row that fits, and those like it that follow; returns whether to go on with the next."""
        if self._entrant is None and not self._lanes.live:
            self.order = None
        first = self._entrant or self._queue.first(order=self.order, fits=self._lanes.has_room)
        if first is None:
            return False
        job, row = first[:2]
        self.order = job.order
        waiting = self._queue.waiting(order=job.order, like=job.rows[row])
        try:
            if self._entrant is None:
                self._entrant = _Entrant(job, row, self._lanes.begin(job.rows[row], waiting=waiting))
            reading = self._entrant.reading
            if not self._read(job, reading):
                return False
            entrants = self._queue.alike_after(job, row, most=waiting)
            try:
                count = self._lanes.admit(entrants, reading=reading, waiting=waiting)
            except BaseException as error:
                if len(entrants) == 1:
                    raise
                try:  # alone, so that a row which cannot be admitted ends no other's job
                    count = self._lanes.admit(entrants[:1], reading=reading, waiting=waiting)
                except BaseException:
                    raise error from None
        except BaseException as error:
            self.drop(job)
            self._failed(job, error)
        else:
            self.drop(job)
            for entered, _ in entrants[:count]:
                self._queue.started(entered)
        return True

    def drop(self, job: Job, rows: set[int] | None = None) -> None:
        """Ends the reading of a prompt for some of a job's rows, or for any."""
        if self._entrant and self._entrant.job is job and (rows is None or self._entrant.row in rows):
            self._entrant.reading.close()
            self._entrant = None

    def clear(self) -> None:
        """Ends the reading of a prompt, after an error."""
        if self._entrant:
            self.drop(self._entrant.job)
        self.order = None

    def _read(self, job: Job, reading: Reading) -> bool:
        """Reads a prompt as far as the planner allows; returns whether the whole of it is read."""
        live = self._lanes.live
        # With nobody in the batch, it is messages that wait: a cancellation, or a question about other logits.
        others = not live or any(one.job.client_key is not job.client_key for one in live)
        while not reading.done:
            if not self._planner.may_read(reading.shape, others=others):
                return False
            shape, began = reading.shape, time.perf_counter()
            reading.advance(wait=others)
            self._planner.piece_done(shape, time.perf_counter() - began)
        return True
