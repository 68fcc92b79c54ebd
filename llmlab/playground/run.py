"""An answer of the playground in progress: the thread that reads it, who is told of it, its entry in the history."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from llmlab.display.bars import DistributionBars
from llmlab.errors import LLMLabError
from llmlab.protocol.partial import UNFINISHED

if TYPE_CHECKING:
    from llmlab.results.result import Result
    from llmlab.results.stream import Stream

#: Seconds between two updates of an answer in progress.
EVERY = 0.12


@runtime_checkable
class View(Protocol):
    """Shows what happens on a side. Its methods are called from the threads of the playground."""

    def distribution(self, side: str, bars: DistributionBars | str) -> None:
        """The next-token distribution has changed; a text says why there is none."""

    def waiting(self, side: str, what: str) -> None:
        """No token has come yet, for the reason `what`."""

    def grew(self, side: str, result: Result) -> None:
        """The answer has more tokens."""

    def finished(self, side: str, run: Run) -> None:
        """The answer is finished, or was stopped."""

    def compared(self, shown: str) -> None:
        """The answers of both sides were compared: HTML, empty where there are no two answers to compare."""

    def wrong(self, side: str, error: LLMLabError | None) -> None:
        """The settings cannot be sent because of `error`; None: they can be sent (again)."""


class Run(NamedTuple):
    """An answer in the history."""

    number: int  #: from 1
    side: str
    result: Result
    order: str

    @property
    def title(self) -> str:
        """One line: the number, the parameters that were set, and the beginning of the answer."""
        given = self.result.request.to_dict()
        shown = [
            f"{name} {value!r}" if isinstance(value, int | float) else name
            for name, value in given.items()
            if name not in ("messages", "prompt", "seed", "max_tokens", "model") and not isinstance(value, bool)
        ]
        order = [] if self.order == "llmlab" else [self.order]
        kept = max((choice.given for choice in self.result.choices), default=0)
        order += [f"goes on from position {kept - 1}"] if kept else []
        text = " ".join(self.result.text.split())
        begun = text if len(text) <= 48 else f"{text[:47]}…"
        return " · ".join([f"{self.number} {self.side}", *shown, *order, f"seed {self.result.seed}", f"“{begun}”"])


class Answer:
    """Reads one answer on a thread of its own, and calls functions with what happens, on that thread.

    Args:
        name: the name of the thread.
        ask: sends the request; returns the stream of its answer.
        waiting: called with a reason while no token comes.
        grew: called with the partial result while the answer grows.
        finished: called with the whole result, also when the answer was stopped.
        failed: called with an error, in place of `finished`.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Stream],
        *,
        waiting: Callable[[str], None],
        grew: Callable[[Result], None],
        finished: Callable[[Result], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._ask = ask
        self._waiting, self._grew, self._finished, self._failed = waiting, grew, finished, failed
        self._stream: Stream | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def running(self) -> bool:
        """Whether the answer is still in progress."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Send the request."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the answer. May be called at any time, and more than once."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.close()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the answer has ended."""
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self._stream = self._ask()
            if self._stopped.is_set():  # it was stopped before there was a stream to close
                self._stream.close()
            for result in self._stream.partial_results(every=EVERY, tell=self._waiting):
                if UNFINISHED in result.finish_reasons:
                    self._grew(result)
            result = self._stream.result()
        except Exception as error:
            self._failed(error)
        else:
            self._finished(result)


def shown_error(error: Exception) -> LLMLabError:
    """The error as an `LLMLabError` to show: an exception that is raised on a thread would be seen by nobody."""
    return error if isinstance(error, LLMLabError) else LLMLabError(f"{type(error).__name__}: {error}")
