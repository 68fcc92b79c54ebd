"""Buffers that turn a choice's bytes into text: its content, its reasoning, the arguments of its tool calls."""

from __future__ import annotations

from collections.abc import Callable

from llmlab.protocol.completion import CallDelta, ToolCall
from llmlab.text.segments import Span
from llmlab.text.utf8 import TextAssembler

__all__ = ["TextBuffer", "ToolCallBuffer"]


class TextBuffer:
    """Text that grows: `decode` turns bytes into characters, `write` adds text, `take_new` returns what is new.

    Decoding and writing are two steps because text may be held back between them, as a possible stop sequence is.
    """

    def __init__(self) -> None:
        self._assembler = TextAssembler()
        self._new: list[str] = []
        self._all: list[str] = []

    @property
    def pending(self) -> int:
        """The number of bytes that wait for the rest of their character."""
        return self._assembler.pending

    def byte_length(self, characters: int) -> int:
        """Returns how many bytes the first `characters` characters were decoded from."""
        return self._assembler.byte_length(characters)

    def decode(self, data: bytes) -> str:
        """Returns the characters that these bytes complete."""
        return self._assembler.feed(data)

    def decode_rest(self) -> str:
        """Returns U+FFFD for the bytes of an unfinished character at the end, if there are any."""
        return self._assembler.flush()

    def write(self, text: str) -> None:
        """Append text."""
        self._new.append(text)

    def flush(self) -> None:
        """End the bytes, or interrupt them: an unfinished character is appended as U+FFFD."""
        self.write(self.decode_rest())

    def take_new(self) -> str:
        """Returns the text that was appended since the last call."""
        text = "".join(self._new)
        self._new.clear()
        self._all.append(text)
        return text

    def whole(self) -> str:
        """Returns all text."""
        self.take_new()
        self._all = ["".join(self._all)]
        return self._all[0]


class ToolCallBuffer:
    """The tool calls of a choice, put together from the segmenter's spans.

    Args:
        name_call: returns the id of a call, given its number.
    """

    def __init__(self, name_call: Callable[[int], str]) -> None:
        self._name_call = name_call
        self._calls: list[tuple[str, str, TextBuffer]] = []  # id, name, arguments
        self._announced = 0  # how many of the calls a delta has contained
        self.complete = 0  #: the number of complete calls

    def add(self, span: Span) -> None:
        """Append the next bytes of a call. A span with a name begins a new call."""
        if span.name is not None:
            self.flush()
            self._calls.append((self._name_call(len(self._calls)), span.name, TextBuffer()))
        if self._calls:
            arguments = self._calls[-1][2]
            arguments.write(arguments.decode(span.text))
        if span.complete:
            self.flush()
            self.complete += 1

    def flush(self) -> None:
        """End the bytes of the last call."""
        if self._calls:
            self._calls[-1][2].flush()

    def take_new(self) -> tuple[CallDelta, ...]:
        """Returns what is new in each call since the last time."""
        deltas = []
        for index, (call_id, name, arguments) in enumerate(self._calls):
            text = arguments.take_new()
            if index >= self._announced:
                deltas.append(CallDelta(index=index, arguments=text, id=call_id, name=name))
            elif text:
                deltas.append(CallDelta(index=index, arguments=text))
        self._announced = len(self._calls)
        return tuple(deltas)

    def whole(self) -> tuple[ToolCall, ...]:
        """Returns all calls."""
        return tuple(ToolCall(id=call_id, name=name, arguments=text.whole()) for call_id, name, text in self._calls)
