"""Who is inside: how many answers are made or wait, when there is no place for one more, and when all have left."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from llmlab.serve.refusals import QueueFullError, ShuttingDownError

#: Seconds of `Retry-After`, at the least and at the most.
SOONEST, LATEST = 1, 30


@dataclass(eq=False)
class Place:
    """What a request holds inside: one place while its body is read, and then as many as it wants answers."""

    answers: int = 0  #: 0 while it is read
    entered: float = field(default_factory=time.monotonic)


class Line:
    """Requests inside the server, counted by the answers that they want. It belongs to the event loop's thread.

    Args:
        slots: how many answers are made at once.
        queue: how many answers may wait besides as many as there are slots.
    """

    def __init__(self, *, slots: int, queue: int) -> None:
        self.places = slots + queue
        self.closing = False
        self._inside: set[Place] = set()
        self._seconds = 0.0  # that a request was inside, a moving average
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """How many requests there are."""
        return len(self._inside)

    @property
    def answers(self) -> int:
        """How many answers are made or wait."""
        return sum(place.answers for place in self._inside)

    def check_open(self) -> None:
        """Raise `ShuttingDownError` once the server takes nothing more."""
        if self.closing:
            raise ShuttingDownError("the server is shutting down: it finishes what runs and takes nothing more")

    def enter(self) -> Place:
        """A place for a request that has yet to be read, to be given back to `leave`.

        Raises:
            ShuttingDownError, QueueFullError: there is none.
        """
        self.check_open()
        taken = sum(max(place.answers, 1) for place in self._inside)
        if taken >= self.places:
            raise self._full(f"{taken} answers are made or wait, and no more may")
        place = Place()
        self._inside.add(place)
        self._empty.clear()
        return place

    def widen(self, place: Place, *, answers: int) -> None:
        """The request is read, and wants so many; one that wants more than there are places is taken when no other is
        inside, and then it is the only one.

        Raises:
            QueueFullError: they have no place. The request still has to `leave`.
        """
        taken = self.answers
        if taken and taken + answers > self.places:
            raise self._full(f"{taken} answers are made or wait, and with the {answers} of n there would be too many")
        place.answers = answers

    def leave(self, place: Place) -> None:
        """Give the place back."""
        self._inside.remove(place)
        if place.answers:
            took = time.monotonic() - place.entered
            self._seconds = took if self._seconds == 0 else 0.9 * self._seconds + 0.1 * took
        if not self._inside:
            self._empty.set()

    def _full(self, what: str) -> QueueFullError:
        # By then about half of those inside have left.
        seconds = min(max(math.ceil(self._seconds / 2), SOONEST), LATEST)
        return QueueFullError(f"{what} (at most {self.places}); ask again in {seconds} s", retry_after=seconds)

    async def empty(self) -> None:
        """Return once nobody is inside."""
        await self._empty.wait()
