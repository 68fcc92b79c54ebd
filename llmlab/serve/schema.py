"""The request and the responses as JSON schemas, for the OpenAPI page.

What a field may be is checked by `ChatRequest`; this says the same to readers and to tools. A test holds the two
together, at every bound.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _number(low: float, high: float, default: float, text: str, *, above: bool = False) -> Schema:
    bottom = {"exclusiveMinimum": low} if above else {"minimum": low}
    return {"type": "number", **bottom, "maximum": high, "default": default, "description": text}


def _integer(low: int, high: int | None, text: str, **more: Any) -> Schema:
    top = {} if high is None else {"maximum": high}
    return {"type": "integer", "minimum": low, **top, **more, "description": text}


def _flag(default: bool | None, text: str) -> Schema:
    said = {} if default is None else {"default": default}
    return {"type": "boolean", **said, "description": text}


def _one_of(values: tuple[str, ...], default: str | None, text: str) -> Schema:
    said = {} if default is None else {"default": default}
    return {"type": "string", "enum": list(values), **said, "description": text}


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
_SAID: Schema = {"anyOf": [_TEXT, _PARTS], "description": "A text, or a list of text parts."}

_PAST_CALL: Schema = _object(
    {
        "id": _TEXT,
        "type": {"const": "function"},
        "function": _object({"name": _TEXT, "arguments": {"type": "string"}}, ("name", "arguments"), more=True),
    },
    ("id", "type", "function"),
    more=True,
)


def _message(role: str, properties: dict[str, Schema], required: tuple[str, ...]) -> Schema:
    said = {"role": {"const": role}, "name": _TEXT, **properties}
    return _object(said, ("role", *required), more=True, text=f"What the {role} said.")


_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "description": "The conversation. Keys that the API does not know go to the model's chat template.",
    "items": {
        "anyOf": [
            _message("system", {"content": _SAID}, ("content",)),
            _message("user", {"content": _SAID}, ("content",)),
            _message("assistant", {"content": _SAID, "reasoning_content": _TEXT}, ("content",)),
            _message(
                "assistant",
                {"content": {"type": "null"}, "tool_calls": {"type": "array", "minItems": 1, "items": _PAST_CALL}},
                ("tool_calls",),
            ),
            _message("tool", {"content": _SAID, "tool_call_id": _TEXT}, ("content",)),
        ]
    },
}

_FUNCTION: Schema = _object(
    {
        "name": _NAME,
        "description": _TEXT,
        "parameters": {"type": "object", "description": "The JSON schema of the arguments, of type object."},
        "strict": {"type": "boolean", "description": "Enforced alike, true or false."},
    },
    ("name",),
    more=True,
)

_JSON_SCHEMA: Schema = _object(
    {
        "name": _NAME,
        "description": _TEXT,
        "schema": {"type": ["object", "boolean"], "description": "A keyword that cannot be enforced is a 400."},
        "strict": {"type": "boolean", "description": "Enforced alike, true or false."},
    },
    ("schema",),
)

_FORMATS: Schema = {
    "description": "What the answer has to be; it starts after the reasoning ends.",
    "anyOf": [
        _object({"type": {"enum": ["text", "json_object"]}}, ("type",)),
        _object({"type": {"const": "json_schema"}, "json_schema": _JSON_SCHEMA}, ("type", "json_schema")),
    ],
}

#: Every field of a request, in a reader's order.
FIELDS: dict[str, Schema] = {
    "messages": _MESSAGES,
    "model": {"type": "string", "description": "The loaded model's name, which is also the default."},
    "max_completion_tokens": _integer(
        1, None, "Tokens that may be made, reasoning included; by default what the context has left."
    ),
    "max_tokens": _integer(1, None, "Another name of max_completion_tokens."),
    "context_length_exceeded_behavior": _one_of(
        ("truncate", "error"), "truncate", "truncate lowers max_tokens to what the context has left; error refuses."
    ),
    "n": _integer(1, 128, "How many answers.", default=1),
    "seed": _integer(
        -(2**63), 2**63 - 1, "The same seed gives the same answers. Drawn if absent, and in the response."
    ),
    "stop": {
        "description": "The answer ends with the first of these, which is part of it (see include_stop).",
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "maxItems": 4, "items": {"type": "string", "minLength": 1}},
        ],
    },
    "temperature": _number(0, 2, 1, "Under 1e-5: the likeliest token."),
    "top_p": _number(0, 1, 1, "Keep the likeliest tokens up to this mass.", above=True),
    "top_k": _integer(-1, 128, "Keep so many tokens; 0 and -1 keep all.", default=0),
    "min_p": _number(0, 1, 0, "Drop tokens less likely than this share of the likeliest."),
    "frequency_penalty": _number(-2, 2, 0, "Taken off the logit for each time a token was generated."),
    "presence_penalty": _number(-2, 2, 0, "Taken off the logit of a token that was generated."),
    "repetition_penalty": _number(
        0, 2, 1, "Divides positive logits, multiplies negative ones, of tokens in prompt and output.", above=True
    ),
    "logit_bias": {
        "type": "object",
        "description": "Token ids and what is added to their logits, before anything else.",
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    },
    "logprobs": _flag(
        False, "The log-probability of each token: the model's own, and that of the law it was drawn from."
    ),
    "top_logprobs": _integer(0, 20, "So many alternatives for each token; needs logprobs."),
    "stream": _flag(False, "Server-sent events, as the tokens are made."),
    "stream_options": _object(
        {"include_usage": _flag(False, "One more chunk at the end, with the usage.")}, (), text="Needs stream."
    ),
    "tools": {
        "type": "array",
        "minItems": 1,
        "description": "Functions that the model may call.",
        "items": _object({"type": {"const": "function"}, "function": _FUNCTION}, ("type", "function"), more=True),
    },
    "tool_choice": {
        "description": "Whether a tool may or must be called; a call that must be is enforced. Needs tools.",
        "anyOf": [
            {"enum": ["none", "auto", "required"]},
            _object(
                {"type": {"const": "function"}, "function": _object({"name": _NAME}, ("name",))}, ("type", "function")
            ),
        ],
    },
    "parallel_tool_calls": _flag(True, "False: the answer ends with the first call. Needs tools."),
    "response_format": _FORMATS,
    "separate_reasoning": _flag(False, "Put the reasoning in reasoning_content; by default it is part of the content."),
    "enable_thinking": _flag(None, "The model's thinking switch; a model that has none refuses."),
    "include_stop": _flag(True, "Extension. False: the stop sequence is left out of the answer."),
    "chat_template_kwargs": {"type": "object", "description": "Extension. Given to the model's chat template."},
    "continue_final_message": _flag(False, "Extension. Go on with the last message, which is the assistant's."),
    "min_tokens": _integer(0, None, "Extension. No end before so many tokens.", default=0),
    "ignore_eos": _flag(False, "Extension. Go on after an end token."),
    "user": {"type": "string", "description": "Accepted, without effect."},
    "metadata": {"type": "object", "description": "Accepted, without effect."},
    "store": _flag(None, "Accepted, without effect."),
    "service_tier": {"type": "string", "description": "Accepted, without effect."},
}


def _or_null(field: Schema) -> Schema:
    if "anyOf" in field:
        return {**field, "anyOf": [*field["anyOf"], {"type": "null"}]}
    allowed = {"enum": [*field["enum"], None]} if "enum" in field else {}
    return {**field, "type": [field["type"], "null"], **allowed}


def request() -> Schema:
    """The body of `POST /v1/chat/completions`. Null stands for a field's default, but not for messages."""
    fields = {name: field if name == "messages" else _or_null(field) for name, field in FIELDS.items()}
    return _object(fields, ("messages",), text="A chat-completion request; a field that is not known is an error.")


_COUNT: Schema = {"type": "integer", "minimum": 0}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_MAYBE_NUMBER: Schema = {"type": ["number", "null"]}
_MAYBE_COUNT: Schema = {"type": ["integer", "null"]}
_REASON: Schema = {"enum": ["stop", "length", "tool_calls"]}

_TOKEN: dict[str, Schema] = {
    "token": {"type": "string", "description": "The bytes read as UTF-8, with U+FFFD where they are none."},
    "token_id": _COUNT,
    "bytes": {"type": ["array", "null"], "items": {"type": "integer", "minimum": 0, "maximum": 255}},
    "logprob": {
        **_MAYBE_NUMBER,
        "description": "Of the model's own law, before every stage; -9999 for minus infinity.",
    },
    "sampling_logprob": {**_MAYBE_NUMBER, "description": "Of the law that the token was drawn from."},
}
_ENTRY: dict[str, Schema] = {
    **_TOKEN,
    "rank": {**_MAYBE_COUNT, "description": "In the model's own law, from 1."},
    "entropy": {**_MAYBE_NUMBER, "description": "Of the model's own law, in nats."},
    "kept": {**_MAYBE_COUNT, "description": "How many tokens the law drawn from could have given."},
    "lead": {**_COUNT, "description": "Bytes at the token's start that lie outside the text."},
    "overhang": {**_COUNT, "description": "Bytes at the token's end that lie outside the text."},
    "top_logprobs": {"type": "array", "items": _object(_TOKEN, tuple(_TOKEN), more=True)},
}
_LIST: Schema = {"type": "array", "items": _object(_ENTRY, tuple(_ENTRY), more=True)}
_LOGPROBS: Schema = {
    "type": ["object", "null"],
    "properties": {"content": _LIST, "reasoning": _LIST, "tool_calls": _LIST},
    "required": ["content"],
}
_CALL: Schema = _object(
    {
        "id": _TEXT,
        "type": {"const": "function"},
        "function": _object({"name": _TEXT, "arguments": _TEXT}, ("name", "arguments")),
    },
    ("id", "type", "function"),
)
_CALL_DELTA: Schema = _object(
    {
        "index": _COUNT,
        "id": _TEXT,
        "type": {"const": "function"},
        "function": _object({"name": _TEXT, "arguments": _TEXT}, ("arguments",)),
    },
    ("index", "function"),
)
_SPOKEN: dict[str, Schema] = {
    "role": {"const": "assistant"},
    "content": _MAYBE_TEXT,
    "reasoning_content": _MAYBE_TEXT,
    "refusal": {"type": "null"},
}
_USAGE: Schema = _object(
    {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
    ("prompt_tokens", "completion_tokens", "total_tokens"),
)


def _envelope(kind: str, choice: Schema) -> dict[str, Schema]:
    return {
        "id": {"type": "string", "pattern": "^chatcmpl-"},
        "object": {"const": kind},
        "created": _COUNT,
        "model": _TEXT,
        "system_fingerprint": _TEXT,
        "seed": {"type": "integer", "description": "Extension: the seed that was used."},
        "choices": {"type": "array", "items": choice},
    }


def completion() -> Schema:
    """The whole answer."""
    message = _object({**_SPOKEN, "tool_calls": {"type": "array", "items": _CALL}}, ("role", "content"))
    choice = _object(
        {"index": _COUNT, "message": message, "finish_reason": _REASON, "logprobs": _LOGPROBS},
        ("index", "message", "finish_reason", "logprobs"),
    )
    properties = {**_envelope("chat.completion", choice), "usage": _USAGE}
    return _object(properties, tuple(properties))


def chunk() -> Schema:
    """What each event of a stream holds, but for the last, which is `[DONE]`."""
    delta = _object({**_SPOKEN, "tool_calls": {"type": "array", "items": _CALL_DELTA}}, ())
    choice = _object(
        {
            "index": _COUNT,
            "delta": delta,
            "finish_reason": {"enum": [*_REASON["enum"], None]},
            "logprobs": _LOGPROBS,
        },
        ("index", "delta", "finish_reason", "logprobs"),
    )
    properties = {**_envelope("chat.completion.chunk", choice), "usage": {"anyOf": [_USAGE, {"type": "null"}]}}
    return _object(properties, ("id", "object", "created", "model", "choices"))


def event() -> Schema:
    """An event of a stream."""
    inside = {"anyOf": [{"$ref": "#/components/schemas/ChatCompletionChunk"}, {"$ref": "#/components/schemas/Error"}]}
    data: Schema = {
        "description": "A chunk, or an error that came up under way, as JSON; at the end [DONE].",
        "anyOf": [
            {"type": "string", "contentMediaType": "application/json", "contentSchema": inside},
            {"const": "[DONE]"},
        ],
    }
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def error() -> Schema:
    """Every answer that is not a success; in a stream an event."""
    inside = {
        "message": _TEXT,
        "type": _TEXT,
        "param": {**_MAYBE_TEXT, "description": "The field to blame; body where it is the body as a whole."},
        "code": _MAYBE_TEXT,
    }
    return _object({"error": _object(inside, tuple(inside))}, ("error",))


def model() -> Schema:
    """A loaded model."""
    properties: dict[str, Schema] = {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": _COUNT,
        "owned_by": _TEXT,
        "context_length": {**_MAYBE_COUNT, "description": "Extension: tokens of prompt and answer together."},
        "dtype": {**_MAYBE_TEXT, "description": "Extension."},
    }
    return _object(properties, ("id", "object", "created", "owned_by"))


def models() -> Schema:
    """The list of what is loaded."""
    return _object({"object": {"const": "list"}, "data": {"type": "array", "items": model()}}, ("object", "data"))


def health() -> Schema:
    """That the server is there."""
    properties: dict[str, Schema] = {"status": {"const": "ok"}, "model": _TEXT, "requests": _COUNT}
    return _object(properties, tuple(properties))
