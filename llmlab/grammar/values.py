"""The types and the listed values that an alternative allows, and when two JSON values are equal."""

from __future__ import annotations

import json
from typing import Any

from llmlab.grammar.keywords import TYPES
from llmlab.grammar.subschema import Alternative

#: Whole numbers of this size and larger do not fit a signed 64-bit integer; they are treated as floats.
LARGEST_WHOLE = 2**63


def allowed_types(alternative: Alternative) -> set[str]:
    """The JSON types that all subschemas allow. "integer" is listed only if "number" is not."""
    allowed = set(TYPES)
    for subschema in alternative:
        keyword = subschema.schema.get("type")
        if keyword is None:
            continue
        named = {keyword} if isinstance(keyword, str) else set(keyword)
        allowed &= named | ({"integer"} if "number" in named else set())
    return allowed - {"integer"} if "number" in allowed else allowed


def allowed_values(alternative: Alternative) -> list[Any] | None:
    """The values that every `enum` and `const` allows; None if no subschema has either keyword."""
    allowed: list[Any] | None = None
    for subschema in alternative:
        schema = subschema.schema
        for values in ([schema["const"]] if "const" in schema else None, schema.get("enum")):
            if values is not None:
                keys = {equality_key(value) for value in values}
                known = list(values) if allowed is None else allowed
                allowed = [value for value in known if equality_key(value) in keys]
    return allowed


def equality_key(value: Any) -> str:
    """A text that is the same for two values exactly if JSON Schema calls them equal: 1 equals 1.0, but not true."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        value = int(value) if abs(value) < LARGEST_WHOLE else float(value)
    if isinstance(value, dict):
        members = (f"{json.dumps(name)}:{equality_key(item)}" for name, item in value.items())
        return "{" + ",".join(sorted(members)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(equality_key, value)) + "]"
    return json.dumps(value)


def types_of(value: Any) -> set[str]:
    """The JSON types that a value has; a whole number has two, "number" and "integer"."""
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if value == int(value) else {"number"}
    for python_type, name in ((str, "string"), (list, "array"), (tuple, "array"), (dict, "object")):
        if isinstance(value, python_type):
            return {name}
    return set()
