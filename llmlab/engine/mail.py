"""What is posted to the engine's driver thread, besides jobs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, NamedTuple, TypeAlias

from llmlab.engine.scheduler import WAIT_SECONDS, Job
from llmlab.engine.visits import Visit
from llmlab.errors import EngineError


class Cancel(NamedTuple):
    """Some rows of a job are not wanted any more."""

    job: Job
    rows: tuple[int, ...]


class Call(NamedTuple):
    """A function that only the driver thread may call, between two chunks of decoding."""

    function: Callable[[], Any]
    answer: Future[Any]

    def run(self, told: Callable[[BaseException], BaseException]) -> None:
        """Calls it; an error is raised again, as `told` returns it, on the thread that waits for the answer."""
        try:
            self.answer.set_result(self.function())
        except BaseException as error:
            self.answer.set_exception(told(error))


def wait_for(answer: Future[Any], lost: Callable[[], EngineError | None]) -> Any:
    """Returns the answer to a call; raises its error, or what `lost` returns once there can be no answer any more."""
    while not wait([answer], timeout=WAIT_SECONDS).done:
        if error := lost():
            raise error
    return answer.result()


class Retire(NamedTuple):
    """Nobody will submit anything more: the engine is to free its memory once its rows have ended."""


class Warm(NamedTuple):
    """What is to be compiled while there is nothing else to do."""

    visits: list[Visit]


Message: TypeAlias = Job | Cancel | Call | Retire | Warm
