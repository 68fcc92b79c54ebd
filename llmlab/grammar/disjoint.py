"""Whether the branches of a `oneOf` exclude each other, so that "exactly one" holds for whatever is generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmlab.grammar.containers import Properties, merged_items, merged_properties
from llmlab.grammar.evaluate import Evaluation
from llmlab.grammar.regular import ExpressionError, Language, language, length
from llmlab.grammar.scalars import WIDE_FORMATS, string_lengths, tightest_bounds
from llmlab.grammar.subschema import UNLIKE, Alternative, Subschema
from llmlab.grammar.values import allowed_types, allowed_values
from llmlab.grammar.vocabulary import GrammarError

#: A schema is refused if its `oneOf`s together need more comparisons of two alternatives than this.
MOST_COMPARISONS = 100_000

#: How many comparisons it counts to compare two strings, which may have regular expressions.
_COST_OF_STRINGS = 10

#: How many levels of nested properties are compared.
_DEEPEST = 3


class BranchComparison:
    """Compares the branches of a document's `oneOf`s and counts the comparisons.

    Args:
        alternatives: resolves subschemas that apply to one value, in the wide reading. It is passed in because the
            document itself needs this comparison.
        evaluation: checks listed values.
    """

    def __init__(self, alternatives: Callable[[list[Subschema]], list[Alternative]], evaluation: Evaluation) -> None:
        self._alternatives, self._evaluation = alternatives, evaluation
        self._count = 0

    def excludes(self, written: Alternative, other: Alternative, *, depth: int = 0) -> bool:
        """Whether no value that is generated for `written` is valid under `other`.

        Types, listed values, bounds of numbers, lengths, patterns and formats of strings, lengths and items of arrays
        and required properties are compared. False means that an overlap is possible, or that a difference lies in
        what is not compared.

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
        for values, opposite in ((allowed_values(written), other), (allowed_values(other), written)):
            if values is not None:
                return not any(self._may_hold(value, opposite) for value in values)
        return all(self._differ(kind, written, other, depth) for kind in common)

    def _differ(self, kind: str, written: Alternative, other: Alternative, depth: int) -> bool:
        """Whether no generated value of this type is valid under `other`."""
        if kind in ("integer", "number"):
            low, above, high, below = tightest_bounds(subschema.schema for subschema in written)
            other_low, other_above, other_high, other_below = tightest_bounds(subschema.schema for subschema in other)
            return _under(high, other_low, below or other_above) or _under(other_high, low, other_below or above)
        if kind == "string":
            self._count += _COST_OF_STRINGS
            return _strings_differ(written, other)
        if kind == "array" and depth < _DEEPEST:
            return self._arrays_differ(written, other, depth)
        if kind != "object" or depth >= _DEEPEST:
            return False
        mine, theirs = merged_properties(written), merged_properties(other)
        for name in {*mine.required, *theirs.required}:
            here, there = _of_property(mine, name), theirs.named.get(name)
            if here is None:
                return True  # `other` requires the property, and it is never generated
            if theirs.patterns and not any(name in one.schema.get("properties", ()) for one in other):
                continue  # whether a name matches may depend on who reads the pattern
            if there is None:
                forbids = any(subschema.schema.get("additionalProperties") is False for subschema in other)
                if forbids and not theirs.patterns:
                    return True  # the property is always generated, and `other` forbids it
                continue
            if self._nested_differ(here, there, depth):
                return True
        return False

    def _arrays_differ(self, written: Alternative, other: Alternative, depth: int) -> bool:
        mine, theirs = merged_items(written), merged_items(other)
        for one, two in ((mine, theirs), (theirs, mine)):
            if one.most is not None and one.most < two.least:
                return True
        both = max(mine.least, theirs.least)
        for i in range(min(both, 8)):
            here = mine.first[i] if i < len(mine.first) else mine.additional
            # An item that `merged_items` leaves out to keep arrays short may be valid all the same.
            there = theirs.first[i] if i < len(theirs.first) else theirs.additional
            if here is None or (there is not None and self._nested_differ(here, there, depth)):
                return True
        return False

    def _nested_differ(self, here: list[Subschema], there: list[Subschema], depth: int) -> bool:
        return all(
            self.excludes(one, two, depth=depth + 1)
            for one in self._alternatives(here)
            for two in self._alternatives(there)
        )

    def _may_hold(self, value: Any, alternative: Alternative) -> bool:
        """Whether some validator may accept a value under an alternative."""
        return all(self._evaluation.holds(value, subschema, sure=False) for subschema in alternative)


def _strings_differ(written: Alternative, other: Alternative) -> bool:
    """Whether no string fits both alternatives, in the wide reading."""
    low, high = string_lengths(one.schema for one in written)
    other_low, other_high = string_lengths(one.schema for one in other)
    if (high is not None and high < other_low) or (other_high is not None and other_high < low):
        return True
    found: Language | None = None
    for one in (*written, *other):
        patterns = [one.schema["pattern"]] if "pattern" in one.schema else []
        patterns += [WIDE_FORMATS[one.schema["format"]]] if one.schema.get("format") in WIDE_FORMATS else []
        for pattern, negative in [(each, False) for each in patterns] + [
            (each, True) for each in one.schema.get(UNLIKE, ())
        ]:
            try:
                made = language(pattern, wide=not negative)
                made = ~made if negative else made
                found = made if found is None else found & made
            except ExpressionError:
                continue
    if found is None:
        return False
    least, most = max(low, other_low), min((each for each in (high, other_high) if each is not None), default=None)
    try:
        return found.empty or (bool(least or most is not None) and (found & length(least, most)).empty)
    except ExpressionError:
        return False


def _of_property(properties: Properties, name: str) -> list[Subschema] | None:
    """The subschemas that apply to a property if it is generated; None if it never is."""
    if name in properties.named:
        return properties.named[name]
    return [] if properties.additional is not None or properties.patterns else None


def _under(high: float | None, low: float | None, excluded: bool) -> bool:
    """Whether an upper bound lies below a lower bound; `excluded` says whether one of the two excludes itself."""
    return high is not None and low is not None and (high < low or (high == low and excluded))
