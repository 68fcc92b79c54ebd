"""Admission control: counts the answers that are in flight or queued; 429 when the queue is full."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from llmlab.serve.errors import QueueFullError, ShuttingDownError

#: The least and the most seconds of `Retry-After`.
SOONEST, LATEST = 1, 30


@dataclass(eq=False)
class Place:
    """An admitted request. It counts as one answer while its body is read, and then as its `n` answers."""

    answers: int = 0  #: 0 while the body is read
    entered: float = field(default_factory=time.monotonic)


class Admission:
    """The requests in the server, counted by their answers. Only the event loop's thread uses it.

    Args:
        slots: how many answers are generated at once.
        queue: how many further answers may wait.
    """

    def __init__(self, *, slots: int, queue: int) -> None:
        self.places = slots + queue
        self.closing = False
        self._inside: set[Place] = set()
        self._seconds = 0.0  # a moving average of the time that a request takes
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """The number of requests."""
        return len(self._inside)

    @property
    def answers(self) -> int:
        """The number of answers in flight or queued."""
        return sum(place.answers for place in self._inside)

    def check_open(self) -> None:
        """Raises `ShuttingDownError` once the server accepts no more requests."""
        if self.closing:
            raise ShuttingDownError("the server is shutting down: it finishes running requests and accepts no more")

    def enter(self) -> Place:
        """Admits a request whose body is not read yet, and returns its place, which `leave` gives back.

        Raises:
            ShuttingDownError: the server accepts no more requests.
            QueueFullError: there is no place.
        """
        self.check_open()
        taken = sum(max(place.answers, 1) for place in self._inside)
        if taken >= self.places:
            raise self._full(f"{taken} answers are in flight or queued, and no more may be")
        place = Place()
        self._inside.add(place)
        self._empty.clear()
        return place

    def widen(self, place: Place, *, answers: int) -> None:
        """Counts a request as its `answers`, once its body is read.

        A request with more answers than there are places is admitted while it is the only one.

        Raises:
            QueueFullError: there are not enough places. The request still has to `leave`.
        """
        taken = self.answers
        if taken and taken + answers > self.places:
            raise self._full(f"{taken} answers are in flight or queued, and the {answers} of n are too many besides")
        place.answers = answers

    def leave(self, place: Place) -> None:
        """Gives a place back."""
        self._inside.remove(place)
        if place.answers:
            took = time.monotonic() - place.entered
            self._seconds = took if self._seconds == 0 else 0.9 * self._seconds + 0.1 * took
        if not self._inside:
            self._empty.set()

    def _full(self, what: str) -> QueueFullError:
        # After half of the average time about half of the requests have left.
        seconds = min(max(math.ceil(self._seconds / 2), SOONEST), LATEST)
        return QueueFullError(f"{what} (at most {self.places}); ask again in {seconds} s", retry_after=seconds)

    async def empty(self) -> None:
        """Returns once there are no requests."""
        await self._empty.wait()
