"""Parsers of tool calls whose arguments are one JSON object: Qwen, Hermes, Mistral, Llama and DeepSeek-R1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.text.byte_stream import ByteStream, Malformed, Parser
from llmlab.text.call_parser import CallParser
from llmlab.text.formats import CallSyntax

__all__ = ["JsonCallParser", "NamedCallParser"]

_OBJECT, _END_OBJECT, _COMMA = b"{},"


class JsonCallParser(CallParser):
    """Parses a call that is one JSON object with the name and the arguments, in any order."""

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], stream: ByteStream) -> None:
        super().__init__(syntax, tools=tools, stream=stream)
        self._close = self._close[1:]  # the object's own bracket is read with the object

    def parse(self) -> Parser:
        """Parse the object and the closing delimiter."""
        stream = self._stream
        yield from stream.expect((b"{",))
        has_arguments = False
        while True:
            key = yield from stream.read_key()
            byte = yield from stream.peek_after_space()
            if key == "name" and self.name is None:
                self._set_name((yield from stream.read_string()))
            elif key in ("arguments", "parameters") and not has_arguments:
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
            elif key in ("id", "type"):
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
        yield from self._bare_name()
        yield from stream.expect(self._after_name)
        if (yield from stream.peek_after_space()) == _OBJECT:
            self._announce()
            yield from self._arguments(in_object=False)
            return
        yield from stream.expect(self._close)
        self._announce(b"{}")
        stream.emit("tool_call", complete=True)
