"""Reads the tool calls in a generated text: where they begin, how one follows another, and where they end.

Text that only looks like a call stays text. A call is announced once it is certain: its function's name is complete and
is that of a tool, and its arguments have begun. From there on it stays a call, whatever follows.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from llmlab.text.byte_stream import ByteStream, EndOfInput, Malformed, Parser
from llmlab.text.call_parser import CallParser
from llmlab.text.call_syntax import CallSyntax, markers
from llmlab.text.json_calls import JsonCallParser, NamedCallParser
from llmlab.text.literal_calls import LiteralCallParser
from llmlab.text.tag_calls import TagCallParser

__all__ = ["CallReader"]

#: The parser for each `CallSyntax.style`.
_PARSERS: dict[str, type[CallParser]] = {
    "json": JsonCallParser,
    "named": NamedCallParser,
    "pairs": TagCallParser,
    "literals": LiteralCallParser,
}

#: The brackets of a list of calls, which a model may leave out.
_LIST, _END_LIST = b"[", b"]"


class CallReader:
    """Reads the tool calls of one generation.

    Args:
        syntax: how the model writes calls.
        tools: the functions that may be called: by name, the JSON schema of their parameters.
        stream: the stream to read from; spans are emitted to it.

    Attributes:
        triggers: texts at which calls begin.
        bare: a bracket with which a call may begin at the beginning of a line, without any tag; empty if none may.
    """

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], stream: ByteStream) -> None:
        self._stream = stream
        self._parser = _PARSERS[syntax.style](syntax, tools=tools, stream=stream)
        self._open = markers(syntax.open)
        self._optional_open = markers(syntax.optional_open)
        self._starts = tuple(filter(None, (markers(syntax.start), markers(syntax.optional_start))))
        self._between = markers(syntax.between or ";")
        self._end = markers(syntax.end)
        first = markers(syntax.start) or self._open or markers(syntax.before_name)
        #: A single sign is too common in a text to begin a call anywhere.
        self.bare: bytes = first[0] if first and len(first[0]) == 1 else b""
        self.triggers: tuple[bytes, ...] = tuple(
            dict.fromkeys(
                part[0] for part in (*self._starts, self._open, self._optional_open) if part and part[0] != self.bare
            )
        )

    def read(self, *, first: bool = True) -> Generator[None, None, bool]:
        """Read one call from the stream's position.

        Args:
            first: whether the text that begins a turn's calls may come before it.

        Returns:
            Whether there was a call. If not, nothing was emitted, and the stream's position is undefined.
        """
        self._parser.reset()
        try:
            if first:
                yield from self._start()
            yield from self._opening()
            yield from self._parser.parse()
        except Malformed:
            return False
        except EndOfInput:
            return self._parser.finish()
        return True

    def read_next(self) -> Generator[None, None, bool]:
        """Read what follows a call.

        Returns:
            Whether another call followed. If not, the text that ends a turn's calls was emitted if it came next.
        """
        stream = self._stream
        try:
            for at, marker in enumerate(self._end):
                yield from stream.skip_space()
                if (yield from stream.accept(marker)):
                    yield from self._rest_of_end(at + 1)
                    return False
                if marker != _END_LIST:
                    break
            for marker in self._between:
                yield from stream.skip_space()
                yield from stream.accept(marker)
        except EndOfInput:
            stream.position = 0
            return False
        if (yield from self.read(first=False)):
            return True
        stream.position = 0
        return False

    def _rest_of_end(self, read: int) -> Parser:
        """Read the text that ends a turn's calls, of which `read` parts have been read, as far as it comes next."""
        stream = self._stream
        stream.emit("tool_call")
        try:
            for marker in self._end[read:]:
                yield from stream.skip_space()
                if not (yield from stream.accept(marker)):
                    stream.position = 0
                    return
                stream.emit("tool_call")
        except EndOfInput:
            stream.position = 0

    def _opening(self) -> Parser:
        """Read the text that begins a call, or what a model may write in its place."""
        stream, other = self._stream, self._optional_open
        if other:
            yield from stream.skip_space()
            if (yield from stream.accept(other[0])):
                yield from stream.expect(other[1:])
                return
        yield from stream.expect(self._open)

    def _start(self) -> Parser:
        """Read the text that begins a turn's calls, if it comes next."""
        stream = self._stream
        yield from stream.skip_space()
        for start in self._starts:
            if (yield from stream.accept(start[0])):
                for marker in start[1:]:
                    if marker == _LIST:
                        yield from stream.skip_space()
                        yield from stream.accept(marker)
                    else:
                        yield from stream.expect((marker,))
                return
