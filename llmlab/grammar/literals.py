"""The grammar of a function's arguments that are written as literals, as Gemma 4 and Python's calls do.

    city="Oslo", days=3, on=True              city:<|"|>Oslo<|"|>,days:3,on:true

It is made from the schema that is rewritten for JSON, so everything is enforced as it is there, and recursion is too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from llmlab.grammar.arguments import string_patterns
from llmlab.grammar.parts import Choice, JSONWritten, Literal, Optional, Part, Raw, Regex, Series, Shared, Text, Times
from llmlab.grammar.regular import ExpressionError, language, texts
from llmlab.grammar.schema import rewritten
from llmlab.grammar.vocabulary import GrammarError

__all__ = ["literal_arguments"]

#: Names that need no quotes in any notation.
_PLAIN_NAME = re.compile(r"[^\W\d][\w.-]*")
_NAMES = "^[A-Za-z_][A-Za-z0-9_]*$"


def literal_arguments(
    schema: Any,
    *,
    assign: str,
    between: str,
    colon: str,
    quote: str,
    constants: tuple[str, str, str],
    sort: bool,
) -> Part:
    """The arguments of a function whose parameters have this schema, without the brackets around them.

    Args:
        schema: the JSON schema of the parameters, an object.
        assign: the text between the name of an argument and its value.
        between: the text between two arguments, items or properties.
        colon: the text between the name of a property of an object and its value.
        quote: the text around a string, which then has no escapes; empty for strings as in JSON.
        constants: how true, false and null are written.
        sort: whether arguments and properties come in alphabetical order, and not in the schema's.

    Raises:
        GrammarError: a keyword or a combination that cannot be enforced in this notation.
    """
    made = rewritten(schema).schema
    return _Writer(made["$defs"], between, colon, quote, constants, sort).arguments(made, assign)


class _Entry(NamedTuple):
    """An argument or a property: how it is written, and whether it must be there."""

    part: Part
    required: bool


class _Writer:
    """Writes values of a rewritten schema. What its references point to is written once."""

    def __init__(
        self,
        defs: dict[str, Any],
        between: str,
        colon: str,
        quote: str,
        constants: tuple[str, str, str],
        sort: bool,
    ) -> None:
        self._defs = defs
        self._between, self._colon, self._quote = Text(between), colon, quote
        self._constants = dict(zip((True, False, None), constants, strict=True))
        self._sort = sort
        self._shared: dict[str, Shared] = {}

    def arguments(self, made: dict[str, Any], assign: str) -> Part:
        """All arguments, under the schema of the parameters."""
        return Choice([self._properties(one, assign, quoted=False) for one in self._objects(made)])

    def _objects(self, made: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "$ref" in made:
            yield from self._objects(self._target(made))
        elif "anyOf" in made:
            for option in made["anyOf"]:
                yield from self._objects(option)
        elif made.get("type") == "object":
            yield made
        else:
            raise GrammarError("the parameters of a function cannot be listed values for this model", path="#")

    def _target(self, made: dict[str, Any]) -> Any:
        return self._defs[made["$ref"].rpartition("/")[2]]

    def _value(self, made: Any) -> Part:
        """A value that is valid under a rewritten schema."""
        if "$ref" in made:
            name = made["$ref"]
            if name not in self._shared:
                self._shared[name] = Shared()
                self._shared[name].part = self._value(self._target(made))
            return self._shared[name]
        if "anyOf" in made:
            return Choice([self._value(option) for option in made["anyOf"]])
        if "enum" in made:
            return Choice([self._literal(value) for value in made["enum"]])
        kind = made.get("type")
        if kind == "null":
            return Text(self._constants[None])
        if kind == "boolean":
            return Choice([Text(self._constants[True]), Text(self._constants[False])])
        if kind == "array":
            return Series((Text("["), self._items(made), Text("]")))
        if kind == "object":
            return Series((Text("{"), self._properties(made, self._colon, quoted=not self._quote), Text("}")))
        if kind == "string" and self._quote:
            return Series((Text(self._quote), Raw(self._quote, patterns=tuple(string_patterns(made, "#")))))
        return JSONWritten(made)

    def _literal(self, value: Any) -> Part:
        """One value."""
        if value is None or isinstance(value, bool):
            return Text(self._constants[value])
        if isinstance(value, list):
            return Series((Text("["), *self._joined(self._literal(item) for item in value), Text("]")))
        if isinstance(value, dict):
            names = self._ordered(value)
            entries = (self._entry(name, self._literal(value[name]), self._colon, not self._quote) for name in names)
            return Series((Text("{"), *self._joined(one.part for one in entries), Text("}")))
        if isinstance(value, str) and self._quote:
            if self._quote in value:
                raise GrammarError(f"the value {value!r} holds this model's quotation mark", path="#")
            return Series((Text(self._quote), Literal(value), Text(self._quote)))
        return Literal(json.dumps(value, ensure_ascii=False))

    def _joined(self, parts: Iterator[Part]) -> Iterator[Part]:
        for at, part in enumerate(parts):
            yield from (self._between, part) if at else (part,)

    def _items(self, made: dict[str, Any]) -> Part:
        """The items of an array."""
        first, rest = made.get("prefixItems", []), made.get("items", False)
        least, most = made.get("minItems", 0), made.get("maxItems")
        count = len(first)
        tail: Part = Text("")
        if rest is not False and (most is None or most > count):
            item = self._value(rest)
            low, high = max(least - count, 0), None if most is None else most - count
            if count:
                tail = Times(Series((self._between, item)), low, high)
            else:
                more = Times(Series((self._between, item)), max(low - 1, 0), None if high is None else high - 1)
                tail = Series((item, more)) if low else Optional(Series((item, more)))
        for at in range(count - 1, -1, -1):
            if most is not None and at >= most:
                continue
            item = self._value(first[at])
            whole = Series((*((self._between,) if at else ()), item, tail))
            tail = whole if at < least else Optional(whole)
        return tail

    def _properties(self, made: dict[str, Any], colon: str, *, quoted: bool) -> Part:
        """The arguments of a call or the properties of an object.

        Args:
            made: the rewritten schema of the object.
            colon: the text after a name.
            quoted: whether names stand in quotation marks.
        """
        unenforced = [word for word in ("patternProperties", "minProperties", "maxProperties") if word in made]
        if unenforced:
            raise GrammarError(f"{' and '.join(unenforced)} cannot be enforced for this model's calls", path="#")
        properties, required = made.get("properties", {}), set(made.get("required", ()))
        entries = []
        for name in self._ordered(properties):
            if properties[name] is False:
                continue
            if not quoted and not _PLAIN_NAME.fullmatch(name):
                if name in required:
                    raise GrammarError(f"the name {name!r} cannot be written in this model's calls", path="#")
                continue
            entries.append(self._entry(name, self._value(properties[name]), colon, quoted, required=name in required))
        others = made.get("additionalProperties", False)
        other = None if others is False else self._other(list(properties), self._value(others), colon, quoted)
        return self._entries(entries, other)

    def _ordered(self, names: Any) -> list[str]:
        return sorted(names, key=str.lower) if self._sort else list(names)

    def _entry(self, name: str, value: Part, colon: str, quoted: bool, *, required: bool = True) -> _Entry:
        written = json.dumps(name, ensure_ascii=False) if quoted else name
        return _Entry(Series((Literal(written), Text(colon), value)), required)

    def _other(self, known: list[str], value: Part, colon: str, quoted: bool) -> Part:
        """A property with a name that is none of these."""
        try:
            name = Regex((language(_NAMES) & ~texts(known)).expression())
        except ExpressionError as error:
            raise GrammarError(f"additionalProperties: other names have no expression ({error})", path="#") from None
        mark = Text('"' if quoted else "")
        return Series((mark, name, mark, Text(colon), value))

    def _entries(self, entries: list[_Entry], other: Part | None) -> Part:
        """Entries in this order, with those that are optional or not, and any number of others after them."""
        tails: list[Part] = [Times(Series((self._between, other)), 0, None) if other else Text("")]
        for entry in reversed(entries):  # what may follow once an entry has been written
            one = Series((self._between, entry.part))
            tails.append(Shared(Series((one if entry.required else Optional(one), tails[-1]))))
        tails.reverse()
        options: list[Part] = []
        for at, entry in enumerate(entries):
            options.append(Series((entry.part, tails[at + 1])))
            if entry.required:
                return Choice(options)
        if other:
            options.append(Series((other, tails[-1])))
        return Optional(Choice(options)) if options else Text("")
