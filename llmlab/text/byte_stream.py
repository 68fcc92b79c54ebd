"""Incremental parsers over a byte stream, with JSON among what they can read.

A parser is a generator: it yields when it has read all bytes that have arrived and needs more, and raises `EndOfInput`
if there will be no more. So a grammar is written once, as straight code, and gives the same result whether a text comes
in one piece or byte by byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["ByteStream", "EndOfInput", "Malformed", "Parser", "Span"]


class EndOfInput(Exception):  # noqa: N818 - not an error: every text ends
    """A parser needs more bytes and there are none."""


class Malformed(Exception):  # noqa: N818 - not an error: the bytes are plain text then
    """The bytes are not what the parser expects. The stream's position is at the first byte that does not fit."""


class Span(NamedTuple):
    """Bytes whose segment is decided. The `data` of all spans, joined in order, is the whole input.

    Attributes:
        segment: what the bytes belong to: "reasoning", "content" or "tool_call".
        data: the bytes as they came.
        text: in a tool call, the part of the call's JSON arguments that these bytes add.
        name: the called function, in the span that begins a tool call; None in every other span.
        complete: whether a tool call is complete with this span.
        tag: in the reasoning, whether the bytes are a tag or a separator and not text.
    """

    segment: str
    data: bytes
    text: bytes = b""
    name: str | None = None
    complete: bool = False
    tag: bool = False


_SPACE = re.compile(rb"[ \t\r\n]*")
#: Bytes inside a JSON string that are neither its end, nor an escape, nor forbidden.
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_WORD = re.compile(rb"[-+.0-9A-Za-z]*")
_SCALAR = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")

#: A parser without a result. It yields when it needs more bytes.
Parser: TypeAlias = Generator[None, None, None]


def _skip(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    """The end of the bytes that match a pattern at this position; the pattern may match none."""
    found = pattern.match(data, position)
    assert found is not None
    return found.end()


def unfinished(data: bytes, wanted: bytes) -> int:
    """The length of the longest proper beginning of `wanted` with which `data` ends; 0 if there is none."""
    for size in range(min(len(wanted) - 1, len(data)), 0, -1):
        if data.endswith(wanted[:size]):
            return size
    return 0


class ByteStream:
    """The bytes of one generation as parsers see them. Append to `data`, run a parser, and take its `spans`.

    Attributes:
        data: the bytes that have arrived and are not emitted yet.
        position: how many bytes of `data` have been read.
        ended: whether no more bytes will arrive.
        streaming: whether bytes that were read may be emitted as arguments of a call while the parser waits for more.
        spans: what was emitted, in order.
    """

    def __init__(self) -> None:
        self.data = b""
        self.position = 0
        self.ended = False
        self.streaming = False
        self.spans: list[Span] = []

    def emit(
        self,
        segment: str,
        *,
        text: bytes = b"",
        name: str | None = None,
        complete: bool = False,
        tag: bool = False,
    ) -> None:
        """Add a span that holds the bytes up to the position, and remove them from `data`."""
        if self.position or text or name is not None or complete:
            self.spans.append(Span(segment, self.data[: self.position], text, name, complete, tag))
            self.data, self.position = self.data[self.position :], 0

    def wait(self) -> Parser:
        """Wait for more bytes."""
        if self.streaming:
            self.emit("tool_call", text=self.data[: self.position])
        if self.ended:
            raise EndOfInput
        yield

    def peek(self) -> Generator[None, None, int]:
        """Return the next byte without reading it."""
        while self.position >= len(self.data):
            yield from self.wait()
        return self.data[self.position]

    def skip_space(self) -> Parser:
        """Read white space, up to the first byte that is none."""
        while True:
            self.position = _skip(_SPACE, self.data, self.position)
            if self.position < len(self.data):
                return
            yield from self.wait()

    def peek_after_space(self) -> Generator[None, None, int]:
        """Read white space, and return the byte after it without reading that."""
        yield from self.skip_space()
        return (yield from self.peek())

    def find(self, ends: Sequence[bytes]) -> bytes | None:
        """Move the position to the first occurrence of any of these texts, and return that text.

        If none occurs yet, return None and move the position to the first byte that may become part of one.
        """
        found_at = [(at, end) for end in ends if (at := self.data.find(end, self.position)) >= 0]
        if found_at:
            self.position, found = min(found_at)
            return found
        rest = 0 if self.ended else max(unfinished(self.data[self.position :], end) for end in ends)
        self.position = len(self.data) - rest
        return None

    def accept(self, wanted: bytes) -> Generator[None, None, bool]:
        """Read a text if it comes next, and return whether it did."""
        while len(self.data) - self.position < len(wanted) and wanted.startswith(self.data[self.position :]):
            yield from self.wait()
        if not self.data.startswith(wanted, self.position):
            return False
        self.position += len(wanted)
        return True

    def expect(self, parts: Sequence[bytes]) -> Parser:
        """Read these texts, with or without white space before each; `Malformed` if they do not come next."""
        for part in parts:
            yield from self.skip_space()
            if not (yield from self.accept(part)):
                raise Malformed

    def read_string(self) -> Generator[None, None, str]:
        """Read a JSON string and return its value; `Malformed` if none comes next."""
        if (yield from self.peek()) != 0x22:
            raise Malformed
        begin = self.position
        yield from self.skip_string()
        try:
            return str(json.loads(self.data[begin : self.position]))
        except ValueError as error:
            raise Malformed from error

    def read_key(self) -> Generator[None, None, str]:
        """Read a key of a JSON object and the colon after it, and return the key; `Malformed` if none comes next."""
        yield from self.skip_space()
        key = yield from self.read_string()
        yield from self.expect((b":",))
        return key

    def skip_string(self) -> Parser:
        """Read a JSON string; the next byte must be its quotation mark."""
        self.position += 1
        while True:
            self.position = _skip(_PLAIN, self.data, self.position)
            byte = yield from self.peek()
            if byte == 0x22:
                self.position += 1
                return
            if byte == 0x5C:
                self.position += 1
                yield from self.peek()
                self.position += 1
            elif byte < 0x20:
                raise Malformed

    def skip_value(self) -> Parser:
        """Read a JSON value. There is no recursion, because a model may open any number of brackets."""
        closers: list[int] = []
        # What may come next: "value"; "first", a value or the array's end; "key", a key or the object's end;
        # "name", a key; "after", a comma or the end of the innermost container.
        wants = "value"
        while True:
            yield from self.skip_space()
            byte = yield from self.peek()
            if wants in ("key", "name"):
                if byte == 0x22:
                    yield from self.skip_string()
                    yield from self.expect((b":",))
                    wants = "value"
                    continue
                if wants == "name" or byte != 0x7D:
                    raise Malformed
            if wants in ("value", "first") and not (wants == "first" and byte == 0x5D):
                if byte in b"{[":
                    closers.append(0x7D if byte == 0x7B else 0x5D)
                    self.position += 1
                    wants = "key" if byte == 0x7B else "first"
                    continue
                yield from self._skip_scalar(byte)
            elif byte == 0x2C and wants == "after":
                self.position += 1
                wants = "name" if closers[-1] == 0x7D else "value"
                continue
            elif byte == closers[-1]:
                closers.pop()
                self.position += 1
            else:
                raise Malformed
            if not closers:
                return
            wants = "after"

    def _skip_scalar(self, byte: int) -> Parser:
        """Read a JSON string, number, true, false or null that begins with this byte."""
        if byte == 0x22:
            yield from self.skip_string()
            return
        word = b""
        while True:
            begin, self.position = self.position, _skip(_WORD, self.data, self.position)
            word += self.data[begin : self.position]
            if self.position < len(self.data):
                break
            yield from self.wait()
        if not _SCALAR.fullmatch(word):
            raise Malformed
