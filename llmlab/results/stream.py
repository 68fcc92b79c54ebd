"""An answer while it is being generated: the API's chunks as they come, and the whole result at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llmlab.display.progress import Wait
from llmlab.protocol.arguments import number
from llmlab.protocol.backend import Stream as Source
from llmlab.protocol.chunks import chunks
from llmlab.protocol.completion import Completion
from llmlab.protocol.partial import PartialCompletion
from llmlab.results.position import Position, position_of
from llmlab.results.reading import keep_part, read
from llmlab.results.result import Result, asker_of, keep
from llmlab.text.token_names import Token

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk


class Stream:
    """An answer while it is being generated; `lab.stream` returns one.

    Iterating yields `openai.types.chat.ChatCompletionChunk`s. `result()` waits for the end and returns the Result that
    `lab.chat` would have returned.

    The model works in the background. The work is freed when it is done, when the stream is closed (also by the end of
    a `with` block), and when nothing refers to the stream any more.

    Args:
        source: the backend's stream, of which nothing was read.
        options: the request's `stream_options`, as in `llmlab.protocol.chunks.chunks`.
        finish: makes a Result of the completion.
    """

    def __init__(
        self, source: Source, *, options: Mapping[str, bool] | None, finish: Callable[[Completion], Result]
    ) -> None:
        self._source = source
        self._chunks = chunks(source, options=options)
        self._finish = finish
        self._result: Result | None = None
        self._wait = Wait()
        source.on_wait(self._wait.tell)

    @property
    def seed(self) -> int:
        """The request's seed, or the one that was drawn for it."""
        return self._source.header.seed

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> ChatCompletionChunk:
        try:
            # Imported in here, because its first import takes as long as an answer.
            from openai.types.chat import ChatCompletionChunk

            # As the `openai` package itself reads a stream; see `wire.chat_completion`.
            return ChatCompletionChunk.construct(**next(self._chunks))
        except KeyboardInterrupt as interrupt:
            keep_part(self._source, self._keep, interrupt)
            raise
        finally:
            self._wait.over()

    def result(self) -> Result:
        """Waits for the end and returns the whole answer; of a stream that was closed, what was generated until then.

        Chunks that were not read yet are skipped.
        """
        if self._result is None:
            return read(self._source, self._keep)
        return self._result

    def partial_results(self, *, every: float = 0.1, tell: Callable[[str], None] | None = None) -> Iterator[Result]:
        """Yields partial Results while tokens arrive; the last one equals `result()`.

            for result in lab.stream("Tell me a story.").partial_results():
                show(result)

        The finish reason of a choice that is not complete is "unfinished".

        Args:
            every: the least number of seconds between two of them. What takes long to show is shown less often.
            tell: called about twice a second while no token arrives, with the reason for the wait.

        Raises:
            RequestError: `every` is not a number of seconds in [0, 3600].
        """
        every = number("every", every, 0, 3600)
        if self._result is None:
            made = PartialCompletion(self._source.header)
            if tell is not None:
                self._source.on_wait(tell)
            self._source.on_restart(made.clear)
            due = 0.0
            try:
                for delta in self._source:
                    self._wait.over()
                    made.add(delta)
                    if time.monotonic() >= due:
                        began = time.monotonic()
                        yield Result(made.completion())
                        # Showing a result takes no more than half of the time.
                        due = time.monotonic() + max(every, time.monotonic() - began)
            except KeyboardInterrupt as interrupt:
                keep_part(self._source, self._keep, interrupt)
                raise
            finally:
                self._wait.over()
        yield self.result()

    def close(self) -> None:
        """Stops the work and frees what it holds; `result()` then returns what was generated until now."""
        self._source.close()

    def _keep(self, completion: Completion) -> Result:
        self._result = self._finish(completion)
        return self._result

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        header = self._source.header
        return f"<a stream of {header.model}, seed {header.seed}: iterate for its chunks, or ask for its result()>"


def branch_stream(
    result: Result, position: Position, token: Token | None = None, *, choice: int = 0, **changes: Any
) -> Stream:
    """Starts `result.branch(...)`, with the same arguments, as a stream; its `result()` has `result` as its parent.

    Raises:
        IndexError: there is no such position or choice.
        RequestError: as in `Result.branch`.
    """
    from llmlab.counterfactuals.branch import branch

    one, lab = result[choice], asker_of(result)
    at = position_of(position, one, names=result.control_tokens)
    source = branch(result, lab.backend, one, at, token, order=changes.pop("order", None), changes=changes)
    return Stream(source, options=None, finish=partial(keep, lab, parent=result))
