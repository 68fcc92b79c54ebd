"""Parsers of tool calls whose arguments are one JSON object: with the name in it (Qwen), or after it (DeepSeek)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmlab.text.byte_stream import ByteStream, EndOfInput, Malformed, Parser
from llmlab.text.call_parser import CallParser
from llmlab.text.call_syntax import CallSyntax

__all__ = ["JsonCallParser", "NamedCallParser"]

_OBJECT, _END_OBJECT, _COMMA = b"{},"


class JsonCallParser(CallParser):
    """Parses a call that is one JSON object with the name and the arguments, in any order."""

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], stream: ByteStream) -> None:
        super().__init__(syntax, tools=tools, stream=stream)
        self._close = self._close[1:]  # the object's own bracket is read with the object
        named = re.search(r'"(\w+)": "$', syntax.before_name)
        self._name_key = named[1] if named else "name"
        filled = re.search(r'"(\w+)": $', syntax.after_name)
        self._arguments_keys = {"arguments", "parameters", filled[1] if filled else "arguments"}

    def parse(self) -> Parser:
        """Parse the object and the closing delimiter."""
        stream = self._stream
        yield from stream.expect((b"{",))
        has_arguments = False
        while True:
            key = yield from stream.read_key()
            byte = yield from stream.peek_after_space()
            if key == self._name_key and self.name is None:
                self._set_name((yield from stream.read_string()))
            elif key in self._arguments_keys and not has_arguments:
                has_arguments = True
                if byte != _OBJECT:
                    yield from stream.expect((b"null",))
                elif self.name is None:
                    begin = stream.position
                    yield from stream.skip_value()
                    self._held = stream.data[begin : stream.position]
                else:
                    self._announce()
                    yield from self._arguments(in_object=True)
                    return
            elif key in ("id", "type", "tool_call_id"):
                yield from stream.skip_value()
            else:
                raise Malformed
            if has_arguments and self.name is not None:
                self._announce(self._held or b"{}")
                yield from self._after_arguments(in_object=True)
                return
            byte = yield from stream.peek_after_space()
            if byte == _END_OBJECT and self.name is not None:
                stream.position += 1
                self._announce(b"{}")
                yield from self._after_arguments(in_object=False)
                return
            if byte != _COMMA:
                raise Malformed
            stream.position += 1


class NamedCallParser(CallParser):
    """Parses a call that is the function's name without quotes, followed by the arguments as JSON."""

    def parse(self) -> Parser:
        """Parse the name, the arguments after it and the closing delimiter."""
        stream = self._stream
        yield from stream.expect(self._before_name)
        yield from self._bare_name()
        yield from self._id()
        yield from stream.expect(self._after_name)
        if (yield from stream.peek_after_space()) == _OBJECT:
            self._announce()
            yield from self._arguments(in_object=False)
            return
        yield from stream.expect(self._close)
        self._announce(b"{}")
        stream.emit("tool_call", complete=True)

    def parse_arguments(self, name: str) -> Parser:
        """Parse the arguments and the closing delimiter of a call whose name has been read.

        Args:
            name: the function, one of the tools. What was read of the call and is not emitted yet belongs to it.
        """
        stream = self._stream
        self._set_name(name)
        self._announce()
        try:
            if (yield from stream.peek_after_space()) == _OBJECT:
                yield from self._arguments(in_object=False)
                return
            try:
                yield from stream.expect(self._close)
            except Malformed:
                stream.position = 0
                yield from self._malformed_arguments()
                return
            stream.emit("tool_call", text=b"{}", complete=True)
        except EndOfInput:
            self.finish()
