"""The alternatives of a subschema, and those of its negation.

A value is valid under a schema if it is valid under all subschemas of at least one alternative. Keywords that apply
schemas to the same value (`allOf`, `anyOf`, `oneOf`, `not`, `if`, `dependentRequired` and their like) are gone then.

There are two readings. The *narrow* one is for writing: every value of its alternatives is valid, though it may leave
out valid ones, where a negation cannot be written. The *wide* one is for comparing: every valid value has an
alternative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmlab.grammar.evaluate import Evaluation
from llmlab.grammar.keywords import APPLICATORS, ENFORCED, TYPES, check
from llmlab.grammar.regular import ExpressionError, language
from llmlab.grammar.resources import DEEPEST, Resources
from llmlab.grammar.subschema import ABSENT, NEGATED, NOT_VALUES, SOME, UNLIKE, Alternative, Subschema
from llmlab.grammar.values import allowed_types
from llmlab.grammar.vocabulary import GrammarError

#: A schema is refused if more alternatives than this apply to one value.
MOST_ALTERNATIVES = 256
#: A schema is refused if more subschemas than this, counted each time, have to be expanded.
MOST_STEPS = 20_000


class Expansion:
    """Expands the subschemas of one document.

    Args:
        resources: resolves references.
        evaluation: checks listed values.
        excludes: whether no value that is generated for one alternative is valid under another.

    Attributes:
        left_out: (keyword, path) of what could not be negated, for the error if nothing is left.
    """

    def __init__(
        self, resources: Resources, evaluation: Evaluation, excludes: Callable[[Alternative, Alternative], bool]
    ) -> None:
        self._resources, self._evaluation, self._excludes = resources, evaluation, excludes
        self.left_out: list[tuple[str, str]] = []
        self._steps = 0

    def of(
        self, subschema: Subschema, inside: frozenset[str] = frozenset(), *, wide: bool = False
    ) -> list[Alternative]:
        """The alternatives of one subschema.

        Args:
            subschema: the subschema.
            inside: the references and combinations that led to it.
            wide: which reading is asked for.

        Raises:
            GrammarError: a keyword that cannot be enforced, too many alternatives, or references in a circle.
        """
        schema, path = subschema
        if isinstance(schema, bool):
            return [[]] if schema else []
        self._enter(subschema, inside)
        schema = self._resources.read(schema, all_drafts=not wide)
        if wide and "$ref" in schema and self._resources.draft <= 7:
            schema = {"$ref": schema["$ref"]}
        if "enum" in schema or "const" in schema:
            return self._listed(schema, subschema, sure=not wide)
        plain = {word: value for word, value in schema.items() if word not in APPLICATORS and _is_plain(word)}
        found: list[Alternative] = [[Subschema(plain, path)]] if plain else [[]]
        if "$ref" in schema:
            target = self._resources.follow(schema["$ref"], path)
            found = product(found, self.of(target, self._entered(target, inside, path), wide=wide), path)
        deeper = inside | {f"{path}!"}
        for i in range(len(schema.get("allOf", ()))):
            found = product(found, self.of(subschema.child("allOf", i), deeper, wide=wide), path)
        if "anyOf" in schema:
            branches = [self.of(subschema.child("anyOf", i), deeper, wide=wide) for i in range(len(schema["anyOf"]))]
            found = product(found, [way for branch in branches for way in branch], path)
        found = self._conditions(found, schema, subschema, deeper, wide=wide)
        if "oneOf" in schema:
            found = self._one_of(found, subschema, deeper, wide=wide)
        return found if wide else [one + _evaluated(one, subschema) for one in found]

    def _conditions(
        self, found: list[Alternative], schema: dict[str, Any], here: Subschema, inside: frozenset[str], *, wide: bool
    ) -> list[Alternative]:
        """These alternatives under `not`, `if` and dependencies; the wide reading passes over some of these."""
        path = here.path
        if "not" in schema and not wide:
            found = product(found, self.negated(here.child("not"), inside), path)
        if "if" in schema:
            ways = self.of(here.child("if"), inside, wide=wide)
            met = product(ways, self._child("then", here, inside, wide=wide), path)
            other = [[]] if wide else self.negated(here.child("if"), inside)
            found = product(found, met + product(other, self._child("else", here, inside, wide=wide), path), path)
        if wide:
            return found
        for word in ("dependencies", "dependentRequired", "dependentSchemas"):
            for name, needed in schema.get(word, {}).items():
                found = product(found, self._dependent(name, needed, here.child(word, name), inside), path)
        return found

    def _dependent(self, name: str, needed: Any, here: Subschema, inside: frozenset[str]) -> list[Alternative]:
        """The alternatives of "if the property is there, then so are these names", or "then this schema holds"."""
        names = list(needed) if isinstance(needed, list | tuple) else []
        there: list[Alternative] = [[Subschema({"required": [name, *names]}, here.path)]]
        if not isinstance(needed, list | tuple):
            there = product(there, self.of(here, inside), here.path)
        # Neither says anything about a value that is no object.
        return [[Subschema({ABSENT: [name]}, here.path)], *there]

    def _child(self, word: str, here: Subschema, inside: frozenset[str], *, wide: bool) -> list[Alternative]:
        return self.of(here.child(word), inside, wide=wide) if word in here.schema else [[]]

    def _one_of(
        self, found: list[Alternative], here: Subschema, inside: frozenset[str], *, wide: bool
    ) -> list[Alternative]:
        """These alternatives under a `oneOf`: each branch, without the values that another branch allows too."""
        path, count = here.path, len(here.schema["oneOf"])
        branches = [self.of(here.child("oneOf", i), inside, wide=wide) for i in range(count)]
        if wide:
            return product(found, [way for branch in branches for way in branch], path)
        others = [self.of(here.child("oneOf", i), inside, wide=True) for i in range(count)]
        made: list[Alternative] = []
        for i, branch in enumerate(branches):
            ways = product(found, branch, path)
            for j in range(count):
                apart = [i == j or all(self._excludes(way, other) for other in others[j]) for way in ways]
                if not all(apart):
                    overlapping = [way for way, alone in zip(ways, apart, strict=True) if not alone]
                    without = product(overlapping, self._without(here, i, j, inside), path)
                    ways = [way for way, alone in zip(ways, apart, strict=True) if alone] + without
            made += ways
            _require_few(len(made), path)
        return made

    def _without(self, here: Subschema, i: int, j: int, inside: frozenset[str]) -> list[Alternative]:
        """The negation of branch j of a `oneOf`, for branch i.

        Raises:
            GrammarError: it cannot be written, or only in part.
        """
        before = len(self.left_out)
        found = self.negated(here.child("oneOf", j), inside)
        if not found and len(self.left_out) > before:
            word, where = self.left_out[-1]
            raise GrammarError(
                f"oneOf: what fits branch {i} may fit branch {j} too, and the keyword {word!r} at {where} cannot be "
                "negated; write anyOf, or tell the branches apart by a required property's const",
                path=here.path,
            )
        return found

    def negated(self, subschema: Subschema, inside: frozenset[str]) -> list[Alternative]:
        """The alternatives of the values that are not valid under a subschema, in the narrow reading."""
        schema, path = subschema
        if isinstance(schema, bool):
            return [] if schema else [[]]
        self._enter(subschema, inside)
        inside |= {f"{path}{NEGATED}"}
        found: list[Alternative] = []
        # Other validators pass over a keyword that the schema's draft lacks, so no value fails it.
        words = [word for word in self._resources.read(schema, all_drafts=False) if word in ENFORCED]
        if "$ref" in words and self._resources.draft <= 7:
            words = ["$ref"]
        for word in words:
            made = self._negated_keyword(word, subschema, inside)
            if made is None:
                self.left_out.append((word, path))
            found += made or []
            _require_few(len(found), path)
        return found

    def _negated_keyword(self, word: str, here: Subschema, inside: frozenset[str]) -> list[Alternative] | None:
        """The alternatives of the values that one keyword refuses; None if they cannot be written."""
        schema, path = here
        value = schema[word]
        if word == "$ref":
            target = self._resources.follow(value, path)
            return self.negated(target, self._entered(target, inside, f"{path}{NEGATED}"))
        if word == "allOf":
            return [way for i in range(len(value)) for way in self.negated(here.child(word, i), inside)]
        if word in ("anyOf", "oneOf"):
            found: list[Alternative] = [[]]
            for i in range(len(value)):
                found = product(found, self.negated(here.child(word, i), inside), path)
            return found
        if word == "not":
            return _marked(self.of(here.child(word), inside))
        if word == "if":
            met, unmet = _marked(self.of(here.child(word), inside)), self.negated(here.child(word), inside)
            then, other = (
                self.negated(here.child(each), inside) if each in schema else [] for each in ("then", "else")
            )
            return product(met, then, path) + product(unmet, other, path)
        if word in ("then", "else"):
            return []
        if word in ("dependentRequired", "dependencies"):
            return [
                [Subschema({"type": "object", "required": [name], ABSENT: [other]}, f"{path}{NEGATED}")]
                for name, needed in value.items()
                if isinstance(needed, list | tuple)
                for other in needed
            ]
        plain = negated_plain(word, schema)
        if word == "type" and "integer" in (value if isinstance(value, list) else [value]):
            self.left_out.append((word, path))  # numbers with a fraction, which are not written apart from integers
        return None if plain is None else [[Subschema(one, f"{path}{NEGATED}")] for one in plain]

    def _listed(self, schema: dict[str, Any], subschema: Subschema, *, sure: bool) -> list[Alternative]:
        """The one alternative of a subschema with `enum` or `const`: the listed values that its keywords allow."""
        values = [schema["const"]] if "const" in schema else list(schema["enum"])
        left = [value for value in values if self._evaluation.holds(value, subschema, sure=sure)]
        return [[Subschema({"enum": left}, subschema.path)]] if left else []

    def _enter(self, subschema: Subschema, inside: frozenset[str]) -> None:
        """Check one subschema, and that it does not take too long to expand them all."""
        check(subschema.schema, subschema.path)
        self._steps += 1
        if len(inside) > DEEPEST:
            raise GrammarError(f"the schema is nested more than {DEEPEST} levels deep", path=subschema.path)
        if self._steps > MOST_STEPS:
            raise GrammarError("the combinations of its subschemas take too long to work out", path=subschema.path)

    def _entered(self, target: Subschema, inside: frozenset[str], path: str) -> frozenset[str]:
        """`inside` with a reference's target added."""
        name = target.path + (NEGATED if path.endswith(NEGATED) else "")
        if name in inside:
            raise GrammarError("$ref leads in a circle", path=path)
        return inside | {name}


def _marked(ways: list[Alternative]) -> list[Alternative]:
    """The alternatives with paths of negated subschemas: what they name does not count as evaluated."""
    return [[Subschema(one.schema, f"{one.path}{NEGATED}") for one in way] for way in ways]


def negated_plain(word: str, schema: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Plain schemas, one of which holds for every value that a plain keyword refuses; None if there are none."""
    value = schema[word]
    if word == "type":
        named = {value} if isinstance(value, str) else set(value)
        left = [kind for kind in TYPES if kind not in named and not (kind in _NUMBERS and named & _NUMBERS)]
        return [{"type": left}] if left else []
    if word in ("enum", "const"):
        return [{NOT_VALUES: list(value) if word == "enum" else [value]}]
    if word == "required":
        return [{"type": "object", ABSENT: [name]} for name in value]
    if word in ("properties", SOME):
        return [
            {"type": "object", "required": [name], SOME: {name: {"not": item}}}
            for name, item in value.items()
            if item not in (True, {})
        ]
    if word in _BOUNDS:
        return _negated_bound(word, schema)
    if word in _COUNTS:
        kind, opposite, step = _COUNTS[word]
        return [{"type": kind, opposite: int(value) + step}] if int(value) + step >= 0 else []
    if word == "pattern":
        try:
            language(value, wide=True)
        except ExpressionError:
            return None
        return [{"type": "string", UNLIKE: [value]}]
    if word == "contains" and schema.get("minContains", 1) == 1 and "maxContains" not in schema:
        return [{"type": "array", "items": {"not": value}}]
    if word in ("items", "additionalProperties", "propertyNames") and value in (True, {}):
        return []
    return None


_NUMBERS = {"integer", "number"}
_BOUNDS = {
    "minimum": ("exclusiveMinimum", "exclusiveMaximum", "maximum"),
    "maximum": ("exclusiveMaximum", "exclusiveMinimum", "minimum"),
    "exclusiveMinimum": ("", "maximum", "maximum"),
    "exclusiveMaximum": ("", "minimum", "minimum"),
}
_COUNTS = {
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}


def _negated_bound(word: str, schema: dict[str, Any]) -> list[dict[str, Any]]:
    value = schema[word]
    strict, opposite, inclusive = _BOUNDS[word]
    if isinstance(value, bool):  # draft 4: it belongs to `minimum` or `maximum`
        return []
    return [{"type": "number", inclusive if schema.get(strict) is True else opposite: value}]


def product(some: list[Alternative], others: list[Alternative], path: str) -> list[Alternative]:
    """Every alternative of the first list joined with every one of the second, without those that allow no value."""
    if len(some) * len(others) > 16 * MOST_ALTERNATIVES:
        _require_few(len(some) * len(others), path)
    found = [one + other for one in some for other in others if not one or not other or _is_possible(one + other)]
    _require_few(len(found), path)
    return found


def _require_few(count: int, path: str) -> None:
    if count > MOST_ALTERNATIVES:
        raise GrammarError(
            f"more than {MOST_ALTERNATIVES} combinations of anyOf, oneOf, not, if and dependencies apply to one value",
            path=path,
        )


def _is_possible(alternative: Alternative) -> bool:
    """Whether the types and the names of properties leave a value; False only if they leave none."""
    if not allowed_types(alternative):
        return False
    if allowed_types(alternative) != {"object"}:
        return True
    absent = {name for one in alternative for name in one.schema.get(ABSENT, ())}
    return not absent & {name for one in alternative for name in one.schema.get("required", ())}


def _is_plain(word: str) -> bool:
    return word in ENFORCED or word in (ABSENT, SOME, NOT_VALUES, UNLIKE)


def _evaluated(alternative: Alternative, here: Subschema) -> Alternative:
    """What `unevaluatedProperties` and `unevaluatedItems` of a subschema add to one of its alternatives."""
    schema, plain = here.schema, [one.schema for one in alternative if not one.path.endswith(NEGATED)]
    added: dict[str, Any] = {}
    if "unevaluatedProperties" in schema and not any("additionalProperties" in one for one in plain):
        added["properties"] = {name: True for one in plain for name in one.get("properties", ())}
        added["patternProperties"] = {name: True for one in plain for name in one.get("patternProperties", ())}
        added["additionalProperties"] = schema["unevaluatedProperties"]
    if "unevaluatedItems" in schema and not any(isinstance(one.get("items"), bool | dict) for one in plain):
        longest = max((len(one.get("prefixItems", one.get("items", ()))) for one in plain), default=0)
        if not any("additionalItems" in one for one in plain):
            added |= {"prefixItems": [True] * longest, "items": schema["unevaluatedItems"]}
    return [Subschema(added, f"{here.path}/unevaluated")] if added else []
