"""Requests gone wrong: valid ones, with something changed in the JSON or in its bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

TOOL = {
    "type": "function",
    "function": {
        "name": "roll",
        "description": "Roll dice.",
        "parameters": {
            "type": "object",
            "properties": {"sides": {"type": "integer", "minimum": 2, "maximum": 20}, "how": {"enum": ["a", "b"]}},
            "required": ["sides"],
            "additionalProperties": False,
        },
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "roll", "arguments": '{"sides": 6}'}}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,5}$"},
        "age": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "$defs": {"tag": {"type": "string", "maxLength": 3}},
}

#: Between them, every field; each makes one token.
VALID: list[dict[str, Any]] = [
    {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "temperature": 0.5, "top_p": 0.9, "top_k": 10, "min_p": 0.1, "frequency_penalty": 0.5, "presence_penalty": -0.5,
        "repetition_penalty": 1.1, "logit_bias": {"65": 5, "66": -100}, "n": 2, "seed": 7, "stop": ["a", "\n\n"],
        "max_tokens": 1,
    },
    {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "é🦊"}]}],
        "model": "demo", "logprobs": True, "top_logprobs": 3, "prompt_logprobs": 1,
        "stream": True, "stream_options": {"include_usage": True},
        "max_completion_tokens": 1, "context_length_exceeded_behavior": "error", "separate_reasoning": True,
        "enable_thinking": True, "min_tokens": 1, "ignore_eos": True, "user": "u", "metadata": {"k": "v"},
        "store": False, "service_tier": "auto",
    },
    {
        "messages": [
            {"role": "user", "content": "Roll."},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "4"},
            {"role": "assistant", "content": "It was", "reasoning_content": "Four."},
        ],
        "continue_final_message": True, "include_stop": False, "stop": "x", "max_tokens": 1,
        "chat_template_kwargs": {"enable_thinking": True},
    },
    {
        "messages": [{"role": "user", "content": "Roll."}], "tools": [TOOL], "tool_choice": "auto",
        "parallel_tool_calls": False, "max_tokens": 1,
    },
    {
        "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "who", "schema": SCHEMA, "strict": True}},
    },
    {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 1, "response_format": {"type": "json_object"}},
    {
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
        "reasoning_effort": "low", "bad_words": ["a", "é🦊"], "allowed_token_ids": [65, 66, 300],
        "stop_token_ids": [66], "logprobs": True, "logprob_token_ids": [7, 9], "return_token_ids": True,
        "max_tokens": 1.0, "verbosity": "low",
        "safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h", "modalities": ["text"],
        "prediction": {"type": "content", "content": "x"}, "audio": None, "functions": None,
    },
    *(
        {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 1, "structured_outputs": outputs}
        for outputs in (
            {"regex": "(a|b)+[0-9]{1,3}"}, {"choice": ["yes", "no"]}, {"json": SCHEMA}, {"json_object": True},
            {"grammar": 'start: "<" /[a-z]+/ ">"'},
        )
    ),
]  # fmt: skip

#: The same for the paths of raw prompts and of texts.
VALID_ELSEWHERE: dict[str, list[dict[str, Any]]] = {
    "/v1/completions": [
        {
            "prompt": "Once upon a time", "temperature": 0.5, "top_p": 0.9, "top_k": 10, "min_p": 0.1,
            "frequency_penalty": 0.5, "presence_penalty": -0.5, "repetition_penalty": 1.1, "logit_bias": {"65": 5},
            "n": 1, "best_of": 2, "seed": 7, "stop": ["a", "\n\n"], "max_tokens": 1, "suffix": "",
        },
        {
            "prompt": ["é🦊", [65, 66], "x"], "model": "demo", "echo": True, "logprobs": 3, "prompt_logprobs": 1,
            "max_tokens": 0, "user": "u", "metadata": {"k": "v"}, "return_token_ids": True,
        },
        {
            "prompt": [[65, 66], [67]], "echo": True, "logprobs": 0, "max_tokens": 1, "stream": True, "n": 2,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "min_tokens": 1,
            "ignore_eos": True, "stop_token_ids": [70], "include_stop": False, "separate_reasoning": True,
        },
        {
            "prompt": [65, 66], "max_tokens": 1, "context_length_exceeded_behavior": "error",
            "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        },
    ],
    "/tokenize": [
        {"prompt": "é🦊 <|im_end|>", "add_special_tokens": True, "return_token_strs": True, "model": "demo"},
        {"messages": [{"role": "user", "content": "Roll."}], "tools": [TOOL], "add_generation_prompt": False},
    ],
    "/detokenize": [{"tokens": [65, 2041, 300], "model": "demo"}],
    "/apply_template": [
        {
            "messages": [{"role": "user", "content": "Roll."}, {"role": "assistant", "tool_calls": [CALL]}],
            "tools": [TOOL], "add_generation_prompt": True, "chat_template_kwargs": {"enable_thinking": True},
        },
        {"messages": [{"role": "assistant", "content": "a"}], "continue_final_message": True, "seed": 1},
    ],
}  # fmt: skip


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


#: What no field expects, or what is just beyond its range. Large counts that are valid would only take time.
NASTY: list[Any] = [
    None, True, False, 0, -1, 3, 1.5, 2.0, -0.0, 1e-320, 1e308, 129, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400,
    "", "x", "1", "null", "\x00", "\ud800", "\udfff\ud800", "é" * 50, "🦊", "a" * 3000, "<|im_end|>", "<think>",
    "{{ 1/0 }}", "{% for %}", [], [[]], {}, [None], [1, "a"], {"a": 1}, {"": ""}, {"type": "object"}, {"$ref": "#"},
    {"$ref": "#/nowhere"}, {"type": "string", "pattern": "(" * 20}, {"type": "text"}, {"type": "function"},
    {"role": "user", "content": "x"}, {"not": {}}, {"uniqueItems": True}, {"enum": []}, {"const": "\ud800"},
    {"minLength": 10**9}, {"maxItems": -1}, {"pattern": "a{5000}{5000}"}, {"multipleOf": 0},
    _deep(50), _deep(150), _deep(400),
]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, (*path, index))


def _changed(rng: random.Random, body: dict[str, Any]) -> Any:
    body = json.loads(json.dumps(body))
    path = rng.choice(list(_places(body)))
    if not path:
        return rng.choice(
            [
                NASTY[rng.randrange(len(NASTY))],
                [body],
                {**body, rng.choice(["", "temprature", "\ud800", "n" * 500, "order", "prompt"]): 1},
            ]
        )
    parent = body
    for step in path[:-1]:
        parent = parent[step]
    key = path[-1]
    kind = rng.randrange(5)
    if key in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        parent[key] = rng.choice([0, -1, 1.5, True, "1", [1], {}, 10**400])  # nothing that would make many
    elif kind == 0 and isinstance(parent, dict):
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(["", "x", "type", "\ud800", key + key])] = parent.pop(key)
    elif kind == 2:
        parent[key] = [parent[key]]
    else:
        parent[key] = rng.choice(NASTY)
    return body


def _bytes(rng: random.Random, data: bytes) -> bytes:
    kind = rng.randrange(6)
    at = rng.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 4))) + data[at:]
    if kind == 2:
        return data[:at] + data[at + rng.randint(1, 9) :]
    if kind == 3:
        name = next(name for name in (b'"max_output_tokens"', b'"max_tokens"', b"") if name in data)
        return data.replace(name, name + b": 1, " + name) if name else data
    if kind == 4:
        return (
            data[:at]
            + rng.choice([b"NaN", b"-Infinity", b"1e999", b"\xff", b"\\ud83d", b"[" * 2000, b",", b'"'])
            + data[at:]
        )
    return data.decode().encode(rng.choice(["utf-16", "utf-32-le", "utf-8-sig"]))


def requests(count: int, *, seed: int, valid: list[dict[str, Any]] = VALID) -> Iterator[bytes]:
    """So many bodies, made from valid ones; the same ones for one seed."""
    rng = random.Random(seed)
    for _ in range(count):
        body: Any = rng.choice(valid)
        for _ in range(rng.choice([1, 2, 3, 4, 5])):
            if isinstance(body, dict) and body:
                body = _changed(rng, body)
        data = json.dumps(body).encode()
        yield _bytes(rng, data) if rng.random() < 0.25 else data
