"""A backend's stream as that of a Response: it remembers its deltas, from which the items of the output are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from llmlab.errors import LLMLabError
from llmlab.protocol.backend import Stream
from llmlab.protocol.completion import Delta, Header
from llmlab.serve.responses.answer import Answer, is_cut
from llmlab.serve.responses.output import Output
from llmlab.serve.responses.request import AskedChat


@runtime_checkable
class Responding(Protocol):
    """What the events are made from: a `ResponseStream`, or what observes one."""

    asked: AskedChat

    @property
    def header(self) -> Header:
        """What is known before the first token."""

    def __iter__(self) -> Iterator[Delta]: ...

    def result(self) -> Answer:
        """Run to the end; returns the whole answer."""


class ResponseStream:
    """An answer in progress. Its errors name the fields of the request that was made.

    The whole answer is made from the same deltas as the events, so that the two have the same items.

    Args:
        stream: a backend's stream from which nothing has been read yet.
        asked: the request that was made, with the chat that was asked.
    """

    def __init__(self, stream: Stream, asked: AskedChat) -> None:
        self.asked = asked
        self._stream = stream
        self._deltas: list[Delta] = []
        self._read = False  # whether the stream has been read to its end

    @property
    def header(self) -> Header:
        """What is known before the first token."""
        return self._stream.header

    def __iter__(self) -> Iterator[Delta]:
        try:
            for delta in self._stream:
                self._deltas.append(delta)
                yield delta
            self._read = True
        except LLMLabError as error:
            raise self.asked.explained(error) from None

    def result(self) -> Answer:
        """Run to the end; returns the whole answer."""
        if not self._read:
            _run(iter(self))
        completion = self._stream.result()
        output = Output(self.header, summary=self.asked.responses.wants_summary)
        for delta in self._deltas:
            _run(output.add(delta))
        _run(output.end(cut=is_cut(completion)))
        return Answer(completion, self.asked.responses, tuple(output.items))

    def close(self) -> None:
        """Stop the work. Any thread may call it, at any time and more than once."""
        self._stream.close()


def _run(steps: Iterator[object]) -> None:
    for _ in steps:
        pass
