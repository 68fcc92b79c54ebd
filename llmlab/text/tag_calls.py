"""Parser of tool calls whose arguments are tags around names and values, into one JSON object: GLM, Qwen3-Coder.

A string value comes without quotes and escapes, every other value as JSON; Qwen3-Coder also writes Python's constants.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from llmlab.text.byte_stream import ByteStream, EndOfInput, Malformed, Parser
from llmlab.text.call_parser import CallParser
from llmlab.text.call_syntax import CallSyntax, markers
from llmlab.text.literals import escaped

__all__ = ["TagCallParser", "argument_types"]

#: Python's spellings of JSON's constants, as a template writes them that turns values into text.
_CONSTANTS = {b"True": (b"true", "boolean"), b"False": (b"false", "boolean"), b"None": (b"null", "null")}

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class TagCallParser(CallParser):
    """Parses a call that is the function's name, followed by a pair of tagged texts (name and value) per argument."""

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], stream: ByteStream) -> None:
        super().__init__(syntax, tools=tools, stream=stream)
        before, between, after = syntax.pair
        (self._key_open,), (self._key_close, *self._value_open), (value_close,) = map(markers, syntax.pair)
        # White space around a value that does not belong to it; a model may leave it out.
        self._lead = between[len(between.rstrip()) :].encode()
        tail = after[: len(after) - len(after.lstrip())].encode()
        ends = (value_close, *self._close)
        self._ends = {end: end for end in ends} | ({tail + end: end for end in ends} if tail else {})

    def parse(self) -> Parser:
        """Parse the name, the arguments after it and the closing tag."""
        stream = self._stream
        yield from self._bare_name()
        yield from stream.expect(self._after_name)
        count = 0
        while True:
            yield from stream.skip_space()
            if (yield from stream.accept(self._close[0])):
                if not self.announced:
                    self._announce()
                stream.emit("tool_call", text=b"}" if count else b"{}")
                yield from self._end(self._close[1:])
                return
            if not (yield from stream.accept(self._key_open)):
                if not self.announced:
                    raise Malformed
                stream.position = 0
                yield from self._malformed_arguments()
                return
            if not self.announced:
                self._announce()
            if not (yield from self._argument(b", " if count else b"{")):
                return
            count += 1

    def _argument(self, before: bytes) -> Generator[None, None, bool]:
        """Parse one argument, whose opening tag has been read.

        Args:
            before: the JSON text to emit before the argument.

        Returns:
            Whether the call continues after it.
        """
        stream = self._stream
        stream.emit("tool_call")
        while not (found := stream.find((self._key_close, *self._close))):
            yield from stream.wait()
        if found in self._close:
            stream.position = 0
            yield from self._malformed_arguments()
            return False
        key = stream.data[: stream.position].decode("utf-8", "replace")
        stream.position += len(found)
        stream.emit("tool_call", text=before + json.dumps(key, ensure_ascii=False).encode() + b": ")
        for tag in self._value_open:
            yield from stream.skip_space()
            if not (yield from stream.accept(tag)):
                stream.position = 0
                yield from self._malformed_arguments()
                return False
        if self._lead:
            yield from stream.accept(self._lead)
        stream.emit("tool_call")
        types = argument_types(self._tools[self.name or ""], key)
        found = yield from (self._string() if types == {"string"} else self._value(types))
        stream.emit("tool_call")
        if found not in self._close:
            return True
        yield from self._end(self._close[self._close.index(found) + 1 :])
        return False

    def _string(self) -> Generator[None, None, bytes]:
        """Pass on a string value as it arrives, and return the tag that ended it, which has been read."""
        stream = self._stream
        stream.emit("tool_call", text=b'"')
        while not (found := stream.find(tuple(self._ends))):
            stream.emit("tool_call", text=escaped(stream.data[: stream.position]))
            yield from stream.wait()
        stream.emit("tool_call", text=escaped(stream.data[: stream.position]))
        stream.position = len(found)
        if self._ends[found] not in self._close:
            stream.emit("tool_call", text=b'"')
        return self._ends[found]

    def _value(self, types: frozenset[str]) -> Generator[None, None, bytes]:
        """Pass on a value of any of these types, and return the tag that ended it, which has been read.

        The value is held back until it is complete, because only then is it known whether it is JSON or a string.
        """
        stream = self._stream
        try:
            while not (found := stream.find(tuple(self._ends))):
                yield from stream.wait()
        except EndOfInput:
            stream.emit("tool_call", text=stream.data[: stream.position])
            raise
        stream.emit("tool_call", text=as_json(stream.data[: stream.position], types))
        stream.position = len(found)
        return self._ends[found]


def as_json(text: bytes, types: frozenset[str]) -> bytes:
    """An argument's value as JSON.

    Args:
        text: the value as the model wrote it.
        types: the JSON types that the argument may have; empty if any.

    Returns:
        The text itself if it is JSON, unless its type is not allowed and a string is; otherwise the text as a JSON
        string. A text that is a JSON string with its quotes is always returned as it is, and Python's True, False and
        None become JSON where the schema has their type and no string.
    """
    if text in _CONSTANTS and _CONSTANTS[text][1] in types and "string" not in types:
        return _CONSTANTS[text][0]
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return b'"' + escaped(text) + b'"'
    kind = _kind(value)
    fits = not types or kind in types or kind == "string" or (kind == "integer" and "number" in types)
    return text if fits or "string" not in types else b'"' + escaped(text) + b'"'


def argument_types(parameters: Any, name: str) -> frozenset[str]:
    """The JSON types that a function's argument may have.

    Args:
        parameters: the JSON schema of the function's parameters, or None.
        name: the argument.

    Returns:
        The types that the schema names; empty if it does not constrain the type.
    """
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    schema = properties.get(name) if isinstance(properties, Mapping) else None
    return frozenset() if schema is None else frozenset(_types(schema, parameters, depth=8))


def _types(schema: Any, root: Any, *, depth: int) -> Iterator[str]:
    """The types that a schema names; references into `root` are followed, `depth` levels deep."""
    if not isinstance(schema, Mapping) or not depth:
        return
    named = schema.get("type")
    if isinstance(named, str):
        yield named
    elif isinstance(named, list | tuple):
        yield from filter(lambda kind: isinstance(kind, str), named)
    elif isinstance(schema.get("enum"), list | tuple):
        yield from map(_kind, schema["enum"])
    elif "const" in schema:
        yield _kind(schema["const"])
    elif isinstance(schema.get("$ref"), str):
        yield from _types(_resolved(schema["$ref"], root), root, depth=depth - 1)
    else:
        for choice in ("anyOf", "oneOf"):
            if isinstance(schema.get(choice), list | tuple):
                for part in schema[choice]:
                    yield from _types(part, root, depth=depth - 1)


def _resolved(reference: str, root: Any) -> Any:
    """What a reference points to; None if it leads nowhere."""
    for key in reference.removeprefix("#").strip("/").split("/"):
        root = root.get(key) if isinstance(root, Mapping) else None
    return root


def _kind(value: Any) -> str:
    """The JSON type of a value."""
    return "null" if value is None else _TYPES.get(type(value), "object")


def _refuse(constant: str) -> None:
    raise ValueError(constant)
