"""Reads values that are written as literals of Python, or with a text of their own around strings, and returns JSON.

Every spelling is read that a model may take from either: strings in `"`, `'`, `'''` or the notation's own quotes, true
and True, null and None, tuples, names with quotes and without, a comma after the last item.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Generator

from llmlab.text.byte_stream import ByteStream, EndOfInput, Malformed, Parser
from llmlab.text.call_syntax import Notation

__all__ = ["LiteralReader", "escaped"]

#: Bytes that a JSON string must escape.
_UNSAFE = re.compile(rb'["\\\x00-\x1f]')
_INTEGER = re.compile(rb"[-+]?[0-9][0-9_]*")
_NUMBER = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_CONSTANTS = {
    **{word: word for word in (b"true", b"false", b"null")},
    b"True": b"true",
    b"False": b"false",
    b"None": b"null",
}

#: Closing brackets, with the JSON text of each pair.
_BRACKETS = {0x7B: (0x7D, b"{"), 0x5B: (0x5D, b"["), 0x28: (0x29, b"[")}
_CLOSED = {0x7D: b"}", 0x5D: b"]", 0x29: b"]"}
_COMMA = 0x2C

#: How many hexadecimal digits follow these letters in an escape.
_HEX = {0x78: 2, 0x75: 4, 0x55: 8}
_ESCAPE = re.compile(rb"(?s)\\(x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)")
#: Escapes of one letter, as JSON writes the character.
_LETTERS = {
    **{letter.encode(): f"\\{letter}".encode() for letter in 'nrtbf\\"/'},
    b"'": b"'",
    b"a": b"\\u0007",
    b"v": b"\\u000b",
    b"0": b"\\u0000",
    b"\n": b"",
}


def escaped(text: bytes) -> bytes:
    """A part of a text, escaped for a JSON string. The part may begin and end inside a UTF-8 character."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0].decode("ascii"))[1:-1].encode(), text)


class LiteralReader:
    """Reads the arguments of one call from a stream, and emits them as the text of one JSON object.

    Args:
        notation: how the model writes values.
        stream: the stream to read from.
    """

    def __init__(self, notation: Notation, *, stream: ByteStream) -> None:
        self._stream = stream
        self._assign = notation.assign.strip().encode()
        self._colon = notation.colon.strip().encode()
        self._quote = notation.quote.encode()
        # The bytes of a value without quotes. Where strings have quotes of their own, a model may leave them out.
        self._bare = re.compile(rb"[^,{}\[\]<\n]*" if notation.quote else rb"[-+.\w]*")

    def key(self, assign: bytes | None = None) -> Generator[None, None, bytes]:
        """Read a name and the text after it, and return the name as a JSON string; `Malformed` if none comes next."""
        stream, assign = self._stream, assign or self._assign
        yield from stream.skip_space()
        begin = stream.position
        for quote in filter(None, (self._quote, b'"', b"'")):
            if (yield from stream.accept(quote)):
                marks = (quote,) if quote == self._quote else (quote, b"\\")
                while (found := stream.find(marks)) != quote:
                    if found:
                        stream.position += 1  # and what is escaped
                        yield from stream.peek()
                        stream.position += 1
                    else:
                        yield from stream.wait()
                name = stream.data[begin + len(quote) : stream.position]
                stream.position += len(quote)
                yield from stream.expect((assign,))
                return _json_string(name) if quote == self._quote else b'"' + _unescaped(name) + b'"'
        ends = (assign, b",", b"(", b")", b"[", b"]", b"{", b"}", b"\n")
        while not (found := stream.find(ends)):
            yield from stream.wait()
        name = stream.data[begin : stream.position].strip()
        if found != assign or not name:
            raise Malformed
        stream.position += len(found)
        return _json_string(name)

    def arguments(self, closer: int, key: bytes) -> Parser:
        """Read the arguments after the first one's name, up to and with the bracket that closes them.

        There is no recursion, because a model may open any number of brackets.

        Args:
            closer: the closing bracket.
            key: the first name, as JSON.
        """
        stream = self._stream
        stream.emit("tool_call", text=b"{" + key + b": ")
        closers = [closer]
        wants, comma = "value", b""  # the comma is written once something follows it
        while closers:
            byte = yield from stream.peek_after_space()
            inside = closers[-1]
            if byte == inside and wants in ("item", "after"):
                closers.pop()
                stream.position += 1
                stream.emit("tool_call", text=b"}" if not closers else _CLOSED[inside])
                wants, comma = "after", b""
            elif wants == "after":
                if byte != _COMMA:
                    raise Malformed
                stream.position += 1
                wants, comma = "item", b", "
            elif wants == "item" and (inside == 0x7D or len(closers) == 1):
                name = yield from self.key(self._assign if len(closers) == 1 else self._colon)
                stream.emit("tool_call", text=comma + name + b": ")
                wants, comma = "value", b""
            elif byte in _BRACKETS:
                end, text = _BRACKETS[byte]
                closers.append(end)
                stream.position += 1
                stream.emit("tool_call", text=comma + text)
                wants, comma = "item", b""
            else:
                yield from self._scalar(byte, comma)
                wants, comma = "after", b""

    def _scalar(self, byte: int, comma: bytes) -> Parser:
        """Read a string, a number or a constant that begins with this byte, and emit it after `comma`."""
        stream = self._stream
        if self._quote and (yield from stream.accept(self._quote)):
            stream.emit("tool_call", text=comma + b'"')
            yield from self._verbatim(self._quote)
        elif byte in b"\"'":
            yield from self._string(bytes([byte]), comma)
        else:
            stream.emit("tool_call")
            try:
                while True:
                    found = self._bare.match(stream.data)
                    assert found is not None
                    if found.end() < len(stream.data):
                        break
                    yield from stream.wait()
            except EndOfInput:
                stream.position = len(stream.data)
                stream.emit("tool_call", text=comma + stream.data)
                raise
            text = self._word(found[0].strip())
            stream.position = found.end()
            stream.emit("tool_call", text=comma + text)

    def _word(self, word: bytes) -> bytes:
        """A value without quotes as JSON."""
        if word in _CONSTANTS or _NUMBER.fullmatch(word):
            return _CONSTANTS.get(word, word)
        try:
            number = int(word) if _INTEGER.fullmatch(word) else float(word)
            if math.isfinite(number):
                return json.dumps(number).encode()
        except ValueError:
            pass
        if not self._quote or not word:
            raise Malformed
        return _json_string(word)

    def _verbatim(self, quote: bytes) -> Parser:
        """Pass on a string without escapes, up to its closing quote."""
        stream = self._stream
        while not (found := stream.find((quote,))):
            stream.emit("tool_call", text=escaped(stream.data[: stream.position]))
            yield from stream.wait()
        stream.emit("tool_call", text=escaped(stream.data[: stream.position]))
        stream.position = len(found)
        stream.emit("tool_call", text=b'"')

    def _string(self, quote: bytes, comma: bytes) -> Parser:
        """Pass on a string with escapes, whose opening quotation mark comes next."""
        stream = self._stream
        stream.position += 1
        if (yield from stream.accept(quote * 2)):
            quote *= 3
        stream.emit("tool_call", text=comma + b'"')
        while True:
            found = stream.find((quote, b"\\"))
            stream.emit("tool_call", text=escaped(stream.data[: stream.position]))
            if found == quote:
                stream.position = len(found)
                stream.emit("tool_call", text=b'"')
                return
            if found:
                yield from self._escape()
            else:
                yield from stream.wait()

    def _escape(self) -> Parser:
        """Pass on an escape, whose backslash comes next."""
        stream = self._stream
        while len(stream.data) < 2 or len(stream.data) < 2 + _HEX.get(stream.data[1], 0):
            yield from stream.wait()
        found = _ESCAPE.match(stream.data)
        assert found is not None
        stream.position = found.end()
        stream.emit("tool_call", text=_in_json(found))


def _in_json(escape: re.Match[bytes]) -> bytes:
    """An escape of Python as JSON writes the character; one that Python does not know stands for itself."""
    digits, letter = escape[2] or escape[3] or escape[4], escape[1][:1]
    if not digits:
        return _LETTERS.get(letter, b"\\\\" + escaped(letter))
    code = int(digits, 16)
    if code > 0x10FFFF:
        return b"\\\\" + escape[1]
    return b"\\u%04x" % code if code <= 0xFFFF else json.dumps(chr(code))[1:-1].encode()


def _unescaped(text: bytes) -> bytes:
    """The text of a string with escapes, as JSON writes it."""
    parts = []
    at = 0
    for found in _ESCAPE.finditer(text):
        parts += [escaped(text[at : found.start()]), _in_json(found)]
        at = found.end()
    return b"".join((*parts, escaped(text[at:])))


def _json_string(text: bytes) -> bytes:
    return b'"' + escaped(text) + b'"'
