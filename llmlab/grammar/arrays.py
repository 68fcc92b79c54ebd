"""The items of an array as llguidance needs them: `contains` at the start of the array, distinct items listed."""

from __future__ import annotations

from itertools import combinations, permutations
from math import comb, perm
from typing import Any

from llmlab.grammar.containers import Items, merged_items
from llmlab.grammar.document import Document
from llmlab.grammar.scalars import tightest_bounds
from llmlab.grammar.subschema import NEGATED, Alternative, Subschema
from llmlab.grammar.values import allowed_types, allowed_values, equality_key
from llmlab.grammar.vocabulary import GrammarError

#: The most arrays that are listed for `uniqueItems`, and the most different items among which they choose.
MOST_ARRAYS, MOST_ITEMS = 1200, 64


def array_items(document: Document, alternative: Alternative, path: str) -> Items | list[list[Any]]:
    """The items of an array, or all arrays that may be generated where the items must differ.

    Raises:
        GrammarError: `uniqueItems` or `contains` that cannot be enforced.
    """
    found = _containing(alternative, merged_items(alternative), path)
    if not any(one.schema.get("uniqueItems") is True for one in alternative):
        return found
    longest = len(found.first) if found.additional is None else found.most
    if longest is not None and found.most is not None:
        longest = min(longest, found.most)
    if longest is not None and longest <= 1:
        return found
    if longest is not None and longest <= len(found.first) and _all_differ(document, found.first[:longest]):
        return found
    return _different(document, found, longest, path)


def _containing(alternative: Alternative, found: Items, path: str) -> Items:
    """The items under `contains`: the first items are those that it asks for, the others are none of them."""
    first, at = list(found.first), 0
    additional, least, most = found.additional, found.least, found.most
    for one in alternative:
        if "contains" not in one.schema:
            continue
        wanted, count = one.child("contains"), int(one.schema.get("minContains", 1))
        for _ in range(count):
            if at == len(first):
                if additional is None:
                    raise GrammarError("contains: there is no item left that could be what it asks for", path=path)
                first.append(list(additional))
            first[at] = [*first[at], wanted]
            at += 1
        if "maxContains" in one.schema:
            if one.schema["maxContains"] < count:
                raise GrammarError("contains: maxContains is below minContains", path=path)
            other = Subschema({"not": wanted.schema}, f"{wanted.path}{NEGATED}")
            first = [*first[:at], *([*item, other] for item in first[at:])]
            additional = None if additional is None else [*additional, other]
            if at > count and one.schema["maxContains"] < at:
                raise GrammarError("contains with maxContains beside another contains cannot be enforced", path=path)
    return Items(first, additional, max(least, at), most)


def _all_differ(document: Document, first: list[list[Subschema]]) -> bool:
    """Whether no value fits two of these items."""
    ways = [document.alternatives(item) for item in first]
    return all(
        document.excludes(here, there)
        for one, two in combinations(range(len(ways)), 2)
        for here in ways[one]
        for there in ways[two]
    )


def _different(document: Document, found: Items, longest: int | None, path: str) -> list[list[Any]]:
    """All arrays of different items: in any order if they are few, else in the order of the items' schema."""
    if found.first:
        raise GrammarError("uniqueItems cannot be enforced for items that have schemas of their own", path=path)
    items = _finite(document, found.additional or [])
    if items is None:
        raise GrammarError(
            "uniqueItems can be enforced only where maxItems is 1, or where the items are an enum, booleans or at most "
            f"{MOST_ITEMS} integers; leave it out, or list the values",
            path=path,
        )
    sizes = range(found.least, min(len(items), len(items) if longest is None else longest) + 1)
    if sum(perm(len(items), size) for size in sizes) <= MOST_ARRAYS:
        return [list(array) for size in sizes for array in permutations(items, size)]
    made: list[list[Any]] = []
    for size in sizes:
        if len(made) + comb(len(items), size) > MOST_ARRAYS:
            break
        made += [list(array) for array in combinations(items, size)]
    if not made:
        raise GrammarError(f"uniqueItems: {len(items)} different items make too many arrays", path=path)
    return made


def _finite(document: Document, subschemas: list[Subschema]) -> list[Any] | None:
    """All values that are valid under these subschemas; None if they are too many or not of simple types."""
    found: dict[str, Any] = {}
    for way in document.alternatives(subschemas):
        values = allowed_values(way)
        if values is None:
            values = _of_types(way)
        if values is None:
            return None
        for value in values:
            if all(document.evaluation.holds(value, one, sure=True) for one in way):
                found.setdefault(equality_key(value), value)
        if len(found) > MOST_ITEMS:
            return None
    return list(found.values())


def _of_types(way: Alternative) -> list[Any] | None:
    """All values of an alternative's types; None if they are not few."""
    made: list[Any] = []
    for kind in sorted(allowed_types(way)):
        if kind == "null":
            made.append(None)
        elif kind == "boolean":
            made += [False, True]
        elif kind == "integer":
            low, _, high, _ = tightest_bounds(one.schema for one in way)
            if low is None or high is None or not 0 <= high - low <= MOST_ITEMS:
                return None
            made += range(int(low) - 1, int(high) + 2)  # bounds may be excluded; the caller checks each value
        else:
            return None
    return made
