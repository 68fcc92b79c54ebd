"""Tool calls whose arguments are pairs of tags (GLM-4.5): a string stands there as it is, any other value as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from llmlab.text.bodies import CallBody
from llmlab.text.formats import CallSyntax
from llmlab.text.tape import Ended, Malformed, Reading, Tape, markers

__all__ = ["PairsBody"]

#: What a JSON string cannot hold as it is.
_UNSAFE = re.compile(rb'["\\\x00-\x1f]')

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class PairsBody(CallBody):
    """The name, then the pairs; what comes out is one JSON object."""

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], tape: Tape) -> None:
        super().__init__(syntax, tools=tools, tape=tape)
        (self._key_open,), (self._key_close, self._value_open), (self._value_close,) = map(markers, syntax.pair)

    def read(self) -> Reading:
        """Read the name, and the pairs behind it."""
        tape = self._tape
        (close,) = self._close
        yield from self._bare_name()
        count = 0
        while True:
            yield from tape.space()
            if (yield from tape.literal(close)):
                if not self.announced:
                    self._announce()
                tape.take("tool_call", text=b"}" if count else b"{}", complete=True)
                return
            if not (yield from tape.literal(self._key_open)):
                if not self.announced:
                    raise Malformed
                tape.at = 0
                yield from self._broken()
                return
            if not self.announced:
                self._announce()
            if not (yield from self._pair(b", " if count else b"{")):
                return
            count += 1

    def _pair(self, before: bytes) -> Generator[None, None, bool]:
        """An argument, whose opening tag was read; whether the call goes on after it."""
        tape = self._tape
        (close,) = self._close
        tape.take("tool_call")
        while not (found := tape.find((self._key_close, close))):
            yield from tape.more()
        if found == close:
            tape.at = 0
            yield from self._broken()
            return False
        key = tape.data[: tape.at].decode("utf-8", "replace")
        tape.at += len(found)
        tape.take("tool_call", text=before + json.dumps(key, ensure_ascii=False).encode() + b": ")
        yield from tape.space()
        if not (yield from tape.literal(self._value_open)):
            tape.at = 0
            yield from self._broken()
            return False
        tape.take("tool_call")
        types = argument_types(self._tools[self.name or ""], key)
        found = yield from (self._string() if types == {"string"} else self._value(types))
        if found != close:
            tape.take("tool_call")
            return True
        tape.take("tool_call", complete=True)
        return False

    def _string(self) -> Generator[None, None, bytes]:
        """A string as it comes; the tag that ends it, which is read."""
        tape = self._tape
        tape.take("tool_call", text=b'"')
        while not (found := tape.find((self._value_close, *self._close))):
            tape.take("tool_call", text=escaped(tape.data[: tape.at]))
            yield from tape.more()
        tape.take("tool_call", text=escaped(tape.data[: tape.at]))
        tape.at = len(found)
        if found == self._value_close:
            tape.take("tool_call", text=b'"')
        return found

    def _value(self, types: frozenset[str]) -> Generator[None, None, bytes]:
        """A value whose type only the whole of it tells, so it is held; the tag that ends it, which is read."""
        tape = self._tape
        try:
            while not (found := tape.find((self._value_close, *self._close))):
                yield from tape.more()
        except Ended:
            tape.take("tool_call", text=tape.data[: tape.at])
            raise
        tape.take("tool_call", text=as_json(tape.data[: tape.at], types))
        tape.at = len(found)
        return found


def escaped(text: bytes) -> bytes:
    """A piece of a text as a piece of a JSON string; it may begin and end inside a character."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0].decode("ascii"))[1:-1].encode(), text)


def as_json(text: bytes, types: frozenset[str]) -> bytes:
    """An argument's value as JSON: as it is, if it is JSON of one of these types (none: of any), or else a string."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return b'"' + escaped(text) + b'"'
    kind = _kind(value)
    fits = not types or kind in types or kind == "string" or (kind == "integer" and "number" in types)
    return text if fits or "string" not in types else b'"' + escaped(text) + b'"'


def argument_types(parameters: Any, name: str) -> frozenset[str]:
    """The JSON types that a function's argument may have by the schema of its parameters; empty if it does not say."""
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    schema = properties.get(name) if isinstance(properties, Mapping) else None
    return frozenset() if schema is None else frozenset(_types(schema, parameters, depth=8))


def _types(schema: Any, root: Any, *, depth: int) -> Iterator[str]:
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
    for key in reference.removeprefix("#").strip("/").split("/"):
        root = root.get(key) if isinstance(root, Mapping) else None
    return root


def _kind(value: Any) -> str:
    return "null" if value is None else _TYPES.get(type(value), "object")


def _refuse(constant: str) -> None:
    raise ValueError(constant)
