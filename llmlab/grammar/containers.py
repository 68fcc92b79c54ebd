"""Objects and arrays: what several subschemas say together about each property and each item."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from llmlab.grammar.patterns import matches
from llmlab.grammar.subschema import ABSENT, SOME, Alternative, Subschema
from llmlab.grammar.vocabulary import GrammarError


class Properties(NamedTuple):
    """The properties of an object.

    Attributes:
        named: by name, the subschemas that apply to that property.
        patterns: by regular expression (`patternProperties`), the subschemas of the properties that match it and no
            other. Named properties may match too.
        additional: the subschemas of every other property; None if there are no others.
        required: the names that must be there, in the order of the schema.
    """

    named: dict[str, list[Subschema]]
    patterns: dict[str, list[Subschema]]
    additional: list[Subschema] | None
    required: list[str]


class Items(NamedTuple):
    """The items of an array.

    Attributes:
        first: for each of the first items (`prefixItems`), the subschemas that apply to it.
        additional: the subschemas of every item that follows; None if none follow.
        least: the smallest number of items (`minItems`).
        most: the largest number of items (`maxItems`); None if there is no limit.
    """

    first: list[list[Subschema]]
    additional: list[Subschema] | None
    least: int
    most: int | None


def merged_properties(alternative: Alternative) -> Properties:
    """The properties of an object to which all these plain subschemas apply.

    An object whose schema names properties and does not mention others gets no others. Everything that is valid under
    this narrower reading is valid under the schema, and it keeps a model from inventing names without end.
    """
    plain = [subschema.schema for subschema in alternative]
    required = list(dict.fromkeys(name for schema in plain for name in schema.get("required", ())))
    names = dict.fromkeys(name for schema in plain for name in schema.get("properties", ()))
    patterns = dict.fromkeys(pattern for schema in plain for pattern in schema.get("patternProperties", ()))
    absent = dict.fromkeys(name for schema in plain for name in schema.get(ABSENT, ()))
    named = {
        name: [found for one in alternative for found in _for_name(one, name)] for name in [*names, *required, *absent]
    }
    matching = {
        pattern: [found for one in alternative for found in for_patterns(one, [pattern])] for pattern in patterns
    }
    lists_names = any("properties" in schema or "patternProperties" in schema for schema in plain)
    rest = [one.child("additionalProperties") for one in alternative if "additionalProperties" in one.schema]
    closed = (lists_names and not rest) or any(one.schema is False for one in rest)
    return Properties(named, matching, None if closed else rest, required)


def _for_name(subschema: Subschema, name: str) -> list[Subschema]:
    """What one subschema says about the property of this name."""
    found = [subschema.child("properties", name)] if name in subschema.schema.get("properties", ()) else []
    found += [
        subschema.child("patternProperties", pattern)
        for pattern in subschema.schema.get("patternProperties", ())
        if _matches(pattern, name, subschema.path)
    ]
    if not found and "additionalProperties" in subschema.schema:
        found.append(subschema.child("additionalProperties"))
    if name in subschema.schema.get(SOME, ()):
        found.append(subschema.child(SOME, name))
    if name in subschema.schema.get(ABSENT, ()):
        found.append(Subschema(False, f"{subschema.path}/{ABSENT}"))
    return found


def for_patterns(subschema: Subschema, patterns: Iterable[str]) -> list[Subschema]:
    """What one subschema says about the properties whose names match these patterns and no others."""
    own = [pattern for pattern in patterns if pattern in subschema.schema.get("patternProperties", ())]
    if own or "additionalProperties" not in subschema.schema:
        return [subschema.child("patternProperties", pattern) for pattern in own]
    return [subschema.child("additionalProperties")]


def _matches(pattern: str, name: str, path: str) -> bool:
    try:
        return matches(pattern, name)
    except ValueError as error:
        raise GrammarError(
            f"patternProperties: {pattern!r} is not a valid regular expression ({error})", path=path
        ) from None


def merged_items(alternative: Alternative) -> Items:
    """The items of an array to which all these plain subschemas apply.

    If the first items have subschemas of their own and the schema does not mention further items, there are none, for
    the reason given in `merged_properties`.
    """
    firsts, tails = [], []
    for subschema in alternative:
        # Before draft 2020-12, `items` held the list of subschemas, and `additionalItems` said what follows them.
        old = isinstance(subschema.schema.get("items"), list | tuple)
        keyword, tail = ("items", "additionalItems") if old else ("prefixItems", "items")
        firsts.append([subschema.child(keyword, i) for i in range(len(subschema.schema.get(keyword, ())))])
        tails.append(subschema.child(tail) if tail in subschema.schema else None)
    longest = max(map(len, firsts), default=0)
    first = [
        [own[i] if i < len(own) else tail for own, tail in zip(firsts, tails, strict=True) if i < len(own) or tail]
        for i in range(longest)
    ]
    least, most = _count_limits(alternative, "minItems", "maxItems")
    rest = [tail for tail in tails if tail is not None]
    closed = any(tail.schema is False for tail in rest) or (longest > 0 and not rest and least <= longest)
    return Items([[one for one in item if one is not None] for item in first], None if closed else rest, least, most)


def property_counts(alternative: Alternative) -> tuple[int, int | None]:
    """The strictest minProperties (0 if there is none) and maxProperties (None if there is none)."""
    return _count_limits(alternative, "minProperties", "maxProperties")


def _count_limits(alternative: Alternative, lower: str, upper: str) -> tuple[int, int | None]:
    plain = [subschema.schema for subschema in alternative]
    least = max((int(schema[lower]) for schema in plain if lower in schema), default=0)
    most = min((int(schema[upper]) for schema in plain if upper in schema), default=None)
    return least, most


def count_keywords(properties: Properties, least: int, most: int | None, path: str) -> dict[str, Any]:
    """The minProperties and maxProperties that llguidance must still enforce; those that are met anyway are left out.

    Raises:
        GrammarError: a count that llguidance cannot enforce. It counts names without checking whether one is repeated.
    """
    possible = [name for name, value in properties.named.items() if all(one.schema is not False for one in value)]
    optional = len(possible) - len(properties.required)
    open_ended = properties.additional is not None or bool(properties.patterns)
    kept: dict[str, Any] = {}
    if least > len(properties.required):
        kept["minProperties"] = least
    if most is not None and (open_ended or most < len(possible)):
        kept["maxProperties"] = most
    if not kept:
        return kept
    wanted = least - len(properties.required)
    single = wanted <= 1 and most in (None, len(properties.required) + 1)
    if wanted > 1 and open_ended:
        raise GrammarError("minProperties above 1 cannot be enforced: one name may come twice", path=path)
    if optional and (open_ended or not single):
        raise GrammarError(
            f"{' and '.join(kept)} cannot be enforced where some of the named properties are optional", path=path
        )
    return kept
