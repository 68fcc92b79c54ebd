"""Composes grammars from parts (see `llmlab.grammar.parts`), with optional reasoning before them.

Each part becomes an expression in llguidance's dialect of Lark, plus the rules that the expression refers to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from llmlab.grammar.matcher import Grammar
from llmlab.grammar.parts import (
    JSON,
    Choice,
    JSONAt,
    JSONWritten,
    Lark,
    Literal,
    Optional,
    Part,
    Raw,
    Reasoning,
    Regex,
    Repeat,
    Series,
    Shared,
    Text,
    Times,
)
from llmlab.grammar.schema import OPTIONS, Rewritten, rewritten, rewritten_at
from llmlab.grammar.vocabulary import GrammarError, Vocabulary

__all__ = ["JSON", "Choice", "JSONAt", "Optional", "Part", "Raw", "Reasoning", "Repeat", "Series", "Text", "grammar"]

#: Without this option, llguidance would force one tokenization wherever the next bytes are certain.
_OPTIONS = '%llguidance {"no_forcing": true}'


def grammar(vocabulary: Vocabulary, part: Part, *, reasoning: Reasoning | None = None) -> Grammar:
    """Compile a part, with optional reasoning before it, to a grammar over this vocabulary.

    Raises:
        GrammarError: a schema that cannot be enforced, or a grammar that llguidance does not accept or cannot follow.
    """
    writer = _LarkWriter(vocabulary)
    body = writer.part(part)
    before = writer.reasoning(reasoning) if reasoning else ""
    for path, expression, others in writer.trials:
        _try_alone(vocabulary, path, expression, others)
    source = "\n".join([_OPTIONS, f"start: {before} {body}", *writer.rules, ""])
    return Grammar(vocabulary, source, others=writer.others)


def _try_alone(vocabulary: Vocabulary, path: str, expression: str, others: dict[str, str]) -> None:
    """Raise GrammarError if llguidance cannot follow an expression, which the whole grammar may reach late."""
    try:
        vocabulary.require_usable(f"{_OPTIONS}\nstart: {expression}\n", others)
    except GrammarError as error:
        raise GrammarError(f"{_named(expression)}{error.message}", path=path) from None


def _named(expression: str) -> str:
    """The keywords of a string's schema, for an error; nothing for another expression."""
    schema = json.loads(expression.removeprefix("%json ")) if expression.startswith("%json ") else {}
    words = [word for word in schema if word not in ("type", "allOf")] if schema.get("type") == "string" else []
    return f"{' and '.join(words)} together cannot be enforced; make one simpler or leave it out: " if words else ""


class _LarkWriter:
    """Writes parts as Lark expressions and collects the rules that they refer to.

    Attributes:
        rules: the rules and terminals that the expressions name.
        others: whole grammars that the expressions name, by name.
        trials: (path in the schema, expression, grammars that it names) for everything that may prove too large for
            llguidance once a text has reached it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.rules: list[str] = []
        self.others: dict[str, str] = {}
        self.trials: list[tuple[str, str, dict[str, str]]] = []
        self._names: dict[int, str] = {}
        self._controls = vocabulary.controls
        names = sorted(self._controls, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None

    def part(self, part: Part) -> str:
        """The Lark expression of a part."""
        if isinstance(part, Series):
            return "(" + (" ".join(map(self.part, part.parts)) or '""') + ")"
        if isinstance(part, Text):
            return self._text(part.text)
        if isinstance(part, Literal):
            return json.dumps(part.text, ensure_ascii=False)
        if isinstance(part, JSON):
            try:
                return self._json(rewritten(part.schema), part.path)
            except GrammarError as error:
                raise GrammarError(error.message, path=part.path + error.path) from None
        if isinstance(part, JSONAt):
            return self._json(rewritten_at(part.document, part.subschemas), "")
        if isinstance(part, JSONWritten):
            return self._json(Rewritten({"x-guidance": OPTIONS, **part.schema}, []), "")
        if isinstance(part, Regex):
            self.trials.append((part.path, f"/{part.pattern}/", {}))
            return self._rule(f"/{part.pattern}/")
        if isinstance(part, Lark):
            return self._lark(part)
        if isinstance(part, Raw):
            return self._raw(part)
        if isinstance(part, Choice):
            return self._choice(part)
        if isinstance(part, Optional):
            return f"({self.part(part.part)})?"
        if isinstance(part, Shared):
            return self._shared(part)
        if isinstance(part, Times):
            return self._times(part)
        one = self._rule(self.part(part.part))
        return f"({one} ({self._text(part.between)} {one})*)"

    def reasoning(self, reasoning: Reasoning) -> str:
        """The Lark expression of the reasoning."""
        inner = self._raw(Raw(reasoning.close, reasoning.without))
        inner = f"{inner} {self._text(reasoning.then)}" if reasoning.then else inner
        after = ""
        for character in reversed(reasoning.separator):
            after = f"({self._text(character)} {after})?"
        if reasoning.opened:
            return f"{inner} {after}"
        return f"({self._text(reasoning.open)} {inner} {after})?"

    def _json(self, found: Rewritten, before: str) -> str:
        whole = f"%json {json.dumps(found.schema, ensure_ascii=False)}"
        self.trials += [(before + path, f"%json {written}", {}) for path, written in _strings(found)]
        self.trials.append((f"{before}#", whole, {}))
        return self._rule(whole)

    def _lark(self, part: Lark) -> str:
        name = f"other_{len(self.others)}"
        self.others[name] = part.source
        self.trials.append((part.path, f"@{name}", {name: part.source}))
        return self._rule(f"@{name}")

    def _choice(self, part: Choice) -> str:
        """A choice; literal texts become one terminal, which is much faster than a rule for each."""
        if len(part.options) > 1 and all(isinstance(option, Literal) for option in part.options):
            name = f"CHOICE_{len(self.rules)}"
            self.rules.append(f"{name}: {' | '.join(map(self.part, part.options))}")
            return name
        return "(" + " | ".join(map(self.part, part.options)) + ")"

    def _shared(self, part: Shared) -> str:
        """The name of a part's rule, which is written when the part is met first."""
        name = self._names.get(id(part))
        if name is None:
            assert part.part is not None
            name = self._names[id(part)] = f"shared_{len(self._names)}"
            self.rules.append(f"{name}: {self.part(part.part)}")
        return name

    def _times(self, part: Times) -> str:
        if part.most == 0:
            return '""'
        one = self._rule(self.part(part.part))
        return f"{one}{{{part.least},{'' if part.most is None else part.most}}}"

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
        body = f"({' & '.join(conditions)}) {end}"
        self.rules.append(f"{name}: {body}")
        if raw.patterns:
            self.trials.append(("", f"TRIED\nTRIED: {body}", {}))
        return name

    def _rule(self, body: str, *, options: str = "") -> str:
        """Add a rule; its name."""
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}{options}: {body}")
        return name


def _strings(found: Rewritten) -> Iterator[tuple[str, str]]:
    """The strings of a schema that have a regular expression, each once, as (path, JSON)."""
    seen = set()
    for path, schema in found.strings:
        written = json.dumps(schema, ensure_ascii=False)
        if written not in seen:
            seen.add(written)
            yield path, written
