"""Who is inside: how many requests run or wait, when there is no place for one more, and when all have left."""

from __future__ import annotations

import asyncio
import math
import time

from llmlab.serve.refusals import QueueFullError, ShuttingDownError

#: Seconds of `Retry-After`, at the least and at the most.
SOONEST, LATEST = 1, 30


class Line:
    """Requests inside the server. It belongs to the event loop's thread.

    Args:
        slots: how many answers are made at once.
        queue: how many requests may wait besides as many as there are slots.
    """

    def __init__(self, *, slots: int, queue: int) -> None:
        self.places = slots + queue
        self.inside = 0
        self.closing = False
        self._seconds = 0.0  # that a request was inside, a moving average
        self._empty = asyncio.Event()
        self._empty.set()

    def check_open(self) -> None:
        """Raise `ShuttingDownError` once the server takes nothing more."""
        if self.closing:
            raise ShuttingDownError("the server is shutting down: it finishes what runs and takes nothing more")

    def enter(self) -> float:
        """Take a place; the moment, to be given back to `leave`.

        Raises:
            ShuttingDownError, QueueFullError: there is none.
        """
        self.check_open()
        if self.inside >= self.places:
            # By then about half of those inside have left.
            seconds = min(max(math.ceil(self._seconds / 2), SOONEST), LATEST)
            raise QueueFullError(
                f"{self.inside} requests run or wait, and no more may; ask again in {seconds} s", retry_after=seconds
            )
        self.inside += 1
        self._empty.clear()
        return time.monotonic()

    def leave(self, entered: float) -> None:
        """Give the place back."""
        self.inside -= 1
        took = time.monotonic() - entered
        self._seconds = took if self._seconds == 0 else 0.9 * self._seconds + 0.1 * took
        if not self.inside:
            self._empty.set()

    async def empty(self) -> None:
        """Return once nobody is inside."""
        await self._empty.wait()
