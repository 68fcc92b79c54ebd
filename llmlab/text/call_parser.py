"""The parser of one tool call between its delimiters: what the three call syntaxes have in common.

A call is announced once its function's name is known and its arguments begin. Before that it may turn out not to be a
call: the parser raises `Malformed` and has emitted nothing. Afterwards `Malformed` is no longer raised; malformed
arguments are passed on as they are, up to the text that closes the call.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from llmlab.text.byte_stream import ByteStream, EndOfInput, Malformed, Parser
from llmlab.text.call_syntax import CALL_ID, CallSyntax, markers

__all__ = ["CallParser"]

_END_OBJECT, _COMMA = b"},"
#: The most bytes of an id that a model writes.
_LONGEST_ID = 64


class CallParser(ABC):
    """Parses one call at a time: `reset`, then `parse`.

    Args:
        syntax: how the model writes calls.
        tools: by function name, the JSON schema of its parameters.
        stream: the stream to read from; spans are emitted to it.

    Attributes:
        name: the called function, once its name is complete and known to be one of `tools`.
        announced: whether the call's first span has been emitted.
    """

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], stream: ByteStream) -> None:
        self._tools = tools
        self._stream = stream
        self._before_name = markers(syntax.before_name)
        before_id, _, after_id = syntax.after_name.partition(CALL_ID)
        self._before_id = markers(before_id) if after_id else ()
        self._after_name = markers(after_id or before_id)
        # Bytes that end a function's name that is written without quotes.
        self._name_end = re.compile(rb"[\n<`\[{%b]" % re.escape(syntax.after_name.strip()[:1].encode()[:1]))
        self._close = markers(syntax.close)
        self._longest = max((len(name.encode()) for name in tools), default=0)
        self.reset()

    def reset(self) -> None:
        """Forget the last call."""
        self.name: str | None = None
        self.announced: bool = False
        self._held = b""  # arguments that came before the name

    @abstractmethod
    def parse(self) -> Parser:
        """Parse a call up to its end."""

    def finish(self) -> bool:
        """The input ended inside a call. Emit what there is if the name is known; whether it was."""
        stream = self._stream
        stream.position, stream.streaming = len(stream.data), False
        if self.announced:
            stream.emit("tool_call")
        elif self.name is not None:
            self._announce(self._held)
        return self.announced

    def _announce(self, text: bytes = b"") -> None:
        """Emit the first span of the call, with the arguments that are known by now."""
        self.announced = True
        self._stream.emit("tool_call", text=text, name=self.name)

    def _set_name(self, name: str) -> None:
        if name not in self._tools:
            raise Malformed
        self.name = name

    def _bare_name(self) -> Parser:
        """Read a name that is written without quotes."""
        stream = self._stream
        yield from stream.skip_space()
        begin = stream.position
        while not (found := self._name_end.search(stream.data, begin)):
            if len(stream.data[begin:].strip()) > self._longest:
                raise Malformed
            stream.position = len(stream.data)
            yield from stream.wait()
        stream.position = found.start()
        self._set_name(stream.data[begin : stream.position].strip().decode("utf-8", "replace"))

    def _id(self) -> Parser:
        """Read the id of the call after its name, if it is written, up to the text after the id."""
        stream, first = self._stream, self._before_id[:1]
        if not first:
            return
        yield from stream.skip_space()
        if not (yield from stream.accept(first[0])):
            return
        yield from stream.expect(self._before_id[1:])
        begin = stream.position
        while not (found := stream.find(self._after_name[:1])) and stream.position - begin <= _LONGEST_ID:
            yield from stream.wait()
        if not found or stream.position - begin > _LONGEST_ID:
            raise Malformed

    def _end(self, closing: Iterable[bytes]) -> Parser:
        """Read the delimiters that close a call, as far as they come next."""
        stream = self._stream
        try:
            for close in closing:
                yield from stream.skip_space()
                if not (yield from stream.accept(close)):
                    stream.position = 0
                    break
                stream.emit("tool_call")
        except EndOfInput:
            stream.position = 0
        stream.emit("tool_call", complete=True)

    def _malformed_arguments(self) -> Parser:
        """Pass on the rest of malformed arguments as they are, up to the last part of the closing delimiter."""
        stream = self._stream
        close = self._close[-1] if self._close else None
        while not close or not stream.find((close,)):
            stream.position = stream.position if close else len(stream.data)
            stream.emit("tool_call", text=stream.data[: stream.position])
            yield from stream.wait()
        stream.emit("tool_call", text=stream.data[: stream.position])
        stream.position = len(close)
        stream.emit("tool_call", complete=True)

    def _arguments(self, *, in_object: bool) -> Parser:
        """Pass on JSON arguments as they arrive, and read the rest of the call."""
        stream = self._stream
        stream.streaming = True
        try:
            yield from stream.skip_value()
            well_formed = True
        except Malformed:
            well_formed = False
        stream.emit("tool_call", text=stream.data[: stream.position])
        stream.streaming = False
        yield from self._after_arguments(in_object=in_object) if well_formed else self._malformed_arguments()

    def _after_arguments(self, *, in_object: bool) -> Parser:
        """Read what follows complete arguments: further keys, closing brackets and the closing delimiter.

        Missing and surplus brackets are accepted if the closing delimiter follows. If something else follows, the call
        ends before it.

        Args:
            in_object: whether the arguments lie in an object of the call, which must be closed too.
        """
        stream = self._stream
        end = 0  # where the call ends, whatever follows
        try:
            if in_object:
                try:
                    yield from self._more_keys()
                except Malformed:
                    stream.position = 0
                if (yield from stream.peek_after_space()) == _END_OBJECT:
                    stream.position += 1
                    end = stream.position
            if self._close:
                while (yield from stream.peek_after_space()) == _END_OBJECT:
                    stream.position += 1
                yield from stream.expect(self._close)
                end = stream.position
        except Malformed:
            pass
        except EndOfInput:
            end = len(stream.data)
        stream.position = end
        stream.emit("tool_call", complete=True)

    def _more_keys(self) -> Parser:
        """Read further keys of the call's object, with their values."""
        stream = self._stream
        while (yield from stream.peek_after_space()) == _COMMA:
            stream.position += 1
            yield from stream.read_key()
            yield from stream.skip_value()
