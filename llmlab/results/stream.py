"""An answer as it is made: the API's chunks now, and the whole result at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from llmlab.display.progress import Wait, progress_bar
from llmlab.protocol.arguments import number
from llmlab.protocol.backend import Stream as Source
from llmlab.protocol.chunks import chunks
from llmlab.protocol.completion import Completion

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

    from llmlab.results.result import Result


class Stream:
    """Iterate for `openai.types.chat.ChatCompletionChunk`s; `result` is what `lab.chat` would have returned.

    The work goes on in the background and is freed when it is done, when the stream is closed (also by the end of a
    `with`), and when nobody holds the stream any more.

    Args:
        source: the backend's stream, not read from yet.
        include_usage: as in `llmlab.protocol.chunks.chunks`.
        finish: makes the result of what the backend answered.
    """

    def __init__(self, source: Source, *, include_usage: bool | None, finish: Callable[[Completion], Result]) -> None:
        self._source = source
        self._chunks = chunks(source, include_usage=include_usage)
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
            # In here, for the first time that this is imported takes as long as an answer.
            from openai.types.chat import ChatCompletionChunk

            # As the package itself reads a stream; see `wire.chat_completion`.
            return ChatCompletionChunk.construct(**next(self._chunks))
        except KeyboardInterrupt as interrupt:
            self._keep(interrupt)
            raise
        finally:
            self._wait.over()

    def result(self) -> Result:
        """Read what is left, without giving out its chunks; the whole. Of a stream that was closed, what was made."""
        if self._result is None:
            try:
                _read_to_the_end(self._source)
            except KeyboardInterrupt as interrupt:
                self._keep(interrupt)
                raise
            except BaseException:
                self.close()
                raise
            self._result = self._finish(self._source.result())
        return self._result

    def growing(self, *, every: float = 0.1, tell: Callable[[str], None] | None = None) -> Iterator[Result]:
        """Iterate for what there is by now, as Results that grow; the last one is `result()`.

            for result in lab.stream("Tell me a story.").growing():
                show(result)

        Args:
            every: seconds between two of them, at least; what takes long to show is shown less often.
            tell: called now and then, while nothing comes, with what is being waited for.
        """
        from llmlab.protocol.partial import PartialCompletion
        from llmlab.results.result import Result

        every = number("every", every, 0, 3600)
        if self._result is None:
            made = PartialCompletion(self._source.header)
            if tell is not None:
                self._source.on_wait(tell)
            due = 0.0
            try:
                for delta in self._source:
                    self._wait.over()
                    made.add(delta)
                    if time.monotonic() >= due:
                        began = time.monotonic()
                        yield Result(made.completion())
                        # The reader's own work takes no more than half of the time.
                        due = time.monotonic() + max(every, time.monotonic() - began)
            except KeyboardInterrupt as interrupt:
                self._keep(interrupt)
                raise
            finally:
                self._wait.over()
        yield self.result()

    def close(self) -> None:
        """Stop, and free the slots that the work holds; what was made stays for `result`."""
        self._source.close()

    def _keep(self, interrupt: KeyboardInterrupt) -> None:
        """Stop as `close` does, and say where the part of the answer that there is can be found."""
        self.close()
        self._result = self._finish(self._source.result())
        interrupt.add_note("What was made before the interrupt is in `lab.last`.")

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        header = self._source.header
        return f"<a stream of {header.model}, seed {header.seed}: iterate for its chunks, or ask for its result()>"


def _read_to_the_end(source: Source) -> None:
    """Wait for a backend's stream to end, under a progress line where that takes long."""
    request = source.header.request
    total = None if request.token_limit is None else request.token_limit * request.n
    with progress_bar(total=total, unit="token") as bar:
        source.on_wait(bar.set_description_str)
        for delta in source:
            bar.set_description_str(None, refresh=False)
            bar.update(len(delta.tokens))
