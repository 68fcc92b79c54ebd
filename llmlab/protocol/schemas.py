"""The JSON schemas of request fields: from a field's kind and bounds, and written out where a field has parts.

They say the same as the checks in `checks` and `parts`; a test compares them at every bound.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from llmlab.sampling.fields import Field

Schema: TypeAlias = dict[str, Any]

_TYPES = {"number": "number", "integer": "integer", "flag": "boolean", "text": "string", "object": "object"}
_NULL: Schema = {"type": "null"}


def schema_of(field: Field, *, required: bool = False) -> Schema:
    """The schema of a field with its description; unless the field is `required`, null stands for its default."""
    schema = _plain(field)
    if not required:
        schema = {**schema, "anyOf": [*schema["anyOf"], _NULL]} if "anyOf" in schema else {"anyOf": [schema, _NULL]}
    return {**schema, "description": field.text}


def _plain(field: Field) -> Schema:
    if field.schema is not None:
        return dict(field.schema)
    if field.kind == "choice":
        return {"type": "string", "enum": list(field.choices)}
    if field.kind == "by_token":
        return {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", **_bounds(field)},
        }
    but = {"not": {"enum": list(field.refused)}} if field.refused else {}
    return {"type": _TYPES[field.kind], **_bounds(field), **but}


def _bounds(field: Field) -> Schema:
    found: Schema = {}
    if field.low is not None:
        found["exclusiveMinimum" if field.above else "minimum"] = min((field.low, *field.off))
    if field.high is not None:
        found["maximum"] = field.high
    return found


def _object(properties: dict[str, Schema], required: tuple[str, ...], *, more: bool = False, text: str = "") -> Schema:
    described = {"description": text} if text else {}
    return {
        "type": "object",
        **described,
        "properties": properties,
        "required": list(required),
        "additionalProperties": more,
    }


_TEXT: Schema = {"type": "string"}
_NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
_PARTS: Schema = {
    "type": "array",
    "minItems": 1,
    "items": _object({"type": {"const": "text"}, "text": _TEXT}, ("type", "text"), more=True),
}
_CONTENT: Schema = {"anyOf": [_TEXT, _PARTS], "description": "A text, or a list of text parts."}

_PAST_CALL: Schema = _object(
    {
        "id": _TEXT,
        "type": {"const": "function"},
        "function": _object({"name": _TEXT, "arguments": {"type": ["string", "object", "null"]}}, ("name",), more=True),
    },
    ("id", "type", "function"),
    more=True,
)


def _message(role: str, properties: dict[str, Schema], required: tuple[str, ...]) -> Schema:
    every = {"role": {"const": role}, "name": _TEXT, **properties}
    return _object(every, ("role", *required), more=True, text=f"A message with the role {role}.")


MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [
            _message("system", {"content": _CONTENT}, ("content",)),
            _message("developer", {"content": _CONTENT}, ("content",)),
            _message("user", {"content": _CONTENT}, ("content",)),
            _message("assistant", {"content": _CONTENT, "reasoning_content": _TEXT}, ("content",)),
            _message(
                "assistant",
                {"content": {"type": "null"}, "tool_calls": {"type": "array", "minItems": 1, "items": _PAST_CALL}},
                ("tool_calls",),
            ),
            _message("tool", {"content": _CONTENT, "tool_call_id": _TEXT}, ("content",)),
        ]
    },
}

PROMPT: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
    ]
}

NEGATIVE_PROMPT: Schema = {
    "anyOf": [
        _TEXT,
        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
        MESSAGES,
    ]
}

TOKEN_IDS: Schema = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}

STOP: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "maxItems": 4, "items": {"type": "string", "minLength": 1}},
    ]
}

BAD_WORDS: Schema = {
    "type": "array",
    "minItems": 1,
    "maxItems": 1000,
    "items": {"type": "string", "minLength": 1, "maxLength": 1000},
}

STRUCTURED_OUTPUTS: Schema = {
    **_object(
        {
            "regex": {"type": "string", "description": "A regular expression that the whole answer matches."},
            "choice": {"type": "array", "minItems": 1, "items": _TEXT, "description": "The answer is one of these."},
            "grammar": {"type": "string", "description": "A grammar in llguidance's dialect of Lark."},
            "json": {"type": ["object", "boolean", "string"], "description": "A JSON schema, or its text."},
            "json_object": {"const": True, "description": "The answer is a JSON object."},
        },
        (),
    ),
    "minProperties": 1,
    "maxProperties": 1,
}

STREAM_OPTIONS: Schema = _object(
    {
        "include_usage": {
            "type": "boolean",
            "default": False,
            "description": "Adds a last chunk that holds the number of tokens.",
        },
        "continuous_usage_stats": {
            "type": "boolean",
            "default": False,
            "description": "With include_usage: every chunk holds the number of tokens so far.",
        },
        "include_obfuscation": {"type": "boolean", "description": "Accepted, without effect on a local engine."},
    },
    (),
)

MODALITIES: Schema = {"type": "array", "items": {"const": "text"}, "minItems": 1, "maxItems": 1}

_STRICT: Schema = {"type": "boolean", "description": "The schema is enforced whether this is true or false."}

_FUNCTION: Schema = _object(
    {
        "name": _NAME,
        "description": _TEXT,
        "parameters": {"type": "object", "description": "The JSON schema of the arguments, of type object."},
        "strict": _STRICT,
    },
    ("name",),
    more=True,
)

TOOLS: Schema = {
    "type": "array",
    "minItems": 1,
    "items": _object({"type": {"const": "function"}, "function": _FUNCTION}, ("type", "function"), more=True),
}

TOOL_CHOICE: Schema = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        _object({"type": {"const": "function"}, "function": _object({"name": _NAME}, ("name",))}, ("type", "function")),
    ]
}

_JSON_SCHEMA: Schema = _object(
    {
        "name": _NAME,
        "description": _TEXT,
        "schema": {
            "type": ["object", "boolean"],
            "description": "A JSON schema. A keyword that cannot be enforced is refused.",
        },
        "strict": _STRICT,
    },
    ("schema",),
)

RESPONSE_FORMAT: Schema = {
    "anyOf": [
        _object({"type": {"enum": ["text", "json_object"]}}, ("type",)),
        _object({"type": {"const": "json_schema"}, "json_schema": _JSON_SCHEMA}, ("type", "json_schema")),
    ]
}
