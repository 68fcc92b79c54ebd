"""The endpoints of a fleet: which of them are up, which one is free, and whether a lost one has come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from llmlab.backends.remote.agreement import LOOK_SECONDS, Facts, Look, Submit, difference
from llmlab.backends.remote.backend import RemoteBackend
from llmlab.backends.remote.stream import RemoteStream
from llmlab.errors import EngineError, LLMLabError
from llmlab.protocol.request import Request

#: Seconds until a lost endpoint is looked at again. They double each time, up to the second number.
_PAUSE_SECONDS = 1.0, 60.0


class Member:
    """An endpoint of a fleet. `Members` changes its attributes, under a lock.

    Args:
        backend: the endpoint.
        facts: what it said when it was looked at; None if it has not answered yet.
        lost: why it is not asked; "" where it is up.

    Attributes:
        load: how many requests are in progress there, or wait for their turn.
        answered: how many requests it has answered.
    """

    def __init__(self, backend: RemoteBackend, *, facts: Facts | None, lost: str) -> None:
        self.backend = backend
        self.facts = facts
        self.lost = lost
        self.load = 0
        self.answered = 0
        self._pause = _PAUSE_SECONDS[0]
        self._due = time.monotonic() + self._pause
        self._looking: Look | None = None

    @property
    def where(self) -> str:
        """Its address."""
        return self.backend.endpoint.where


class Members:
    """The endpoints of a fleet. Any thread may use it.

    Args:
        members: the endpoints, of which at least one is up.
        usual: what an endpoint must agree with before it is used again.
        submit: starts a coroutine on the event loop of all of them.
    """

    def __init__(self, members: Sequence[Member], *, usual: Facts, submit: Submit) -> None:
        self._members = tuple(members)
        self._usual = usual
        self._submit = submit
        self._lock = threading.RLock()
        self.closed = False  #: whether the fleet was closed: no failure is an endpoint's then

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def up(self) -> list[Member]:
        """Returns the endpoints that are asked."""
        with self._lock:
            return [member for member in self._members if not member.lost]

    def start(
        self, request: Request, *, seed: int, failed: Mapping[Member, LLMLabError]
    ) -> tuple[Member, RemoteStream]:
        """Send a request to the endpoint with the most room.

        Args:
            request: the request.
            seed: its seed, or the one drawn for it.
            failed: the endpoints that have failed to answer this request.

        Raises:
            EngineError: no endpoint is left; those that were lost earlier have been looked at again.
        """
        self._look_at([member for member in self._lost(failed) if time.monotonic() >= member._due])
        while (member := self._enter(failed)) is None:
            if not self._await_return(failed):
                raise EngineError(self._nobody(failed), code="endpoint_unreachable", status=502)
        try:
            stream = member.backend.start(request, seed=seed)
        except BaseException:
            self._leave(member)
            raise
        stream.on_done(lambda: self._leave(member))
        return member, stream

    def answer(self, member: Member) -> None:
        """Count an answer."""
        with self._lock:
            member.answered += 1
            member._pause = _PAUSE_SECONDS[0]

    def lose(self, member: Member, error: LLMLabError) -> None:
        """Ask an endpoint no more until it has come back."""
        with self._lock:
            if not member.lost and not self.closed:
                self._rest(member, error.message)

    def _enter(self, failed: Mapping[Member, LLMLabError]) -> Member | None:
        """The endpoint with the most room, with one more request; None if no endpoint is left."""
        with self._lock:
            free = [member for member in self.up() if member not in failed]
            member = min(free, key=lambda each: each.load / each.backend.concurrency, default=None)
            if member is not None:
                member.load += 1
            return member

    def _leave(self, member: Member) -> None:
        with self._lock:
            member.load -= 1

    def _rest(self, member: Member, reason: str) -> None:
        member.lost = reason
        member._due = time.monotonic() + member._pause
        member._pause = min(2 * member._pause, _PAUSE_SECONDS[1])

    def _lost(self, failed: Mapping[Member, LLMLabError]) -> list[Member]:
        with self._lock:
            return [member for member in self._members if member.lost and member not in failed]

    def _look_at(self, members: Sequence[Member]) -> list[Look]:
        """Look at lost endpoints; returns the threads that do, which end when `_take` has what they found."""
        with self._lock:
            for member in members:
                if member._looking is None:
                    take = partial(self._take, member)
                    member._looking = Look(member.backend.endpoint, self._submit, take)
            return [member._looking for member in members if member._looking is not None]

    def _take(self, member: Member, found: Facts | LLMLabError) -> None:
        reason = found.message if isinstance(found, LLMLabError) else difference(self._usual, found)
        with self._lock:
            member._looking = None
            if reason:
                self._rest(member, reason)
            else:
                assert isinstance(found, Facts)
                member.facts, member.lost = found, ""

    def _await_return(self, failed: Mapping[Member, LLMLabError]) -> bool:
        """Look at the lost endpoints now; returns whether one of them is up."""
        limit = time.monotonic() + LOOK_SECONDS
        for look in self._look_at(self._lost(failed)):
            look.join(max(0.0, limit - time.monotonic()))
        return any(member not in failed for member in self.up())

    def _nobody(self, failed: Mapping[Member, LLMLabError]) -> str:
        with self._lock:
            reasons = [failed[member].message if member in failed else member.lost for member in self._members]
        return f"none of the {len(reasons)} endpoints answers: {'; '.join(reasons)}"
