"""The keywords of JSON Schema: which are enforced, which say nothing about validity, and which are refused.

Nothing that constrains is passed over: what llguidance cannot enforce, and what it would ignore, is an error that names
the keyword. Drafts 4 to 2020-12 are read alike; where they differ, each keyword means what its own draft says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llmlab.grammar.vocabulary import GrammarError

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

#: Keywords that say nothing about which values are valid, or only give places names.
ANNOTATIONS = frozenset(
    "$schema $id id $anchor $comment $defs definitions $vocabulary title description default examples deprecated "
    "readOnly writeOnly contentMediaType contentEncoding contentSchema".split()
)

#: What cannot be enforced token by token, with the value under which it says nothing.
REFUSED: dict[str, Any] = {
    "uniqueItems": False,
    "not": False,
    "if": ...,
    "then": True,
    "else": True,
    "contains": ...,
    "minContains": 0,
    "maxContains": ...,
    "propertyNames": True,
    "dependencies": {},
    "dependentRequired": {},
    "dependentSchemas": {},
    "unevaluatedItems": True,
    "unevaluatedProperties": True,
    "$dynamicRef": ...,
    "$dynamicAnchor": ...,
    "$recursiveRef": ...,
    "$recursiveAnchor": False,
}

#: Keywords that combine schemas.
APPLICATORS = frozenset({"$ref", "allOf", "anyOf", "oneOf"})


def _schema(value: Any) -> bool:
    return isinstance(value, bool | dict)


def _schemas(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_schema, value))


def _some_schemas(value: Any) -> bool:
    return _schemas(value) and len(value) > 0


def _named_schemas(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and _schema(item) for key, item in value.items())


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_text, value))


def _types(value: Any) -> bool:
    many = value if isinstance(value, list | tuple) else [value]
    return bool(many) and all(isinstance(item, str) and item in TYPES for item in many)


def is_number(value: Any) -> bool:
    """A JSON number that a float holds exactly, so that what is enforced is what was written."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value) and float(value) == value
    except OverflowError:
        return False


def _count(value: Any) -> bool:
    return is_number(value) and value >= 0 and value == int(value)


#: What the value of each enforced keyword may be, and how that reads.
ENFORCED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "$ref": (_text, "a string"),
    "allOf": (_some_schemas, "a list of schemas"),
    "anyOf": (_some_schemas, "a list of schemas"),
    "oneOf": (_some_schemas, "a list of schemas"),
    "type": (_types, f"one of {', '.join(TYPES)}, or a list of them"),
    "enum": (lambda value: isinstance(value, list | tuple) and len(value) > 0, "a list of values"),
    "const": (lambda value: True, ""),
    "minimum": (is_number, "a number that a float holds exactly"),
    "maximum": (is_number, "a number that a float holds exactly"),
    "exclusiveMinimum": (lambda value: isinstance(value, bool) or is_number(value), "a number"),
    "exclusiveMaximum": (lambda value: isinstance(value, bool) or is_number(value), "a number"),
    "multipleOf": (lambda value: is_number(value) and value > 0, "a number above 0"),
    "minLength": (_count, "a whole number, 0 or more"),
    "maxLength": (_count, "a whole number, 0 or more"),
    "pattern": (_text, "a regular expression"),
    "format": (_text, "a string"),
    "items": (lambda value: _schema(value) or _schemas(value), "a schema"),
    "prefixItems": (_schemas, "a list of schemas"),
    "additionalItems": (_schema, "a schema"),
    "minItems": (_count, "a whole number, 0 or more"),
    "maxItems": (_count, "a whole number, 0 or more"),
    "properties": (_named_schemas, "an object of schemas"),
    "patternProperties": (_named_schemas, "an object of schemas"),
    "additionalProperties": (_schema, "a schema"),
    "required": (_texts, "a list of names"),
    "minProperties": (_count, "a whole number, 0 or more"),
    "maxProperties": (_count, "a whole number, 0 or more"),
}


def check(schema: dict[str, Any], path: str) -> None:
    """Every keyword of one schema (not of those inside it).

    Raises:
        GrammarError: a keyword that cannot be enforced, or whose value makes no sense.
    """
    for keyword, value in schema.items():
        if keyword in ENFORCED:
            fits, wanted = ENFORCED[keyword]
            if not fits(value):
                raise GrammarError(f"{keyword} must be {wanted}, got {_shown(value)}", path=path)
        elif keyword in REFUSED and not _says_nothing(keyword, value):
            raise GrammarError(f"the keyword {keyword!r} cannot be enforced; leave it out", path=path)


def _says_nothing(keyword: str, value: Any) -> bool:
    nothing = REFUSED[keyword]
    if nothing is True:
        return value is True or value == {} and isinstance(value, dict)
    return nothing is not ... and type(value) is type(nothing) and value == nothing


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
