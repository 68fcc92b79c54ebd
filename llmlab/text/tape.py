"""Bytes that come in pieces, and parsers over them that wait for more wherever a piece happens to end.

A parser is a generator: it yields when it has read all that is there and needs more, and raises `Ended` where there
will be no more. So a grammar is written once, straight on, and reads a text in one piece or byte by byte with the same
result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

__all__ = ["Ended", "Malformed", "Reading", "Span", "Tape", "markers"]


class Ended(Exception):  # noqa: N818 - no error: every text ends
    """The bytes end here."""


class Malformed(Exception):  # noqa: N818 - no error: it is text then
    """The bytes are not what they began to be; the tape stands at the first that is not."""


class Span(NamedTuple):
    """Bytes that are decided, in the order in which they came; all spans joined are all the bytes.

    `text` is what a reader of a tool call gets of them: new text of its arguments. `name` is there where a call begins,
    `complete` where it has come to its end. `tag` says that these bytes of the reasoning are a tag or a separator.
    """

    segment: str
    data: bytes
    text: bytes = b""
    name: str | None = None
    complete: bool = False
    tag: bool = False


_SPACE = re.compile(rb"[ \t\r\n]*")
_RUN = re.compile(rb'[^"\\\x00-\x1f]*')
_WORD = re.compile(rb"[-+.0-9A-Za-z]*")
_SCALAR = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")
_MARKER = re.compile(r"<[^<>]*>|\[[A-Z_/]+\]|```[a-z]*|\w+|\S")

#: A parser's step: it yields to wait, and returns what it found.
Reading: TypeAlias = Generator[None, None, None]


@lru_cache(maxsize=256)
def markers(literal: str) -> tuple[bytes, ...]:
    """The parts of a delimiter between which a model may write white space: tags, words, single signs."""
    return tuple(part.encode() for part in _MARKER.findall(literal))


def _behind(run: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where a run of bytes that begins here, and may be of none, has ended."""
    found = run.match(data, at)
    assert found is not None
    return found.end()


def unfinished(data: bytes, wanted: bytes) -> int:
    """How many bytes at the end of the data are a beginning of what is wanted, but not the whole of it."""
    for size in range(min(len(wanted) - 1, len(data)), 0, -1):
        if data.endswith(wanted[:size]):
            return size
    return 0


class Tape:
    """What has come and is not decided yet (`data`), how far it was read (`at`), and what was decided (`out`)."""

    def __init__(self) -> None:
        self.data = b""
        self.at = 0
        self.ended = False
        self.streams = False  #: whether all that was read can go out, as text of a call, whenever there is no more
        self.out: list[Span] = []

    def take(
        self,
        segment: str,
        *,
        text: bytes = b"",
        name: str | None = None,
        complete: bool = False,
        tag: bool = False,
    ) -> None:
        """Decide what was read."""
        if self.at or text or name is not None or complete:
            self.out.append(Span(segment, self.data[: self.at], text, name, complete, tag))
            self.data, self.at = self.data[self.at :], 0

    def more(self) -> Reading:
        """Wait for more."""
        if self.streams:
            self.take("tool_call", text=self.data[: self.at])
        if self.ended:
            raise Ended
        yield

    def peek(self) -> Generator[None, None, int]:
        """The next byte, which stays."""
        while self.at >= len(self.data):
            yield from self.more()
        return self.data[self.at]

    def space(self) -> Reading:
        """Pass over white space."""
        while True:
            self.at = _behind(_SPACE, self.data, self.at)
            if self.at < len(self.data):
                return
            yield from self.more()

    def next(self) -> Generator[None, None, int]:
        """The next byte that is no white space, which stays."""
        yield from self.space()
        return (yield from self.peek())

    def find(self, ends: Sequence[bytes]) -> bytes | None:
        """Which of these comes first, from where the tape stands; it now stands before it.

        If there is none yet, None; the tape now stands before what may yet become one.
        """
        places = [(place, end) for end in ends if (place := self.data.find(end, self.at)) >= 0]
        if places:
            self.at, found = min(places)
            return found
        rest = 0 if self.ended else max(unfinished(self.data[self.at :], end) for end in ends)
        self.at = len(self.data) - rest
        return None

    def literal(self, wanted: bytes) -> Generator[None, None, bool]:
        """Whether this comes next; it is passed over if it does."""
        while len(self.data) - self.at < len(wanted) and wanted.startswith(self.data[self.at :]):
            yield from self.more()
        if not self.data.startswith(wanted, self.at):
            return False
        self.at += len(wanted)
        return True

    def sequence(self, wanted: Sequence[bytes]) -> Reading:
        """These must come next, with or without white space before each."""
        for marker in wanted:
            yield from self.space()
            if not (yield from self.literal(marker)):
                raise Malformed

    def string(self) -> Generator[None, None, str]:
        """A JSON string, which must come next; what it holds."""
        if (yield from self.peek()) != 0x22:
            raise Malformed
        begin = self.at
        yield from self.passing_string()
        try:
            return str(json.loads(self.data[begin : self.at]))
        except ValueError as error:
            raise Malformed from error

    def key(self) -> Generator[None, None, str]:
        """A JSON object's key and the colon, which must come next; what the key is."""
        yield from self.space()
        key = yield from self.string()
        yield from self.sequence((b":",))
        return key

    def passing_string(self) -> Reading:
        """Pass over a JSON string, whose quotation mark comes next."""
        self.at += 1
        while True:
            self.at = _behind(_RUN, self.data, self.at)
            byte = yield from self.peek()
            if byte == 0x22:
                self.at += 1
                return
            if byte == 0x5C:
                self.at += 1
                yield from self.peek()
                self.at += 1
            elif byte < 0x20:
                raise Malformed

    def value(self) -> Reading:
        """Pass over a JSON value. Without recursion: a model may open as many brackets as it likes."""
        closers: list[int] = []
        wants = "value"  # or: first (a value or the array's end), key (or the object's end), name, after
        while True:
            yield from self.space()
            byte = yield from self.peek()
            if wants in ("key", "name"):
                if byte == 0x22:
                    yield from self.passing_string()
                    yield from self.sequence((b":",))
                    wants = "value"
                    continue
                if wants == "name" or byte != 0x7D:
                    raise Malformed
            if wants in ("value", "first") and not (wants == "first" and byte == 0x5D):
                if byte in b"{[":
                    closers.append(0x7D if byte == 0x7B else 0x5D)
                    self.at += 1
                    wants = "key" if byte == 0x7B else "first"
                    continue
                yield from self._scalar(byte)
            elif byte == 0x2C and wants == "after":
                self.at += 1
                wants = "name" if closers[-1] == 0x7D else "value"
                continue
            elif byte == closers[-1]:
                closers.pop()
                self.at += 1
            else:
                raise Malformed
            if not closers:
                return
            wants = "after"

    def _scalar(self, byte: int) -> Reading:
        if byte == 0x22:
            yield from self.passing_string()
            return
        word = b""
        while True:
            begin, self.at = self.at, _behind(_WORD, self.data, self.at)
            word += self.data[begin : self.at]
            if self.at < len(self.data):
                break
            yield from self.more()
        if not _SCALAR.fullmatch(word):
            raise Malformed
