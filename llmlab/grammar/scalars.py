"""Numbers and strings: several plain schemas merged into one that llguidance enforces.

Numbers have a limited length and fit a float, so that every JSON parser reads the value that was generated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

from llmlab.grammar.patterns import WRITABLE, enforced_pattern, mentions_control
from llmlab.grammar.regular import ExpressionError, language, texts
from llmlab.grammar.subschema import NOT_VALUES, UNLIKE
from llmlab.grammar.vocabulary import GrammarError, NothingValidError

#: The largest integer up to which a float, the only number type of JavaScript, holds every integer exactly.
LARGEST_INTEGER = 2**53 - 1

#: Digits before and after the decimal point of a number that has no bounds of its own. It is written without an
#: exponent. So no number overflows a float, and none goes on forever.
DIGITS_BEFORE, DIGITS_AFTER = 15, 9
#: llguidance reads 1e-10 exactly, and no finer step.
FINEST = 10

#: llguidance needs exponential time for many regular expressions that apply to one string.
MOST_CONDITIONS = 6

#: The most numbers that are excluded.
MOST_UNWANTED = 100

#: The keywords that constrain numbers.
BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_FOURTH = "(?:0[48]|[2468][048]|[13579][26])"
_LEAP = f"(?:[0-9]{{2}}{_FOURTH}|{_FOURTH}00)"
_LONG, _SHORT = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])", "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_DAY = f"(?:{_LONG}|{_SHORT}|02-(?:0[1-9]|1[0-9]|2[0-8]))"
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP}-02-29)"
_HOUR = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+-]{_HOUR})"
_AMOUNT = "[0-9]{1,9}"
_CLOCK = f"T(?:{_AMOUNT}H(?:{_AMOUNT}M(?:{_AMOUNT}S)?)?|{_AMOUNT}M(?:{_AMOUNT}S)?|{_AMOUNT}S)"
_CALENDAR = f"(?:{_AMOUNT}Y(?:{_AMOUNT}M(?:{_AMOUNT}D)?)?|{_AMOUNT}M(?:{_AMOUNT}D)?|{_AMOUNT}D)"

_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_SEGMENT = "[A-Za-z0-9._~-]"
_PATH = rf"/?(?:{_SEGMENT}+/)*{_SEGMENT}*(?:\?[A-Za-z0-9._~=&/-]*)?(?:#[A-Za-z0-9._~/-]*)?"

#: Formats that are enforced by a regular expression: only days that exist, no leap seconds (many parsers reject them),
#: numbers of limited length, and references that are a path.
FORMAT_PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:{_AMOUNT}W|{_CALENDAR}(?:{_CLOCK})?|{_CLOCK})",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,8}})(?:#|{_POINTER})",
    "uri-reference": _PATH,
    "iri-reference": _PATH,
}
#: Formats that llguidance enforces itself.
KNOWN_FORMATS = frozenset({"email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
#: Formats that JSON Schema defines and that cannot be enforced. Formats that it does not define are only annotations.
REFUSED_FORMATS = frozenset({"uri-template", "regex"})
#: Formats that are written as another one, all of whose strings they have.
NARROWER_FORMATS = {"iri": "uri", "idn-email": "email", "idn-hostname": "hostname"}
#: For each format, an expression that every string of this format matches, whichever validator reads it.
WIDE_FORMATS = {
    "date": "^[0-9W-]*$",
    "time": ":",
    "date-time": "[Tt ].*:",
    "duration": "^[^:@]*$",
    "email": "@",
    "hostname": "^[^:@/ ]*$",
    "ipv4": "^[0-9.]*$",
    "ipv6": ":",
    "uuid": "^[0-9a-fA-F-]{36}$",
    "uri": "^[a-zA-Z][a-zA-Z0-9+.-]*:",
}


def refuse_format(name: str, path: str) -> None:
    """Raise GrammarError for a format that cannot be enforced."""
    if name in REFUSED_FORMATS:
        raise GrammarError(f"the format {name!r} cannot be enforced; leave it out", path=path)


def tightest_bounds(schemas: Iterable[dict[str, Any]]) -> tuple[float | None, bool, float | None, bool]:
    """The narrowest bounds of several schemas.

    Returns:
        (lower, lower_excluded, upper, upper_excluded). A bound that no schema sets is None. A bound is excluded if the
        number itself is not valid.
    """
    lower: tuple[float, bool] | None = None
    upper: tuple[float, bool] | None = None
    for schema in schemas:
        for value, outside in _limits(schema, "minimum", "exclusiveMinimum"):
            lower = (value, outside) if lower is None else max(lower, (value, outside))
        for value, outside in _limits(schema, "maximum", "exclusiveMaximum"):
            upper = (value, outside) if upper is None else min(upper, (value, outside), key=lambda x: (x[0], not x[1]))
    low, high = lower or (None, False), upper or (None, False)
    return low[0], low[1], high[0], high[1]


def _limits(schema: dict[str, Any], plain: str, exclusive: str) -> list[tuple[float, bool]]:
    """The limits that one schema sets on one side, each with whether it is excluded itself."""
    found, strict = schema.get(plain), schema.get(exclusive)
    if isinstance(strict, bool):  # draft 4: it says whether the plain keyword's value is excluded
        return [] if found is None else [(found, strict)]
    return [(value, outside) for value, outside in ((found, False), (strict, True)) if value is not None]


def merged_integer(schemas: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """The schema of an integer that is valid under all these schemas, with a minimum and a maximum.

    Raises:
        GrammarError: no integer is valid, all valid ones lie beyond LARGEST_INTEGER, or `multipleOf`s cannot be merged.
    """
    low, above, high, below = tightest_bounds(schemas)
    for bound in (low, high):
        if bound is not None and abs(bound) > LARGEST_INTEGER and (bound > 0) == (bound is low):
            raise GrammarError(
                f"integers beyond ±{LARGEST_INTEGER} cannot be generated; got the bound {bound}", path=path
            )
    least = -LARGEST_INTEGER if low is None else max(_whole(low, above, up=True), -LARGEST_INTEGER)
    most = LARGEST_INTEGER if high is None else min(_whole(high, below, up=False), LARGEST_INTEGER)
    if least > most:
        raise _no_number(schemas, path)
    return {"type": "integer", "minimum": least, "maximum": most, **_multiple(schemas, path)}


def _whole(bound: float | Fraction, outside: bool, *, up: bool) -> int:
    """The integer inside a bound that is closest to it; `up` says whether the bound is a lower one."""
    if up:
        return math.floor(bound) + 1 if outside else math.ceil(bound)
    return math.ceil(bound) - 1 if outside else math.floor(bound)


def merged_number(schemas: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """The schema of a number that is valid under all these schemas, with a minimum, a maximum and a step.

    Both bounds are valid numbers: a bound that is excluded, or is not a multiple of the step, is moved to the first
    number inside. Otherwise llguidance would allow an excluded 0 if the other bound is below 1, and it would find no
    number between bounds that have more digits than the step.

    Raises:
        GrammarError: no finite number is valid, or `multipleOf`s cannot be merged.
    """
    low, above, high, below = tightest_bounds(schemas)
    low, high = _inner(low, up=True), _inner(high, up=False)
    room = float(10**DIGITS_BEFORE)
    least = min(-room, 10 * high if high is not None and high < 0 else -room) if low is None else low
    most = max(room, 10 * low if low is not None and low > 0 else room) if high is None else high
    # Beyond that many digits a number would be longer, and llguidance does not write every such range.
    least = -room if least < -room < most else least
    most = room if least < room < most else most
    if not (math.isfinite(least) and math.isfinite(most)):
        raise NothingValidError("the bounds leave no finite number", path=path)
    if least > most:
        raise _no_number(schemas, path)
    multiple = _multiple(schemas, path)
    # A step of 10**-n limits a number to n digits after the point.
    width = most - least
    digits = DIGITS_AFTER if width >= 1e-3 else FINEST
    if not multiple and width * 10**digits >= 10:
        multiple = {"multipleOf": float(f"1e-{digits}")}
    step = exact(multiple["multipleOf"]) if multiple else Fraction(10) ** (math.floor(math.log10(width or 1)) - 2)
    given = any("multipleOf" in schema for schema in schemas)
    try:
        least = _first_multiple(least, above, step, up=True) if above or given else least
        most = _first_multiple(most, below, step, up=False) if below or given else most
    except OverflowError:
        raise NothingValidError("the bounds leave no finite number", path=path) from None
    if least > most:
        raise _no_number(schemas, path)
    if least == most:  # as a range, llguidance may require 0.50 in place of 0.5
        return {"enum": [json.loads(repr(least).removesuffix(".0"))]}
    return {"type": "number", "minimum": least, "maximum": most, **multiple}


def _inner(bound: float | None, *, up: bool) -> float | None:
    """The float inside a bound that is closest to it: llguidance reads bounds as floats."""
    if bound is None:
        return None
    try:
        near = float(bound)
    except OverflowError:  # an integer may have any number of digits
        near = math.inf if bound > 0 else -math.inf
    if (near < bound) if up else (near > bound):
        return math.nextafter(near, math.inf if up else -math.inf)
    return near


def _no_number(schemas: list[dict[str, Any]], path: str) -> NothingValidError:
    told = dict.fromkeys(word for word in BOUNDS if any(word in schema for schema in schemas))
    return NothingValidError(f"{', '.join(told)}: there is no number between the bounds", path=path)


def exact(value: float) -> Fraction:
    """The decimal number that JSON writes for a number, as a fraction: 0.1 is exactly one tenth."""
    return Fraction(repr(value))


def _first_multiple(bound: float, outside: bool, step: Fraction, *, up: bool) -> float:
    """The multiple of a step inside a bound that is closest to it.

    If a float does not hold that multiple exactly, the step is multiplied by 10 until one does.
    """
    while True:
        point = _whole(exact(bound) / step, outside, up=up) * step
        if exact(float(point)) == point:
            return float(point)
        step *= 10


def without_numbers(
    merged: Callable[[list[dict[str, Any]], str], dict[str, Any]],
    schemas: list[dict[str, Any]],
    unwanted: list[float],
    path: str,
) -> Any:
    """`merged_integer` or `merged_number` without some numbers: the union of the ranges between them; False if empty.

    Raises:
        GrammarError: as `merged`, where nothing is unwanted.
    """
    if not unwanted:
        return merged(schemas, path)
    if len(unwanted) > MOST_UNWANTED:
        raise GrammarError(f"not: more than {MOST_UNWANTED} numbers cannot be excluded", path=path)
    bounds = sorted(set(unwanted))
    ranges = []
    for low, high in zip([None, *bounds], [*bounds, None], strict=True):
        limits = ({} if low is None else {"exclusiveMinimum": low}) | (
            {} if high is None else {"exclusiveMaximum": high}
        )
        try:
            ranges.append(merged([*schemas, limits], path))
        except NothingValidError:
            continue  # no number lies between the two
    return ({"anyOf": ranges} if len(ranges) > 1 else ranges[0]) if ranges else False


def _multiple(schemas: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """The least common multiple of every `multipleOf`, as a keyword; empty if no schema has one."""
    found = [schema["multipleOf"] for schema in schemas if "multipleOf" in schema]
    if len(set(found)) > 1:
        if not all(value == int(value) for value in found):
            raise GrammarError("multipleOf: two that are not whole numbers cannot be merged", path=path)
        found = [math.lcm(*map(int, found))]
    return {"multipleOf": found[0]} if found else {}


def string_lengths(schemas: Iterable[dict[str, Any]]) -> tuple[int, int | None]:
    """The largest minLength (0 if there is none) and the smallest maxLength (None if there is none)."""
    plain = list(schemas)
    shortest = max((int(schema["minLength"]) for schema in plain if "minLength" in schema), default=0)
    return shortest, min((int(schema["maxLength"]) for schema in plain if "maxLength" in schema), default=None)


def merged_string(schemas: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """The schema of a string that is valid under all these schemas.

    Raises:
        GrammarError: a format or a negation that cannot be enforced.
    """
    made: dict[str, Any] = {"type": "string"}
    shortest, longest = string_lengths(schemas)
    if shortest:
        made["minLength"] = shortest
    if longest is not None:
        made["maxLength"] = longest
    if longest is not None and longest < shortest:
        raise NothingValidError(f"minLength {shortest} is above maxLength {longest}", path=path)
    conditions: list[dict[str, str]] = []
    for schema in schemas:
        if "pattern" in schema:
            conditions.append({"pattern": enforced_pattern(schema["pattern"])})
            conditions += [{"pattern": WRITABLE}] if mentions_control(schema["pattern"]) else []
        if "format" in schema:
            conditions += _format(schema["format"], path)
    conditions += _exclusions(schemas, path)
    conditions = [one for index, one in enumerate(conditions) if one not in conditions[:index]]
    if len(conditions) > MOST_CONDITIONS:
        raise GrammarError(f"more than {MOST_CONDITIONS} patterns and formats apply to one string", path=path)
    for condition in conditions:
        if made.keys() & condition.keys():
            made.setdefault("allOf", []).append({"type": "string", **condition})
        else:
            made |= condition
    return made


def _exclusions(schemas: list[dict[str, Any]], path: str) -> list[dict[str, str]]:
    """A condition that excludes the strings and patterns that are not allowed; none if there are none."""
    strings = [value for schema in schemas for value in schema.get(NOT_VALUES, ()) if isinstance(value, str)]
    patterns = [pattern for schema in schemas for pattern in schema.get(UNLIKE, ())]
    if not strings and not patterns:
        return []
    try:
        excluded = texts(strings)
        for pattern in patterns:
            excluded |= language(pattern, wide=True)
        return [{"pattern": (~excluded).expression()}]
    except ExpressionError as error:
        raise GrammarError(f"not: the other strings have no regular expression ({error})", path=path) from None


def _format(name: str, path: str) -> list[dict[str, str]]:
    """The conditions that enforce a format; none for a format that is only an annotation."""
    refuse_format(name, path)
    if name in FORMAT_PATTERNS:
        return [{"pattern": f"^{FORMAT_PATTERNS[name]}$"}]
    name = NARROWER_FORMATS.get(name, name)
    return [{"format": name}] if name in KNOWN_FORMATS else []
