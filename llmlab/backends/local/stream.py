"""A request in progress in the engine: deltas while its tokens are made, and the whole answer at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from llmlab.backends.local.choice_writer import ChoiceWriter
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row, Ticket
from llmlab.protocol.completion import Completion, Delta, Header, Timing

__all__ = ["LocalStream", "one_client"]

#: The client that this thread's requests belong to; None: each request is a client of its own.
_CLIENT: ContextVar[object] = ContextVar("client", default=None)


@contextmanager
def one_client() -> Iterator[None]:
    """Within this context all requests belong to one client, so that they get their slots one after another."""
    before = _CLIENT.set(object())
    try:
        yield
    finally:
        _CLIENT.reset(before)


class LocalStream:
    """A request in progress. Iterate over it for deltas, or call `result` for the whole answer.

    After an interrupt or `close`, `result` returns what was made until then, with finish_reason "interrupted".

    Args:
        engine: the engine that makes the tokens.
        rows: one for each choice that is not finished yet.
        writers: one for each choice.
        header: what is known before the first token.
        begun: deltas of tokens that were given to the writers already; they are yielded first.
    """

    def __init__(
        self,
        engine: Engine,
        rows: Sequence[Row],
        writers: Sequence[ChoiceWriter],
        *,
        header: Header,
        begun: Sequence[Delta] = (),
    ) -> None:
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
        """Call `tell` about twice a second while no token comes, with what the engine compiles, or "waiting"."""
        programs = self._programs
        self._ticket.on_wait = lambda: tell(programs.compiling or "waiting")

    def on_restart(self, tell: Callable[[], None]) -> None:
        """An answer of this engine never begins anew."""

    def close(self) -> None:
        """Stop; what was made is kept. Any thread may call this: if another one reads, its iteration ends by itself."""
        self._ticket.cancel()
        if self._clock.reader in (None, threading.get_ident()):
            self._deltas.close()
            self._end()

    def result(self) -> Completion:
        """Run to the end; returns the whole answer."""
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
    ticket: Ticket, writers: Sequence[ChoiceWriter], begun: Sequence[Delta], clock: _Clock
) -> Generator[Delta, None, None]:
    # A function, not a method: a generator that referred to its stream would keep it alive in a reference cycle, and a
    # stream that is dropped must free its rows at once.
    clock.reader = threading.get_ident()
    for delta in begun:
        yield delta
        clock.reader = threading.get_ident()
    for block in ticket:
        clock.tick()
        for piece in block:
            writer = writers[piece.row]
            delta = writer.feed(piece)
            if writer.finish and not piece.finish:  # a stop sequence in the text, which the engine cannot see
                ticket.cancel([piece.row])
            yield delta
            clock.reader = threading.get_ident()
        if all(writer.finish for writer in writers):
            break
    clock.stop()
