"""Tool calls in a text: where they begin, how they follow one another, and where they end.

What only looks like a call is left alone. A call is announced once it is sure to be one: its name is that of a tool
and complete, and its arguments have begun. From there on it stays a call, whatever comes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from llmlab.text.bodies import CallBody, JsonBody, NamedBody
from llmlab.text.formats import CallSyntax
from llmlab.text.pairs import PairsBody
from llmlab.text.tape import Ended, Malformed, Reading, Tape, markers

__all__ = ["CallReader"]

_BODIES: dict[str, type[CallBody]] = {"json": JsonBody, "named": NamedBody, "pairs": PairsBody}


class CallReader:
    """Reads the calls of one generation.

    Args:
        syntax: how they are written.
        tools: the functions that may be called: by name, the JSON schema of their parameters.
        tape: where the bytes come.
    """

    def __init__(self, syntax: CallSyntax, *, tools: Mapping[str, Any], tape: Tape) -> None:
        self._tape = tape
        self._body = _BODIES[syntax.style](syntax, tools=tools, tape=tape)
        self._open = markers(syntax.open)
        self._starts = tuple(filter(None, (markers(syntax.start), markers(syntax.optional_start))))
        self._between = markers(syntax.between or ";")
        self._end = markers(syntax.end)
        #: What a text holds where calls begin. Of bare JSON it is also the bracket at the beginning of a line.
        self.triggers: tuple[bytes, ...] = tuple(part[0] for part in (*self._starts, self._open) if part)
        self.bare: bool = not syntax.open and not syntax.start

    def read(self, *, first: bool = True) -> Generator[None, None, bool]:
        """Read one call from where the tape stands; with `first`, also what begins a turn's calls.

        Returns:
            Whether there was one. If not, nothing was taken, and the tape stands anywhere.
        """
        self._body.begin()
        try:
            if first:
                yield from self._start()
            yield from self._tape.sequence(self._open)
            yield from self._body.read()
        except Malformed:
            return False
        except Ended:
            return self._body.cut()
        return True

    def after(self) -> Generator[None, None, bool]:
        """Read on after a call: whether there was another. What ends all calls is taken, if it is there."""
        tape = self._tape
        try:
            if self._end:
                yield from tape.space()
                if (yield from tape.literal(self._end[0])):
                    tape.take("tool_call")
                    return False
            for marker in self._between:
                yield from tape.space()
                yield from tape.literal(marker)
        except Ended:
            tape.at = 0
            return False
        if (yield from self.read(first=False)):
            return True
        tape.at = 0
        return False

    def _start(self) -> Reading:
        tape = self._tape
        yield from tape.space()
        for start in self._starts:
            if (yield from tape.literal(start[0])):
                yield from tape.sequence(start[1:])
                return
