"""The keywords of JSON Schema: which are enforced and which are refused.

No constraint is ignored: a keyword that llguidance cannot enforce, or would silently skip, is an error that names the
keyword. Annotations such as `title` and unknown keywords constrain nothing and are passed over. All drafts from 4 to
2020-12 are accepted; where they differ, a keyword means what its own draft says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llmlab.grammar.vocabulary import GrammarError

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

#: Keywords that cannot be enforced token by token, each with the value that makes it harmless; `...` if there is none.
REFUSED: dict[str, Any] = {
    "$dynamicRef": ...,
    "$dynamicAnchor": ...,
    "$recursiveRef": ...,
    "$recursiveAnchor": False,
}

#: Keywords that apply other schemas to the same value.
APPLICATORS = frozenset(
    "$ref allOf anyOf oneOf not if then else dependencies dependentRequired dependentSchemas unevaluatedItems "
    "unevaluatedProperties".split()
)


def _is_schema(value: Any) -> bool:
    return isinstance(value, bool | dict)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_schema, value))


def _are_some_schemas(value: Any) -> bool:
    return _are_schemas(value) and len(value) > 0


def _are_named_schemas(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and _is_schema(item) for key, item in value.items())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


def _are_named_lists(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and _are_texts(item) for key, item in value.items())


def _are_dependencies(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and (_is_schema(item) or _are_texts(item)) for key, item in value.items()
    )


def _are_types(value: Any) -> bool:
    many = value if isinstance(value, list | tuple) else [value]
    return bool(many) and all(isinstance(item, str) and item in TYPES for item in many)


def is_number(value: Any) -> bool:
    """Whether a value is a JSON number that a float holds exactly, so that what is enforced is what was written."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value) and float(value) == value
    except OverflowError:
        return False


def _is_bound(value: Any) -> bool:
    return not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    )


def _is_count(value: Any) -> bool:
    return is_number(value) and value >= 0 and value == int(value)


#: For each enforced keyword: a test of its value, and how an error describes the values that pass.
ENFORCED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "$ref": (_is_text, "a string"),
    "allOf": (_are_some_schemas, "a list of schemas"),
    "anyOf": (_are_some_schemas, "a list of schemas"),
    "oneOf": (_are_some_schemas, "a list of schemas"),
    "type": (_are_types, f"one of {', '.join(TYPES)}, or a list of them"),
    "enum": (lambda value: isinstance(value, list | tuple) and len(value) > 0, "a list of values"),
    "const": (lambda value: True, ""),
    "minimum": (_is_bound, "a finite number"),
    "maximum": (_is_bound, "a finite number"),
    "exclusiveMinimum": (lambda value: isinstance(value, bool) or _is_bound(value), "a finite number"),
    "exclusiveMaximum": (lambda value: isinstance(value, bool) or _is_bound(value), "a finite number"),
    "multipleOf": (lambda value: is_number(value) and value > 0, "a number above 0"),
    "minLength": (_is_count, "a whole number, 0 or more"),
    "maxLength": (_is_count, "a whole number, 0 or more"),
    "pattern": (_is_text, "a regular expression"),
    "format": (_is_text, "a string"),
    "items": (lambda value: _is_schema(value) or _are_schemas(value), "a schema"),
    "prefixItems": (_are_schemas, "a list of schemas"),
    "additionalItems": (_is_schema, "a schema"),
    "minItems": (_is_count, "a whole number, 0 or more"),
    "maxItems": (_is_count, "a whole number, 0 or more"),
    "properties": (_are_named_schemas, "an object of schemas"),
    "patternProperties": (_are_named_schemas, "an object of schemas"),
    "additionalProperties": (_is_schema, "a schema"),
    "required": (_are_texts, "a list of names"),
    "minProperties": (_is_count, "a whole number, 0 or more"),
    "not": (_is_schema, "a schema"),
    "if": (_is_schema, "a schema"),
    "then": (_is_schema, "a schema"),
    "else": (_is_schema, "a schema"),
    "contains": (_is_schema, "a schema"),
    "minContains": (_is_count, "a whole number, 0 or more"),
    "maxContains": (_is_count, "a whole number, 0 or more"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "propertyNames": (_is_schema, "a schema"),
    "dependencies": (_are_dependencies, "an object of schemas and lists of names"),
    "dependentRequired": (_are_named_lists, "an object of lists of names"),
    "dependentSchemas": (_are_named_schemas, "an object of schemas"),
    "unevaluatedItems": (_is_schema, "a schema"),
    "unevaluatedProperties": (_is_schema, "a schema"),
    "maxProperties": (_is_count, "a whole number, 0 or more"),
}


def check(schema: dict[str, Any], path: str) -> None:
    """Check every keyword of one schema, without the schemas nested in it.

    Args:
        schema: the schema.
        path: its JSON pointer, for the error.

    Raises:
        GrammarError: a keyword that cannot be enforced, or whose value has the wrong type or range.
    """
    for keyword, value in schema.items():
        if keyword in ENFORCED:
            fits, wanted = ENFORCED[keyword]
            if not fits(value):
                raise GrammarError(f"{keyword} must be {wanted}, got {_shown(value)}", path=path)
        elif keyword in REFUSED and not _is_harmless(keyword, value):
            raise GrammarError(f"the keyword {keyword!r} cannot be enforced; leave it out", path=path)


def _is_harmless(keyword: str, value: Any) -> bool:
    """Whether a refused keyword does not constrain anything with this value."""
    harmless = REFUSED[keyword]
    return harmless is not ... and type(value) is type(harmless) and value == harmless


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
