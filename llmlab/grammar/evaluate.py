"""Decides whether a given JSON value is valid under a schema, for listed values and for the names of properties.

The answer has two readings, because regular expressions and formats mean different things to different validators:
`sure=True` asks whether every validator accepts the value, `sure=False` whether at least one may.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmlab.grammar.keywords import TYPES, check
from llmlab.grammar.patterns import admits_text, matches
from llmlab.grammar.regular import ExpressionError, language
from llmlab.grammar.resources import DEEPEST, Resources
from llmlab.grammar.scalars import (
    FORMAT_PATTERNS,
    KNOWN_FORMATS,
    NARROWER_FORMATS,
    WIDE_FORMATS,
    exact,
    refuse_format,
    tightest_bounds,
)
from llmlab.grammar.subschema import ABSENT, NOT_VALUES, SOME, UNLIKE, Subschema
from llmlab.grammar.values import equality_key, types_of
from llmlab.grammar.vocabulary import GrammarError


class Evaluation:
    """Decides whether values are valid under the subschemas of one document."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        #: The values of each `enum` as texts, by the identity of the list, which is held so that it stays its own.
        self._listed: dict[int, tuple[Any, frozenset[str]]] = {}

    def lists(self, values: Any, key: str) -> bool:
        """Whether a list of values has one with this equality key."""
        if id(values) not in self._listed:
            self._listed[id(values)] = values, frozenset(map(equality_key, values))
        return key in self._listed[id(values)][1]

    def holds(self, value: Any, subschema: Subschema, *, sure: bool, depth: int = 0) -> bool:
        """Whether a value is valid under a subschema.

        Args:
            value: a JSON value.
            subschema: the subschema; it may have the keywords that this package adds.
            sure: whether every validator must accept the value, or one may be enough.
            depth: how many subschemas led to this one.

        Raises:
            GrammarError: a keyword with a value of the wrong type, or a `$ref` that cannot be followed.
        """
        schema, path = subschema
        if isinstance(schema, bool):
            return schema
        if depth > 4 * DEEPEST:
            raise GrammarError("$ref leads in a circle", path=path)
        check(schema, path)
        if "$ref" in schema:
            if not self.holds(value, self._resources.follow(schema["$ref"], path), sure=sure, depth=depth + 1):
                return False
            if self._resources.draft <= 7 and not sure:
                return True  # up to draft 7, what stands beside it is passed over
        one = _One(self, value, subschema, self._resources.read(schema, all_drafts=sure), sure, depth + 1)
        return all(one.parts())


class _One:
    """One value under one subschema."""

    def __init__(
        self,
        evaluation: Evaluation,
        value: Any,
        subschema: Subschema,
        schema: dict[str, Any],
        sure: bool,
        depth: int,
    ) -> None:
        self.evaluation, self.value, self.subschema, self.schema = evaluation, value, subschema, schema
        self.sure, self.depth = sure, depth

    def parts(self) -> Iterator[bool]:
        """Whether the value satisfies each group of keywords."""
        yield self._values()
        yield all(self._holds("allOf", i) for i in range(len(self.schema.get("allOf", ()))))
        for word, enough in (("anyOf", 1), ("oneOf", 1)):
            if word in self.schema:
                yield sum(self._holds(word, i) for i in range(len(self.schema[word]))) >= enough
        if "oneOf" in self.schema:
            other_reading = [not self._holds("oneOf", i, sure=not self.sure) for i in range(len(self.schema["oneOf"]))]
            yield other_reading.count(False) <= 1
        if "not" in self.schema:
            yield not self._holds("not", sure=not self.sure)
        if "if" in self.schema:
            # The condition is sure to hold, sure to fail, or neither; then both branches count.
            yields = self._holds("if", sure=True), self._holds("if", sure=False)
            then = self._holds("then") if "then" in self.schema else True
            other = self._holds("else") if "else" in self.schema else True
            yield then if yields[0] else other if not yields[1] else (then and other if self.sure else then or other)
        if isinstance(self.value, str):
            yield from self._string(self.value)
        elif isinstance(self.value, list | tuple):
            yield from self._array(list(self.value))
        elif isinstance(self.value, dict):
            yield from self._object(self.value)
        elif isinstance(self.value, int | float) and not isinstance(self.value, bool):
            yield from self._number(self.value)

    def _holds(self, *keys: str | int, value: Any = ..., sure: bool | None = None) -> bool:
        return self.evaluation.holds(
            self.value if value is ... else value,
            self.subschema.child(*keys),
            sure=self.sure if sure is None else sure,
            depth=self.depth,
        )

    def _values(self) -> bool:
        key = equality_key(self.value)
        kinds = self.schema.get("type", TYPES)
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        return (
            bool(types_of(self.value) & kinds)
            and ("const" not in self.schema or equality_key(self.schema["const"]) == key)
            and ("enum" not in self.schema or self.evaluation.lists(self.schema["enum"], key))
            and key not in map(equality_key, self.schema.get(NOT_VALUES, ()))
        )

    def _number(self, value: float) -> Iterator[bool]:
        low, above, high, below = tightest_bounds([self.schema])
        yield low is None or value > low or (value == low and not above)
        yield high is None or value < high or (value == high and not below)
        if "multipleOf" in self.schema:
            yield (exact(value) / exact(self.schema["multipleOf"])).denominator == 1

    def _string(self, value: str) -> Iterator[bool]:
        yield self.schema.get("minLength", 0) <= len(value) <= self.schema.get("maxLength", len(value))
        if "pattern" in self.schema:
            yield self._matches(self.schema["pattern"], value, sure=self.sure)
        for pattern in self.schema.get(UNLIKE, ()):
            yield value in ~language(pattern, wide=True) if self.sure else True
        if "format" in self.schema:
            yield self._has_format(self.schema["format"], value)

    def _matches(self, pattern: str, text: str, *, sure: bool) -> bool:
        """Whether a pattern matches somewhere in a text, for every validator (`sure`) or for at least one."""
        try:
            return text in language(pattern, wide=not sure)
        except ExpressionError:
            if not sure:
                return True
        try:
            return matches(pattern, text)
        except ValueError as error:
            raise GrammarError(
                f"{pattern!r} is not a regular expression that can be enforced ({error})", path=self.subschema.path
            ) from None

    def _has_format(self, name: str, value: str) -> bool:
        refuse_format(name, self.subschema.path)
        if not self.sure:
            return name not in WIDE_FORMATS or value in language(WIDE_FORMATS[name], wide=True)
        if name in FORMAT_PATTERNS:
            return value in language(f"^(?:{FORMAT_PATTERNS[name]})$")
        name = NARROWER_FORMATS.get(name, name)
        return name not in KNOWN_FORMATS or admits_text({"type": "string", "format": name}, value)

    def _array(self, value: list[Any]) -> Iterator[bool]:
        yield self.schema.get("minItems", 0) <= len(value) <= self.schema.get("maxItems", len(value))
        if self.schema.get("uniqueItems") is True:
            yield len(set(map(equality_key, value))) == len(value)
        first = "items" if isinstance(self.schema.get("items"), list | tuple) else "prefixItems"
        tail = "additionalItems" if first == "items" else "items"
        count = len(self.schema.get(first, ()))
        for i, item in enumerate(value):
            if i < count:
                yield self._holds(first, i, value=item)
            elif tail in self.schema:
                yield self._holds(tail, value=item)
        if "contains" in self.schema:
            least, most = self.schema.get("minContains", 1), self.schema.get("maxContains", len(value))
            yield sum(self._holds("contains", value=item) for item in value) >= least
            yield sum(self._holds("contains", value=item, sure=not self.sure) for item in value) <= most
        if "unevaluatedItems" in self.schema:
            yield not self.sure or not value

    def _object(self, value: dict[str, Any]) -> Iterator[bool]:
        schema = self.schema
        yield schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value))
        yield all(name in value for name in schema.get("required", ()))
        yield not any(name in value for name in schema.get(ABSENT, ()))
        for name, needed in {**schema.get("dependencies", {}), **schema.get("dependentRequired", {})}.items():
            if name in value and isinstance(needed, list | tuple):
                yield all(each in value for each in needed)
        for word in ("dependencies", "dependentSchemas"):
            for name, needed in schema.get(word, {}).items():
                if name in value and not isinstance(needed, list | tuple):
                    yield self._holds(word, name)
        for name, item in value.items():
            if "propertyNames" in schema:
                yield self._holds("propertyNames", value=name)
            yield from self._property(name, item)
        if "unevaluatedProperties" in schema:
            yield not self.sure or not value

    def _property(self, name: str, item: Any) -> Iterator[bool]:
        schema, patterns = self.schema, self.schema.get("patternProperties", ())
        if name in schema.get(SOME, ()):
            yield self._holds(SOME, name, value=item)
        if name in schema.get("properties", ()):
            yield self._holds("properties", name, value=item)
        # Whether a name matches may depend on the reading; then both what applies if it does and what applies if not.
        applying = [pattern for pattern in patterns if self._matches(pattern, name, sure=not self.sure)]
        yield all(self._holds("patternProperties", pattern, value=item) for pattern in applying)
        known = name in schema.get("properties", ()) or any(
            self._matches(pattern, name, sure=self.sure) for pattern in patterns
        )
        if not known and "additionalProperties" in schema:
            yield self._holds("additionalProperties", value=item)
