"""Whether what is written for one branch of a `oneOf` can be taken for another."""

from __future__ import annotations

import json
from typing import Any

from llmlab.grammar.keywords import TYPES
from llmlab.grammar.objects import properties
from llmlab.grammar.places import Alternative, Document, Site
from llmlab.grammar.scalars import bounds

#: Whole numbers from here on are read as floats.
LARGEST_WHOLE = 2**63

#: How deep in the properties a difference is looked for.
_DEEPEST = 3


def excludes(document: Document, written: Alternative, other: Alternative, *, depth: int = 0) -> bool:
    """Whether nothing that is written for one alternative is valid under another. False where that is not seen."""
    document.compared(written[0].path if written else "#")
    mine, theirs = types(written), types(other)
    common = {kind for kind in mine if kind in theirs or (kind == "integer" and "number" in theirs)}
    common |= {kind for kind in theirs if kind == "integer" and "number" in mine}
    values, others = allowed_values(written), allowed_values(other)
    if values is not None and others is not None:
        return not {key(value) for value in values} & {key(value) for value in others}
    if values is not None or others is not None:
        held = values if values is not None else others or []
        common &= {kind for value in held for kind in kinds(value)}
    return all(_differs(kind, document, written, other, depth) for kind in common)


def types(schemas: Alternative) -> set[str]:
    """The types that all the schemas allow; "integer" only where "number" is not among them."""
    found = set(TYPES)
    for site in schemas:
        told = site.schema.get("type")
        if told is None:
            continue
        named = {told} if isinstance(told, str) else set(told)
        found &= named | ({"integer"} if "number" in named else set())
    return found - {"integer"} if "number" in found else found


def allowed_values(schemas: Alternative) -> list[Any] | None:
    """What `enum` and `const` leave; None where there is neither."""
    found: list[Any] | None = None
    for site in schemas:
        for values in ([site.schema["const"]] if "const" in site.schema else None, site.schema.get("enum")):
            if values is not None:
                keys = {key(value) for value in values}
                found = list(values) if found is None else [value for value in found if key(value) in keys]
    return found


def key(value: Any) -> str:
    """Equal for values that are equal in JSON: 1 is 1.0, and not true."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        value = int(value) if abs(value) < LARGEST_WHOLE else float(value)
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{json.dumps(name)}:{key(item)}" for name, item in value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(key, value)) + "]"
    return json.dumps(value)


def kinds(value: Any) -> set[str]:
    """The types that a value has."""
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if value == int(value) else {"number"}
    for kind, name in ((str, "string"), (list, "array"), (tuple, "array"), (dict, "object")):
        if isinstance(value, kind):
            return {name}
    return set()


def _differs(kind: str, document: Document, written: Alternative, other: Alternative, depth: int) -> bool:
    if kind in ("integer", "number"):
        low, above, high, below = bounds(site.schema for site in written)
        other_low, other_above, other_high, other_below = bounds(site.schema for site in other)
        return _under(high, other_low, below or other_above) or _under(other_high, low, other_below or above)
    if kind != "object" or depth >= _DEEPEST:
        return False
    mine, theirs = properties(written), properties(other)
    for name in {*mine.required, *theirs.required}:
        here, there = _at(mine.named, mine.others, mine.patterns, name), theirs.named.get(name)
        if here is None:
            return True  # never written, and required there
        if there is None:
            told = [site for site in other if site.schema.get("additionalProperties") is False]
            if told and not theirs.patterns:
                return True  # always written, and forbidden there
            continue
        if all(
            excludes(document, one, two, depth=depth + 1)
            for one in document.alternatives(here)
            for two in document.alternatives(there)
        ):
            return True
    return False


def _at(
    named: dict[str, list[Site]], others: list[Site] | None, patterns: dict[str, list[Site]], name: str
) -> list[Site] | None:
    """What holds of a property where it is written; None where it never is."""
    if name in named:
        return named[name]
    return [] if others is not None or patterns else None


def _under(high: float | None, low: float | None, apart: bool) -> bool:
    return high is not None and low is not None and (high < low or (high == low and apart))
