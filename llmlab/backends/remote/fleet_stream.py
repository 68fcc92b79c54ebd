"""A request to a fleet in progress: where its endpoint is lost, another one is asked the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

from llmlab.backends.remote.members import Member, Members
from llmlab.errors import EngineError, LLMLabError, RequestError
from llmlab.protocol.completion import Completion, Delta, Header
from llmlab.protocol.request import Request


class FleetStream:
    """A request in progress at one of several endpoints. It is read like any other stream.

    Where the endpoint fails before anything was read, another one is asked the same, with the same seed, and a note
    says so; after that only where the reader allows it (`on_restart`), or wants no more than the `result`.

    Args:
        members: the endpoints.
        request: the request.
        seed: its seed, or the one drawn for it.
    """

    def __init__(self, members: Members, request: Request, *, seed: int) -> None:
        # The generator does not refer to this object, so that a stream that is dropped goes at once.
        self._asked = _Asked(members, request, seed=seed)
        self._deltas = _deltas(self._asked)

    @property
    def header(self) -> Header:
        """What is known before the first token."""
        return self._asked.stream.header

    def __iter__(self) -> Iterator[Delta]:
        return self._deltas

    def on_wait(self, tell: Callable[[str], None]) -> None:
        """Call `tell` about twice a second while nothing comes, with "waiting", and when an endpoint is lost."""
        self._asked.tell = tell
        self._asked.stream.on_wait(tell)

    def on_restart(self, tell: Callable[[], None]) -> None:
        """Let another endpoint begin the answer anew after some of it was read; `tell` is called first."""
        self._asked.restart = tell

    def close(self) -> None:
        """Stop; what was read is kept. Any thread may call this: if another one reads, its iteration ends by itself."""
        self._asked.close()
        try:
            self._deltas.close()
        except ValueError:  # another thread is reading
            return

    def result(self) -> Completion:
        """Run to the end; returns the whole answer.

        Raises:
            LLMLabError: an endpoint refused the request, or all of them failed.
        """
        asked = self._asked
        if not asked.read:
            asked.restart = asked.restart or (lambda: None)  # nobody has seen any of it
        for _ in self._deltas:
            pass
        if asked.error is not None:
            raise asked.error
        completion = asked.stream.result()
        return replace(completion, notes=(*asked.notes, *completion.notes))


class _Asked:
    """A request, the endpoint that it was sent to last, and those that failed."""

    def __init__(self, members: Members, request: Request, *, seed: int) -> None:
        self.tell: Callable[[str], None] | None = None
        self.restart: Callable[[], None] | None = None
        self.read = False  #: whether any of the answer has been read
        self.closed = False
        self.error: LLMLabError | None = None
        self.notes: list[str] = []
        self._members = members
        self._request = request
        self._seed = seed
        self._failed: dict[Member, LLMLabError] = {}
        self._lock = threading.Lock()
        self.member, self.stream = members.start(request, seed=seed, failed={})

    def close(self) -> None:
        with self._lock:
            self.closed = True
            stream = self.stream
        stream.close()

    def end(self) -> None:
        """The answer is whole."""
        if not self.closed:
            self._members.answer(self.member)

    def move(self, error: LLMLabError) -> None:
        """Ask another endpoint after this one has failed.

        Raises:
            LLMLabError: the request is to blame, some of the answer has been read, or no endpoint is left.
        """
        if isinstance(error, RequestError) or self._is_over():
            raise error
        self._members.lose(self.member, error)
        self._failed[self.member] = error
        if self.read and self.restart is None:
            raise EngineError(
                f"{error.message}; some of its answer has been read already, so no other endpoint went on with it: "
                "ask again",
                code=error.code,
                status=error.status,
            )
        member, stream = self._members.start(self._request, seed=self._seed, failed=self._failed)
        self.notes.append(f"endpoint: {error.message}; {member.where} was asked instead")
        if self.tell is not None:
            self.tell(f"{self.member.where} is lost")
            stream.on_wait(self.tell)
        if self.read and self.restart is not None:
            self.restart()
        self.read = False
        with self._lock:
            self.member, self.stream = member, stream
        if self._is_over():
            stream.close()

    def _is_over(self) -> bool:
        return self.closed or self._members.closed


def _deltas(asked: _Asked) -> Generator[Delta, None, None]:
    while True:
        try:
            for delta in asked.stream:
                asked.read = True
                yield delta
        except LLMLabError as error:
            try:
                asked.move(error)
            except LLMLabError as last:
                asked.error = last
                raise
        else:
            asked.end()
            return
