"""How model families write tool calls, as plain data.

A syntax is used in two ways. The parsers (`text/calls.py`) read what a model wrote, and tolerate other white space and
another order of JSON keys. The grammar of a required tool call generates exactly what the template writes:

    start  open before_name NAME after_name ARGUMENTS close  [between open before_name ... close]*  end
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

__all__ = ["CALL_ID", "CallSyntax", "Notation", "markers"]

#: Where this stands in a text of a `CallSyntax`, the model writes the id of the call.
CALL_ID = "\0"

#: A tag, the beginning of a tag with a value, a word in brackets, a fence, a word, or a sign.
_MARKER = re.compile(r'<[^<>]*>|<\w+(?: \w+)?="?|\[[A-Z_/]+\]|```\w*|\w+|[^\s\0]')


@dataclass(frozen=True)
class Notation:
    """How values are written that are not JSON: `(city="Oslo", ok=True)`, `{city:<|"|>Oslo<|"|>,ok:true}`.

    Attributes:
        assign: the text between the name of an argument and its value.
        between: the text between two arguments, two items, or two properties of an object.
        colon: the text between the name of an object's property and its value.
        quote: the text before and after a string, which then has no escapes, and whose objects have names without
            quotes; empty for strings in quotation marks with escapes, as Python and JSON have them.
        constants: how true, false and null are written.
        sort: whether the template writes the names of arguments and properties in alphabetical order.
    """

    assign: str
    between: str
    colon: str
    quote: str = ""
    constants: tuple[str, str, str] = ("true", "false", "null")
    sort: bool = False


@dataclass(frozen=True)
class CallSyntax:
    """How a model writes tool calls. All texts are literal, except that `CALL_ID` stands for an id.

    Attributes:
        style: the form of a call. "json": one object with the name and the arguments; "named": the name without
            quotes, then the arguments as JSON; "pairs": the name, then for each argument its name and its value between
            tags, where a string has no quotes and any other value is JSON; "literals": the name, then the arguments in
            brackets, in a `notation`.
        open: the text that begins each call.
        before_name: the text between `open` and the name.
        after_name: the text between the name and the arguments.
        close: the text that ends each call, after the arguments.
        start: the text before the first call of a turn.
        between: the text between two calls; None if a turn can have only one call.
        end: the text after the last call of a turn.
        before: the white space that the template writes between the content and the calls that follow it.
        optional_start: a text that a model may write in place of `start`.
        optional_open: a text that a model may write in place of `open`.
        notation: for "literals", how the arguments are written.
        pair: for "pairs", the texts before an argument's name, between its name and its value, and after its value.
            White space at the end of the second and at the beginning of the third does not belong to the value.
        id_pattern: the regular expression of an id that the model writes, without anchors.
        id_length: the length that the template requires of call ids; 0 if it accepts any.
    """

    style: Literal["json", "named", "pairs", "literals"]
    open: str
    before_name: str
    after_name: str
    close: str
    start: str = ""
    between: str | None = "\n"
    end: str = ""
    before: str = ""
    optional_start: str = ""
    optional_open: str = ""
    notation: Notation | None = None
    pair: tuple[str, str, str] = ("", "", "")
    id_pattern: str = ""
    id_length: int = 0

    def texts(self) -> Iterator[str]:
        """Every text of this syntax that is not empty."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("style", "notation", "id_pattern", "id_length"):
                yield from filter(None, value if isinstance(value, tuple) else (value,))
        if self.notation and self.notation.quote:
            yield self.notation.quote


@lru_cache(maxsize=256)
def markers(delimiter: str) -> tuple[bytes, ...]:
    """The parts of a delimiter (tags, words, single signs) between which a model may write white space."""
    return tuple(part.encode() for part in _MARKER.findall(delimiter))
