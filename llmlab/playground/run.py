"""An answer of the playground on its way: who is told of it, the thread that reads it, its line in the history."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from llmlab.display.bars import DistributionBars
from llmlab.errors import LLMLabError
from llmlab.protocol.partial import UNFINISHED
from llmlab.protocol.request import Request

if TYPE_CHECKING:
    from llmlab.playground.state import State
    from llmlab.results.result import Result
    from llmlab.results.stream import Stream

#: Seconds between two pictures of an answer that grows.
EVERY = 0.12


@runtime_checkable
class View(Protocol):
    """Who shows what happens on a side."""

    def law(self, side: str, bars: DistributionBars | str) -> None:
        """The law of the next token has changed; or why there is none."""

    def waiting(self, side: str, what: str) -> None:
        """Nothing comes yet, because of this."""

    def grew(self, side: str, result: Result) -> None:
        """There is more of the answer."""

    def finished(self, side: str, run: Run) -> None:
        """The answer is whole, or was stopped."""

    def wrong(self, side: str, error: LLMLabError | None) -> None:
        """The settings cannot be asked for; None: they can (again)."""


class Run(NamedTuple):
    """An answer in the history."""

    number: int  #: from 1
    side: str
    result: Result
    order: str

    @property
    def title(self) -> str:
        """One line: the number, what was set, and how the answer begins."""
        given = self.result.request.to_dict()
        shown = [
            f"{name} {value:g}" if isinstance(value, int | float) else name
            for name, value in given.items()
            if name not in ("messages", "prompt", "seed", "max_tokens", "model") and not isinstance(value, bool)
        ]
        order = [] if self.order == "llmlab" else [self.order]
        text = " ".join(self.result.text.split())
        begun = text if len(text) <= 48 else f"{text[:47]}…"
        return " · ".join([f"{self.number} {self.side}", *shown, *order, f"seed {self.result.seed}", f"“{begun}”"])


class Answer:
    """One answer on its way to a side: a thread that reads the stream and tells the view."""

    def __init__(self, playground: State, side: str, request: Request, *, order: str) -> None:
        self.side = side
        self.order = order
        self._playground = playground
        self._request = request
        self._stream: Stream | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"llmlab-playground-{side}", daemon=True)

    @property
    def running(self) -> bool:
        """Whether it is not at its end."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Ask."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; harmless at any time."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.close()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        self._thread.join(timeout)

    def _run(self) -> None:
        playground, view = self._playground, self._playground.view
        try:
            self._stream = playground.lab.stream(self._request, order=self.order)
            if self._stopped.is_set():  # before there was a stream to close
                self._stream.close()
            for result in self._stream.partial_results(every=EVERY, tell=lambda what: view.waiting(self.side, what)):
                if UNFINISHED in result.finish_reasons and playground.is_current(self):
                    view.grew(self.side, result)
            run = playground.keep(self, self._stream.result())
        except Exception as error:
            if playground.is_current(self):
                view.wrong(self.side, in_place(error))
        else:
            if playground.is_current(self):
                view.finished(self.side, run)
                playground.redraw(self.side)


def in_place(error: Exception) -> LLMLabError:
    """An error as something to show: nobody sees what a thread raises."""
    return error if isinstance(error, LLMLabError) else LLMLabError(f"{type(error).__name__}: {error}")
