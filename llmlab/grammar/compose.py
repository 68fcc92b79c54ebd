"""Grammars put together from parts: texts, JSON, raw strings, choices, with reasoning before them or not.

A part becomes an expression in llguidance's dialect of Lark, and whatever rules it needs beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llmlab.grammar.matcher import Grammar
from llmlab.grammar.places import Document, Site
from llmlab.grammar.schema import enforceable, enforceable_at
from llmlab.grammar.vocabulary import Vocabulary

__all__ = ["JSON", "Choice", "Optional", "Part", "Place", "Raw", "Reasoning", "Repeat", "Series", "Text", "grammar"]


@dataclass(frozen=True)
class Text:
    """A text as it is. A control token's name in it stands for that token."""

    text: str


@dataclass(frozen=True, eq=False)
class JSON:
    """JSON that is valid under a schema, from its first bracket to its last."""

    schema: Any


@dataclass(frozen=True, eq=False)
class Place:
    """JSON for one place of a schema, at which all these schemas hold."""

    document: Document
    sites: list[Site]


@dataclass(frozen=True)
class Raw:
    """Any text up to and with `end`, in which none of `without` stands.

    The whole text before `end` matches each of the `patterns`, which are in Rust's syntax and have no anchors.
    """

    end: str
    without: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Choice:
    """One of these."""

    options: Sequence[Part]


@dataclass(frozen=True, eq=False)
class Optional:
    """This, or nothing."""

    part: Part


@dataclass(frozen=True, eq=False)
class Repeat:
    """One or more, with a text between each two."""

    part: Part
    between: str


@dataclass(frozen=True, eq=False)
class Series:
    """Parts that follow one another."""

    parts: Sequence[Part]


#: A part of a grammar.
Part: TypeAlias = Text | JSON | Place | Raw | Choice | Optional | Repeat | Series


@dataclass(frozen=True)
class Reasoning:
    """What may come before the grammar: free text up to `close`, and as much of `separator` as is written.

    With `opened` it must come and begins at once, otherwise it may come and begins with `open`. None of `without`
    stands in it.
    """

    open: str
    close: str
    separator: str = ""
    opened: bool = False
    without: tuple[str, ...] = ()


def grammar(vocabulary: Vocabulary, part: Part, *, reasoning: Reasoning | None = None) -> Grammar:
    """A grammar for this vocabulary.

    Raises:
        GrammarError: a schema that cannot be enforced, or a grammar that llguidance does not take.
    """
    writer = _Lark(vocabulary)
    body = writer.part(part)
    before = writer.reasoning(reasoning) if reasoning else ""
    # Without this, llguidance would leave no choice of tokens wherever the next bytes are certain.
    options = '%llguidance {"no_forcing": true}'
    return Grammar(vocabulary, "\n".join([options, f"start: {before} {body}", *writer.rules, ""]))


class _Lark:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.rules: list[str] = []
        self._controls = vocabulary.controls
        names = sorted(self._controls, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None

    def part(self, part: Part) -> str:
        """The expression of a part."""
        if isinstance(part, Series):
            return "(" + (" ".join(map(self.part, part.parts)) or '""') + ")"
        if isinstance(part, Text):
            return self._text(part.text)
        if isinstance(part, JSON):
            return self._rule(f"%json {json.dumps(enforceable(part.schema), ensure_ascii=False)}")
        if isinstance(part, Place):
            return self._rule(f"%json {json.dumps(enforceable_at(part.document, part.sites), ensure_ascii=False)}")
        if isinstance(part, Raw):
            return self._raw(part)
        if isinstance(part, Choice):
            return "(" + " | ".join(map(self.part, part.options)) + ")"
        if isinstance(part, Optional):
            return f"({self.part(part.part)})?"
        one = self._rule(self.part(part.part))
        return f"({one} ({self._text(part.between)} {one})*)"

    def reasoning(self, reasoning: Reasoning) -> str:
        """The expression of what may come before."""
        inner = self._raw(Raw(reasoning.close, reasoning.without))
        after = ""
        for character in reversed(reasoning.separator):
            after = f"({self._text(character)} {after})?"
        if reasoning.opened:
            return f"{inner} {after}"
        return f"({self._text(reasoning.open)} {inner} {after})?"

    def _text(self, text: str) -> str:
        pieces = self._split.split(text) if self._split else [text]
        found = [
            f"<[{self._controls[piece]}]>" if piece in self._controls else json.dumps(piece, ensure_ascii=False)
            for piece in pieces
            if piece
        ]
        return "(" + (" ".join(found) or '""') + ")"

    def _raw(self, raw: Raw) -> str:
        if raw.end in self._controls:  # nothing in a text can be taken for it
            return f"({self._rule(self._terminal(raw, ''))} {self._text(raw.end)})"
        return self._rule(self._terminal(raw, json.dumps(raw.end, ensure_ascii=False)), options="[lazy]")

    def _terminal(self, raw: Raw, end: str) -> str:
        conditions = ["/(?s:.*)/", *(f"/{pattern}/" for pattern in raw.patterns)]
        for word in raw.without:
            if word not in self._controls:
                conditions.append(f"~(/(?s:.*)/ {json.dumps(word, ensure_ascii=False)} /(?s:.*)/)")
        name = f"RAW_{len(self.rules)}"
        self.rules.append(f"{name}: ({' & '.join(conditions)}) {end}")
        return name

    def _rule(self, body: str, *, options: str = "") -> str:
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}{options}: {body}")
        return name
