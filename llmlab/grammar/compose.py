"""Composes grammars from parts: literal texts, JSON, raw strings, choices, and optional reasoning before them.

Each part becomes an expression in llguidance's dialect of Lark, plus the rules that the expression refers to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llmlab.grammar.document import Document
from llmlab.grammar.matcher import Grammar
from llmlab.grammar.schema import llguidance_schema, llguidance_subschema
from llmlab.grammar.subschema import Subschema
from llmlab.grammar.vocabulary import Vocabulary

__all__ = ["JSON", "Choice", "JSONAt", "Optional", "Part", "Raw", "Reasoning", "Repeat", "Series", "Text", "grammar"]


@dataclass(frozen=True)
class Text:
    """A literal text. The name of a control token in it stands for that token."""

    text: str


@dataclass(frozen=True, eq=False)
class JSON:
    """One JSON value that is valid under a schema, without white space around it."""

    schema: Any


@dataclass(frozen=True, eq=False)
class JSONAt:
    """One JSON value that is valid under all these subschemas of a document."""

    document: Document
    subschemas: list[Subschema]


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
class Series:
    """Parts in this order."""

    parts: Sequence[Part]


#: A part of a grammar.
Part: TypeAlias = Text | JSON | JSONAt | Raw | Choice | Optional | Repeat | Series


@dataclass(frozen=True)
class Reasoning:
    """Reasoning before the constrained text: free text, `close`, and any beginning of `separator`.

    Attributes:
        open: the tag that begins it.
        close: the tag that ends it.
        separator: what the chat template writes after `close`; a model may write all of it, a part of it or nothing.
        opened: whether the prompt ends inside the reasoning. If so it is required and has no `open` tag; if not, the
            model may leave it out.
        without: texts that must not occur in it.
    """

    open: str
    close: str
    separator: str = ""
    opened: bool = False
    without: tuple[str, ...] = ()


def grammar(vocabulary: Vocabulary, part: Part, *, reasoning: Reasoning | None = None) -> Grammar:
    """Compile a part, with optional reasoning before it, to a grammar over this vocabulary.

    Raises:
        GrammarError: a schema that cannot be enforced, or a grammar that llguidance does not accept.
    """
    writer = _LarkWriter(vocabulary)
    body = writer.part(part)
    before = writer.reasoning(reasoning) if reasoning else ""
    # Without this option, llguidance would force one tokenization wherever the next bytes are certain.
    options = '%llguidance {"no_forcing": true}'
    return Grammar(vocabulary, "\n".join([options, f"start: {before} {body}", *writer.rules, ""]))


class _LarkWriter:
    """Writes parts as Lark expressions and collects the rules that they refer to."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.rules: list[str] = []
        self._controls = vocabulary.controls
        names = sorted(self._controls, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None

    def part(self, part: Part) -> str:
        """The Lark expression of a part."""
        if isinstance(part, Series):
            return "(" + (" ".join(map(self.part, part.parts)) or '""') + ")"
        if isinstance(part, Text):
            return self._text(part.text)
        if isinstance(part, JSON):
            return self._rule(f"%json {json.dumps(llguidance_schema(part.schema), ensure_ascii=False)}")
        if isinstance(part, JSONAt):
            schema = llguidance_subschema(part.document, part.subschemas)
            return self._rule(f"%json {json.dumps(schema, ensure_ascii=False)}")
        if isinstance(part, Raw):
            return self._raw(part)
        if isinstance(part, Choice):
            return "(" + " | ".join(map(self.part, part.options)) + ")"
        if isinstance(part, Optional):
            return f"({self.part(part.part)})?"
        one = self._rule(self.part(part.part))
        return f"({one} ({self._text(part.between)} {one})*)"

    def reasoning(self, reasoning: Reasoning) -> str:
        """The Lark expression of the reasoning."""
        inner = self._raw(Raw(reasoning.close, reasoning.without))
        after = ""
        for character in reversed(reasoning.separator):
            after = f"({self._text(character)} {after})?"
        if reasoning.opened:
            return f"{inner} {after}"
        return f"({self._text(reasoning.open)} {inner} {after})?"

    def _text(self, text: str) -> str:
        """The expression of a literal text, with control tokens by id."""
        pieces = self._split.split(text) if self._split else [text]
        found = [
            f"<[{self._controls[piece]}]>" if piece in self._controls else json.dumps(piece, ensure_ascii=False)
            for piece in pieces
            if piece
        ]
        return "(" + (" ".join(found) or '""') + ")"

    def _raw(self, raw: Raw) -> str:
        if raw.end in self._controls:  # no text can spell a control token, so the match need not be lazy
            return f"({self._rule(self._terminal(raw, ''))} {self._text(raw.end)})"
        return self._rule(self._terminal(raw, json.dumps(raw.end, ensure_ascii=False)), options="[lazy]")

    def _terminal(self, raw: Raw, end: str) -> str:
        """Add a terminal for a raw string and `end`; its name."""
        conditions = ["/(?s:.*)/", *(f"/{pattern}/" for pattern in raw.patterns)]
        for word in raw.without:
            if word not in self._controls:
                conditions.append(f"~(/(?s:.*)/ {json.dumps(word, ensure_ascii=False)} /(?s:.*)/)")
        name = f"RAW_{len(self.rules)}"
        self.rules.append(f"{name}: ({' & '.join(conditions)}) {end}")
        return name

    def _rule(self, body: str, *, options: str = "") -> str:
        """Add a rule; its name."""
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}{options}: {body}")
        return name
