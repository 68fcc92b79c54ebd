"""The parts that a grammar is composed of: texts, JSON, regular expressions, other grammars, and their combinations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llmlab.grammar.document import Document
from llmlab.grammar.subschema import Subschema

__all__ = [
    "JSON",
    "Choice",
    "JSONAt",
    "JSONWritten",
    "Lark",
    "Literal",
    "Optional",
    "Part",
    "Raw",
    "Reasoning",
    "Regex",
    "Repeat",
    "Series",
    "Shared",
    "Text",
    "Times",
]


@dataclass(frozen=True)
class Text:
    """A literal text. The name of a control token in it stands for that token."""

    text: str


@dataclass(frozen=True)
class Literal:
    """A literal text in which every character stands for itself, so that it never becomes a control token."""

    text: str


@dataclass(frozen=True, eq=False)
class JSON:
    """One JSON value that is valid under a schema, without white space around it.

    Here and below, `path` is what the path of an error begins with.
    """

    schema: Any
    path: str = ""


@dataclass(frozen=True, eq=False)
class JSONAt:
    """One JSON value that is valid under all these subschemas of a document."""

    document: Document
    subschemas: list[Subschema]


@dataclass(frozen=True, eq=False)
class JSONWritten:
    """One JSON value under a schema that has been rewritten for llguidance (`llmlab.grammar.schema`)."""

    schema: dict[str, Any]


@dataclass(frozen=True)
class Regex:
    """A text that as a whole matches a regular expression in Rust's syntax, without anchors."""

    pattern: str
    path: str = ""


@dataclass(frozen=True)
class Lark:
    """A text that follows a whole grammar of its own, in llguidance's dialect of Lark."""

    source: str
    path: str = ""


@dataclass(frozen=True)
class Raw:
    """Any text that is followed by `end` and contains none of `without`; `end` is part of it.

    The whole text before `end` matches each of `patterns`, which are regular expressions in Rust's syntax without
    anchors.
    """

    end: str
    without: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Choice:
    """Exactly one of these parts."""

    options: Sequence[Part]


@dataclass(frozen=True, eq=False)
class Optional:
    """A part that may be left out."""

    part: Part


@dataclass(frozen=True, eq=False)
class Repeat:
    """A part once or more often, with a literal text between each two."""

    part: Part
    between: str


@dataclass(frozen=True, eq=False)
class Times:
    """A part from `least` times to `most` times; without a limit where that is None."""

    part: Part
    least: int
    most: int | None


@dataclass(frozen=True, eq=False)
class Series:
    """Parts in this order."""

    parts: Sequence[Part]


@dataclass(eq=False)
class Shared:
    """A part that is written once, wherever it occurs, and that may contain itself; `part` may be set later."""

    part: Part | None = None


#: A part of a grammar.
Part: TypeAlias = (
    Text
    | Literal
    | JSON
    | JSONAt
    | JSONWritten
    | Regex
    | Lark
    | Raw
    | Choice
    | Optional
    | Repeat
    | Times
    | Series
    | Shared
)


@dataclass(frozen=True)
class Reasoning:
    """Reasoning before the constrained text: free text, `close`, and any beginning of `separator`.

    Attributes:
        open: the tag that begins it.
        close: the tag that ends it.
        separator: what the chat template writes after `close`; a model may write all of it, a part of it or nothing.
        then: a text that must follow `close`, before the separator.
        opened: whether the prompt ends inside the reasoning. If so it is required and has no `open` tag; if not, the
            model may leave it out.
        without: texts that must not occur in it.
    """

    open: str
    close: str
    separator: str = ""
    then: str = ""
    opened: bool = False
    without: tuple[str, ...] = ()
