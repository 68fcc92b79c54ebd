"""What a choice says, put together from bytes: its text, its reasoning, the arguments of its calls."""

from __future__ import annotations

from collections.abc import Callable

from llmlab.protocol.completion import CallDelta, ToolCall
from llmlab.text.segments import Span
from llmlab.text.utf8 import TextAssembler

__all__ = ["Calls", "Channel"]


class Channel:
    """Text that is put together from bytes: what is new, and the whole."""

    def __init__(self) -> None:
        self._assembler = TextAssembler()
        self._new: list[str] = []
        self._all: list[str] = []

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their character."""
        return self._assembler.pending

    def byte_length(self, characters: int) -> int:
        """How many bytes the first characters were."""
        return self._assembler.byte_length(characters)

    def decode(self, data: bytes) -> str:
        """The characters that these bytes complete."""
        return self._assembler.feed(data)

    def last(self) -> str:
        """What an unfinished character at the end reads as."""
        return self._assembler.flush()

    def write(self, text: str) -> None:
        """Let text out."""
        self._new.append(text)

    def flush(self) -> None:
        """The bytes end here, or are interrupted."""
        self.write(self.last())

    def fresh(self) -> str:
        """What was let out since this was asked last."""
        text = "".join(self._new)
        self._new.clear()
        self._all.append(text)
        return text

    def whole(self) -> str:
        """All that was let out."""
        self.fresh()
        self._all = ["".join(self._all)]
        return self._all[0]


class Calls:
    """The tool calls of a choice, put together from the segmenter's spans."""

    def __init__(self, name_call: Callable[[int], str]) -> None:
        self._name_call = name_call
        self._made: list[tuple[str, str, Channel]] = []  # id, name, arguments
        self._told = 0  # how many of them a delta has brought
        self.complete = 0  #: how many are

    def take(self, span: Span) -> None:
        """The next bytes of a call."""
        if span.name is not None:
            self.flush()
            self._made.append((self._name_call(len(self._made)), span.name, Channel()))
        if self._made:
            arguments = self._made[-1][2]
            arguments.write(arguments.decode(span.text))
        if span.complete:
            self.flush()
            self.complete += 1

    def flush(self) -> None:
        """The last call's bytes end here."""
        if self._made:
            self._made[-1][2].flush()

    def fresh(self) -> tuple[CallDelta, ...]:
        """What is new of each call since this was asked last."""
        deltas = []
        for index, (made, name, arguments) in enumerate(self._made):
            text = arguments.fresh()
            if index >= self._told:
                deltas.append(CallDelta(index=index, arguments=text, id=made, name=name))
            elif text:
                deltas.append(CallDelta(index=index, arguments=text))
        self._told = len(self._made)
        return tuple(deltas)

    def whole(self) -> tuple[ToolCall, ...]:
        """All calls."""
        return tuple(ToolCall(id=made, name=name, arguments=text.whole()) for made, name, text in self._made)
