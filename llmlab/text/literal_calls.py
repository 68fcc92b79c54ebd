"""Parser of tool calls whose arguments stand in brackets as literals: Gemma, and calls written as Python code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.text.byte_stream import ByteStream, Malformed, Parser
from llmlab.text.call_parser import CallParser
from llmlab.text.call_syntax import CallSyntax
from llmlab.text.literals import LiteralReader

__all__ = ["LiteralCallParser"]


class LiteralCallParser(CallParser):
    """Parses a call that is the function's name without quotes, followed by the named arguments in brackets."""

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], stream: ByteStream) -> None:
        super().__init__(syntax, tools=tools, stream=stream)
        assert syntax.notation is not None
        self._reader = LiteralReader(syntax.notation, stream=stream)
        self._closer = self._close[0][0]
        # A call within another one, as in `print(f())`, ends with that one's bracket.
        self._outer = bool(syntax.optional_open) and syntax.optional_open[-1] == syntax.after_name

    def parse(self) -> Parser:
        """Parse the name, the arguments after it and the closing delimiter."""
        stream = self._stream
        yield from stream.expect(self._before_name)
        yield from self._bare_name()
        yield from stream.expect(self._after_name)
        if (yield from stream.peek_after_space()) == self._closer:
            stream.position += 1
            self._announce(b"{}")
        else:
            key = yield from self._reader.key()  # before it, `f(` may be a word and a bracket of a text
            self._announce()
            try:
                yield from self._reader.arguments(self._closer, key)
            except Malformed:
                stream.position = 0
                yield from self._malformed_arguments()
                return
        yield from self._end((*self._close[1:], *((bytes([self._closer]),) if self._outer else ())))
