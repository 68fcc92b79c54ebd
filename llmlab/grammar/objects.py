"""The properties of an object as llguidance needs them: named ones match no pattern, and patterns do not overlap."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

from llmlab.grammar.containers import Properties, for_patterns, merged_properties
from llmlab.grammar.document import Document
from llmlab.grammar.patterns import enforced_pattern, matches
from llmlab.grammar.regular import ExpressionError, Language, language, length, texts
from llmlab.grammar.scalars import FORMAT_PATTERNS, string_lengths
from llmlab.grammar.subschema import NOT_VALUES, UNLIKE, Alternative, Subschema
from llmlab.grammar.values import allowed_types, allowed_values
from llmlab.grammar.vocabulary import GrammarError

#: The most regular expressions of one object whose overlaps are worked out: there are 2**n of them.
MOST_PATTERNS = 4
#: Any name.
_ALL = "^"


def object_properties(document: Document, alternative: Alternative, path: str) -> Properties:
    """The properties of an object; the patterns are in Rust's syntax, and no name matches two of them.

    Raises:
        GrammarError: names that cannot be told apart by regular expressions.
    """
    found = merged_properties(alternative)
    rules = [one.child("propertyNames") for one in alternative if "propertyNames" in one.schema]
    if rules:
        found = _for_these_names(document, alternative, found, rules, path)
    if not found.patterns:
        return found
    readings = [(pattern, _readings(pattern)) for pattern in found.patterns]
    named = [name for name in found.named if any(_may_match(pattern, name, read) for pattern, read in readings)]
    simple = not named and (len(readings) == 1 or any(read is None for _, read in readings))
    if simple and (found.additional is None or all(read is None or (read[1] & ~read[0]).empty for _, read in readings)):
        return found._replace(patterns={enforced_pattern(name): value for name, value in found.patterns.items()})
    return found._replace(patterns=_apart(alternative, found, named, path))


def _readings(pattern: str) -> tuple[Language, Language] | None:
    """The names that match a pattern for every validator, and for at least one; None if that is not known."""
    try:
        return language(pattern), language(pattern, wide=True)
    except ExpressionError:
        return None


def _may_match(pattern: str, name: str, read: tuple[Language, Language] | None) -> bool:
    return name in read[1] if read else matches(pattern, name)


def _apart(alternative: Alternative, found: Properties, named: list[str], path: str) -> dict[str, list[Subschema]]:
    """The patterns of an object so that no name matches two of them, and none of those named."""
    try:
        cells, rest = _cells(tuple(found.patterns), tuple(named))
        made = {
            written: [each for one in alternative for each in for_patterns(one, inside)] for inside, written in cells
        }
        if found.additional is not None and rest is not None:
            made[rest] = [Subschema(False, f"{path}/patternProperties")]
        return made
    except ExpressionError as error:
        if named or found.additional is not None:
            where = f"the named properties {named}" if named else "the other names"
            raise GrammarError(
                f"patternProperties: the patterns cannot be told apart from {where} ({error})", path=path
            ) from None
        return {enforced_pattern(pattern): value for pattern, value in found.patterns.items()}


@lru_cache(maxsize=256)
def _cells(patterns: tuple[str, ...], named: tuple[str, ...]) -> tuple[list[tuple[tuple[str, ...], str]], str | None]:
    """Expressions for the names that match some patterns and not the others, and are not among those named.

    Returns:
        ((patterns, expression) for every combination that has a name, an expression for the names of which not all
        validators know which patterns they match, or None if there are none).

    Raises:
        ExpressionError: too many patterns, or an expression that cannot be read or is too large.
    """
    if len(patterns) > MOST_PATTERNS:
        raise ExpressionError(f"more than {MOST_PATTERNS} patterns")
    sure = [language(pattern) for pattern in patterns]
    maybe = [language(pattern, wide=True) for pattern in patterns]
    free = ~texts(named)
    made: list[tuple[tuple[str, ...], str]] = []
    rest = maybe[0]
    for each in maybe[1:]:
        rest |= each
    rest &= free
    for size in range(len(patterns), 0, -1):
        for chosen in combinations(range(len(patterns)), size):
            cell = free
            for i in range(len(patterns)):
                cell &= sure[i] if i in chosen else ~maybe[i]
            rest &= ~cell
            if not cell.empty:
                made.append((tuple(patterns[i] for i in chosen), cell.expression()))
    return made, None if rest.empty else rest.expression()


def _for_these_names(
    document: Document, alternative: Alternative, found: Properties, rules: list[Subschema], path: str
) -> Properties:
    """The properties without those whose names are not valid under `propertyNames`."""
    holds = document.evaluation.holds
    named = {
        name: value
        if all(holds(name, rule, sure=True) for rule in rules)
        else [Subschema(False, f"{path}/propertyNames")]
        for name, value in found.named.items()
    }
    found = found._replace(named=named)
    if found.additional is None and not found.patterns:
        return found
    ways = [way for way in document.alternatives(rules) if "string" in allowed_types(way)]
    listed = [allowed_values(way) for way in ways]
    if all(values is not None for values in listed):
        names = [name for values in listed for name in values or () if isinstance(name, str)]
        names = [name for name in names if all(holds(name, rule, sure=True) for rule in rules)]
        for name in dict.fromkeys(names):
            known = [pattern for pattern in found.patterns if matches(pattern, name)]
            if name not in named and (known or found.additional is not None):
                named[name] = [each for one in alternative for each in for_patterns(one, known)]
        return found._replace(named=named, patterns={}, additional=None)
    if found.patterns:
        raise GrammarError("propertyNames beside patternProperties can be enforced only if it lists names", path=path)
    return found._replace(patterns={_names(ways, path): found.additional or []}, additional=None)


def _names(ways: list[Alternative], path: str) -> str:
    """A regular expression for the names that one of these alternatives allows."""
    made: Language | None = None
    if len(ways) == 1 and not any(one.schema.keys() - {"type", "minLength", "maxLength"} for one in ways[0]):
        least, most = string_lengths(one.schema for one in ways[0])
        return f"^(?s:.{{{least},{'' if most is None else most}}})$" if least or most is not None else _ALL
    plain = [one.schema for way in ways for one in way if one.schema.keys() - {"type"}]
    if len(ways) == 1 and len(plain) == 1 and plain[0].keys() - {"type"} == {"pattern"}:
        return plain[0]["pattern"]
    try:
        for way in ways:
            names = length(*string_lengths(one.schema for one in way))
            for one in way:
                for word in ("pattern", "format"):
                    names &= language(_pattern(word, one.schema[word])) if word in one.schema else names
                for pattern in one.schema.get(UNLIKE, ()):
                    names &= ~language(pattern, wide=True)
                names &= ~texts(name for name in one.schema.get(NOT_VALUES, ()) if isinstance(name, str))
                if "enum" in one.schema:
                    names &= texts(name for name in one.schema["enum"] if isinstance(name, str))
            made = names if made is None else made | names
        return made.expression() if made is not None else "^[]$"
    except ExpressionError as error:
        raise GrammarError(f"propertyNames: the names have no regular expression ({error})", path=path) from None


def _pattern(word: str, value: str) -> str:
    """A regular expression for the strings that have a pattern or a format."""
    if word == "pattern":
        return value
    if value in FORMAT_PATTERNS:
        return f"^(?:{FORMAT_PATTERNS[value]})$"
    if value == "uuid":
        return "^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
    raise ExpressionError(f"the format {value!r} has none here")
