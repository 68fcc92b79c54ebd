"""Whether the branches of a `oneOf` exclude each other, so that "exactly one" holds for whatever is generated."""

from __future__ import annotations

from collections.abc import Callable

from llmlab.grammar.containers import Properties, merged_properties
from llmlab.grammar.scalars import tightest_bounds
from llmlab.grammar.subschema import Alternative, Subschema
from llmlab.grammar.values import allowed_types, allowed_values, equality_key, types_of
from llmlab.grammar.vocabulary import GrammarError

#: A schema is refused if its `oneOf`s together need more comparisons of two alternatives than this.
MOST_COMPARISONS = 200_000

#: How many levels of nested properties are compared.
_DEEPEST = 3


class BranchComparison:
    """Compares the branches of a document's `oneOf`s and counts the comparisons.

    Args:
        alternatives: resolves subschemas that apply to one value (`Document.alternatives`). It is passed in because
            the document itself needs this comparison.
    """

    def __init__(self, alternatives: Callable[[list[Subschema]], list[Alternative]]) -> None:
        self._alternatives = alternatives
        self._count = 0

    def excludes(self, written: Alternative, other: Alternative, *, depth: int = 0) -> bool:
        """Whether no value that is generated for `written` is valid under `other`.

        Types, listed values, bounds of numbers and required properties are compared. False means that an overlap is
        possible, or that a difference lies in what is not compared (a pattern, for example).

        Raises:
            GrammarError: after MOST_COMPARISONS comparisons in this document.
        """
        self._count += 1
        if self._count > MOST_COMPARISONS:
            path = written[0].path if written else "#"
            raise GrammarError("oneOf: comparing the branches takes too long; use anyOf instead", path=path)
        mine, theirs = allowed_types(written), allowed_types(other)
        common = {kind for kind in mine if kind in theirs or (kind == "integer" and "number" in theirs)}
        common |= {kind for kind in theirs if kind == "integer" and "number" in mine}
        values, other_values = allowed_values(written), allowed_values(other)
        if values is not None and other_values is not None:
            return not {equality_key(value) for value in values} & {equality_key(value) for value in other_values}
        if values is not None or other_values is not None:
            listed = values if values is not None else other_values or []
            common &= {kind for value in listed for kind in types_of(value)}
        return all(self._differ(kind, written, other, depth) for kind in common)

    def _differ(self, kind: str, written: Alternative, other: Alternative, depth: int) -> bool:
        """Whether no generated value of this type is valid under `other`."""
        if kind in ("integer", "number"):
            low, above, high, below = tightest_bounds(subschema.schema for subschema in written)
            other_low, other_above, other_high, other_below = tightest_bounds(subschema.schema for subschema in other)
            return _under(high, other_low, below or other_above) or _under(other_high, low, other_below or above)
        if kind != "object" or depth >= _DEEPEST:
            return False
        mine, theirs = merged_properties(written), merged_properties(other)
        for name in {*mine.required, *theirs.required}:
            here, there = _of_property(mine, name), theirs.named.get(name)
            if here is None:
                return True  # `other` requires the property, and it is never generated
            if there is None:
                forbids = any(subschema.schema.get("additionalProperties") is False for subschema in other)
                if forbids and not theirs.patterns:
                    return True  # the property is always generated, and `other` forbids it
                continue
            if all(
                self.excludes(one, two, depth=depth + 1)
                for one in self._alternatives(here)
                for two in self._alternatives(there)
            ):
                return True
        return False


def _of_property(properties: Properties, name: str) -> list[Subschema] | None:
    """The subschemas that apply to a property if it is generated; None if it never is."""
    if name in properties.named:
        return properties.named[name]
    return [] if properties.additional is not None or properties.patterns else None


def _under(high: float | None, low: float | None, excluded: bool) -> bool:
    """Whether an upper bound lies below a lower bound; `excluded` says whether one of the two excludes itself."""
    return high is not None and low is not None and (high < low or (high == low and excluded))
