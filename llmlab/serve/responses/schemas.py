"""The JSON schemas of the fields of a Responses request that have parts; they say the same as the checks."""

from __future__ import annotations

from llmlab.protocol.fields import FIELDS
from llmlab.protocol.schemas import Schema

_TEXT: Schema = {"type": "string"}
_NULL: Schema = {"type": "null"}
_NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}


def _object(properties: dict[str, Schema], *required: str, more: bool = False, text: str = "") -> Schema:
    """An object, in which null stands for a property that is absent, unless it is required."""
    described = {"description": text} if text else {}
    found = {name: one if name in required else {"anyOf": [one, _NULL]} for name, one in properties.items()}
    return {
        "type": "object",
        **described,
        "properties": found,
        "required": list(required),
        "additionalProperties": more,
    }


def _choice(*choices: str) -> Schema:
    return {"type": "string", "enum": list(choices)}


_PART: Schema = {
    "anyOf": [
        _object({"type": _choice("input_text", "output_text", "text"), "text": _TEXT}, "type", "text", more=True),
        _object({"type": {"const": "refusal"}, "refusal": _TEXT}, "type", "refusal", more=True),
    ]
}
_CONTENT: Schema = {
    "anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": _PART}],
    "description": "A text, or a list of text parts.",
}
_THOUGHTS: Schema = {"type": "array", "items": _object({"text": _TEXT}, "text", more=True)}

INPUT: Schema = {
    "anyOf": [
        _TEXT,
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    _object(
                        {
                            "type": {"const": "message"},
                            "role": _choice("user", "assistant", "system", "developer"),
                            "content": _CONTENT,
                        },
                        "role",
                        "content",
                        more=True,
                        text="A message.",
                    ),
                    _object(
                        {"type": {"const": "reasoning"}, "content": _THOUGHTS, "summary": _THOUGHTS},
                        "type",
                        more=True,
                        text="Reasoning of an earlier answer; of `content` and `summary`, the first that has text.",
                    ),
                    _object(
                        {"type": {"const": "function_call"}, "call_id": _TEXT, "name": _TEXT, "arguments": _TEXT},
                        "type",
                        "call_id",
                        "name",
                        more=True,
                        text="A function call of an earlier answer.",
                    ),
                    _object(
                        {"type": {"const": "function_call_output"}, "call_id": _TEXT, "output": _CONTENT},
                        "type",
                        "output",
                        more=True,
                        text="What a function returned.",
                    ),
                ]
            },
        },
    ]
}

_STRICT: Schema = {"type": "boolean", "description": "The schema is enforced whether this is true or false."}

TOOLS: Schema = {
    "type": "array",
    "items": _object(
        {
            "type": {"const": "function"},
            "name": _NAME,
            "description": _TEXT,
            "parameters": {"type": "object", "description": "The JSON schema of the arguments, of type object."},
            "strict": _STRICT,
            "defer_loading": {"const": False},
            "async": {"const": False},
            "allowed_callers": {"const": ["direct"]},
        },
        "type",
        "name",
    ),
}

TOOL_CHOICE: Schema = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        _object({"type": {"const": "function"}, "name": _TEXT}, "type", "name"),
        _object(
            {
                "type": {"const": "allowed_tools"},
                "mode": _choice("auto", "required"),
                "tools": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object({"type": {"const": "function"}, "name": _TEXT}, "type", "name", more=True),
                },
            },
            "type",
            "mode",
            "tools",
        ),
    ]
}

TEXT: Schema = _object(
    {
        "format": {
            "anyOf": [
                _object({"type": _choice("text", "json_object")}, "type"),
                _object(
                    {
                        "type": {"const": "json_schema"},
                        "name": _NAME,
                        "description": _TEXT,
                        "schema": {
                            "type": ["object", "boolean"],
                            "description": "A JSON schema. A keyword that cannot be enforced is refused.",
                        },
                        "strict": _STRICT,
                    },
                    "type",
                    "schema",
                ),
            ]
        },
        "verbosity": _choice(*FIELDS["verbosity"].choices),
    }
)

_SUMMARY = _choice("auto", "concise", "detailed")
REASONING: Schema = _object(
    {
        "effort": _choice(*FIELDS["reasoning_effort"].choices),
        "summary": _SUMMARY,
        "generate_summary": _SUMMARY,
        "context": {"const": "auto"},
        "mode": {"const": "standard"},
    }
)

STREAM_OPTIONS: Schema = _object({"include_obfuscation": {"type": "boolean"}})
CACHE_OPTIONS: Schema = _object(
    {
        "mode": _choice("implicit", "explicit"),
        "ttl": _choice("30m", "12h"),
        "prewarm": {"const": False},
        "comparison_response_id": _NULL,
    }
)
METADATA: Schema = {"type": "object", "additionalProperties": _TEXT}


def includes(*values: str) -> Schema:
    """A list of these values."""
    return {"type": "array", "items": _choice(*values)}
