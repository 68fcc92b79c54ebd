"""A request under way in this process: deltas from the engine's tokens, and the whole at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from llmlab.backends.local.writer import Writer
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row, Ticket
from llmlab.protocol.completion import Completion, Delta, Header, Timing

#: Who asks what this thread asks; None: each request is somebody's by itself.
_CLIENT: ContextVar[object] = ContextVar("client", default=None)


@contextmanager
def together() -> Iterator[None]:
    """The requests that are started within are one client's: they get their slots one after the other."""
    before = _CLIENT.set(object())
    try:
        yield
    finally:
        _CLIENT.reset(before)


class LocalStream:
    """A request under way. Iterate for deltas, or ask for the whole; an interrupt keeps what is there.

    After an interrupt (or `close`) `result` gives what was made so far, with finish_reason "interrupted".

    Args:
        engine: what makes the tokens.
        rows: one for each choice that is not at its end already.
        writers: one for each choice.
        header: what is known beforehand.
        begun: what the writers have said already, of tokens that were given to them.
    """

    def __init__(
        self,
        engine: Engine,
        rows: Sequence[Row],
        writers: Sequence[Writer],
        *,
        header: Header,
        begun: Sequence[Delta] = (),
    ):
        self.header = header
        self._programs = engine.programs
        self._clock = _Clock()
        self._writers = writers
        running = [writer for writer in writers if writer.finish is None]
        self._ticket = engine.submit(rows, order=header.order, client=_CLIENT.get())
        self._deltas = _deltas(self._ticket, running, begun, self._clock)

    def __iter__(self) -> Iterator[Delta]:
        return self._deltas

    def on_wait(self, tell: Callable[[str], None]) -> None:
        """While nothing comes: be told, about twice a second, what the engine is doing."""
        programs = self._programs
        self._ticket.on_wait = lambda: tell(programs.compiling or "waiting")

    def close(self) -> None:
        """Stop; what was made stays. Any thread may: where another one reads, that comes to the end by itself."""
        self._ticket.cancel()
        if self._clock.reader in (None, threading.get_ident()):
            self._deltas.close()
            self._end()

    def result(self) -> Completion:
        """Run to the end; the whole."""
        for _ in self._deltas:
            pass
        self._end()
        return Completion(
            **vars(self.header),
            choices=tuple(writer.choice() for writer in self._writers),
            timing=Timing(first_token=self._clock.first or 0.0, total=self._clock.total or 0.0),
        )

    def _end(self) -> None:
        self._clock.stop()
        for writer in self._writers:
            writer.interrupt()


class _Clock:
    """Seconds from the submission to the first token on the host, and to the end."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.first: float | None = None
        self.reader: int | None = None  #: the thread that read last
        self.total: float | None = None

    def tick(self) -> None:
        self.first = self.first or time.perf_counter() - self._began

    def stop(self) -> None:
        self.total = self.total or time.perf_counter() - self._began


def _deltas(
    ticket: Ticket, writers: Sequence[Writer], begun: Sequence[Delta], clock: _Clock
) -> Generator[Delta, None, None]:
    # Not a method: a stream that is dropped must go at once, with its rows, and a cycle would keep it.
    clock.reader = threading.get_ident()
    for delta in begun:
        yield delta
        clock.reader = threading.get_ident()
    for block in ticket:
        clock.tick()
        for piece in block:
            writer = writers[piece.row]
            delta = writer.feed(piece)
            if writer.finish and not piece.finish:  # a stop in the text, which the engine cannot see
                ticket.cancel([piece.row])
            yield delta
            clock.reader = threading.get_ident()
        if all(writer.finish for writer in writers):
            break
    clock.stop()
