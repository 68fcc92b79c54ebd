"""What a tool call consists of between its delimiters, read from a tape: the name and JSON arguments.

Before a call is announced it may turn out to be none (`Malformed`) and nothing is taken. Afterwards nothing malformed
gets out of here: it becomes arguments as they are, up to what closes the call.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from llmlab.text.formats import CallSyntax
from llmlab.text.tape import Ended, Malformed, Reading, Tape, markers

__all__ = ["CallBody", "JsonBody", "NamedBody"]

_OBJECT, _END_OBJECT, _COMMA = b"{},"
#: Where a name that stands by itself ends at the latest.
_AFTER_NAME = re.compile(rb"[\n<`\[{]")


class CallBody(ABC):
    """One call at a time: `begin`, then `read`."""

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], tape: Tape) -> None:
        self._tools = tools
        self._tape = tape
        self._after_name = markers(syntax.after_name)
        self._close = markers(syntax.close)
        self._longest = max((len(name.encode()) for name in tools), default=0)
        self.begin()

    def begin(self) -> None:
        """Forget the last call."""
        self.name: str | None = None  #: once it is complete, and that of a tool
        self.announced: bool = False
        self._held = b""  # arguments that came before the name

    @abstractmethod
    def read(self) -> Reading:
        """Read a call to its end."""

    def cut(self) -> bool:
        """The text ends inside a call: it is one if its name is known."""
        tape = self._tape
        tape.at, tape.streams = len(tape.data), False
        if self.announced:
            tape.take("tool_call")
        elif self.name is not None:
            self._announce(self._held)
        return self.announced

    def _announce(self, text: bytes = b"") -> None:
        self.announced = True
        self._tape.take("tool_call", text=text, name=self.name)

    def _called(self, name: str) -> None:
        if name not in self._tools:
            raise Malformed
        self.name = name

    def _bare_name(self) -> Reading:
        tape = self._tape
        yield from tape.space()
        begin = tape.at
        while not (found := _AFTER_NAME.search(tape.data, begin)):
            if len(tape.data) - begin > self._longest:
                raise Malformed
            tape.at = len(tape.data)
            yield from tape.more()
        tape.at = found.start()
        self._called(tape.data[begin : tape.at].decode("utf-8", "replace").strip())

    def _broken(self) -> Reading:
        """Arguments that are malformed from here on, as they are."""
        tape = self._tape
        close = self._close[-1] if self._close else None
        while not close or not tape.find((close,)):
            tape.at = tape.at if close else len(tape.data)
            tape.take("tool_call", text=tape.data[: tape.at])
            yield from tape.more()
        tape.take("tool_call", text=tape.data[: tape.at])
        tape.at = len(close)
        tape.take("tool_call", complete=True)

    def _arguments(self, *, brackets: int) -> Reading:
        """JSON arguments as they come, and what follows them to the call's end."""
        tape = self._tape
        tape.streams = True
        try:
            yield from tape.value()
            well_formed = True
        except Malformed:
            well_formed = False
        tape.take("tool_call", text=tape.data[: tape.at])
        tape.streams = False
        yield from self._rest(brackets=brackets) if well_formed else self._broken()

    def _rest(self, *, brackets: int) -> Reading:
        """What follows complete arguments: more keys, `brackets` of the call's own, the close; or the call ends here.

        A bracket too few or too many does no harm where a close follows.
        """
        tape = self._tape
        end = 0  # how far the call goes, whatever follows
        try:
            if brackets:
                try:
                    yield from self._more_keys()
                except Malformed:
                    tape.at = 0
                if (yield from tape.next()) == _END_OBJECT:
                    tape.at += 1
                    end = tape.at
            if self._close:
                while (yield from tape.next()) == _END_OBJECT:
                    tape.at += 1
                yield from tape.sequence(self._close)
                end = tape.at
        except Malformed:
            pass
        except Ended:
            end = len(tape.data)
        tape.at = end
        tape.take("tool_call", complete=True)

    def _more_keys(self) -> Reading:
        tape = self._tape
        while (yield from tape.next()) == _COMMA:
            tape.at += 1
            yield from tape.key()
            yield from tape.value()


class JsonBody(CallBody):
    """One JSON object that holds name and arguments, in any order."""

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], tape: Tape) -> None:
        super().__init__(syntax, tools=tools, tape=tape)
        self._close = self._close[1:]  # the object's own bracket is read with the object

    def read(self) -> Reading:
        """Read the object to its last bracket."""
        tape = self._tape
        yield from tape.sequence((b"{",))
        argued = False
        while True:
            key = yield from tape.key()
            byte = yield from tape.next()
            if key == "name" and self.name is None:
                self._called((yield from tape.string()))
            elif key in ("arguments", "parameters") and not argued:
                argued = True
                if byte != _OBJECT:
                    yield from tape.sequence((b"null",))
                elif self.name is None:
                    begin = tape.at
                    yield from tape.value()
                    self._held = tape.data[begin : tape.at]
                else:
                    self._announce()
                    yield from self._arguments(brackets=1)
                    return
            elif key in ("id", "type"):
                yield from tape.value()
            else:
                raise Malformed
            if argued and self.name is not None:
                self._announce(self._held or b"{}")
                yield from self._rest(brackets=1)
                return
            byte = yield from tape.next()
            if byte == _END_OBJECT and self.name is not None:
                tape.at += 1
                self._announce(b"{}")
                yield from self._rest(brackets=0)
                return
            if byte != _COMMA:
                raise Malformed
            tape.at += 1


class NamedBody(CallBody):
    """The name as it is, then the arguments as JSON."""

    def read(self) -> Reading:
        """Read the name, and the arguments behind it."""
        tape = self._tape
        yield from self._bare_name()
        yield from tape.sequence(self._after_name)
        if (yield from tape.next()) == _OBJECT:
            self._announce()
            yield from self._arguments(brackets=0)
            return
        yield from tape.sequence(self._close)
        self._announce(b"{}")
        tape.take("tool_call", complete=True)
