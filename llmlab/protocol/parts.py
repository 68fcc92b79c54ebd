"""Checks of the request fields that have parts: messages, tools, tool_choice, response_format, stream_options.

A check returns new plain values, or raises `FieldError` with the path of the part that is wrong. Keys that the API does
not know are passed to the chat template where templates read them (messages, tools), and are errors elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.errors import short
from llmlab.protocol.checks import (
    FieldError,
    check_flag,
    check_mapping,
    check_object,
    check_text,
    check_token_ids,
)

ROLES = ("system", "developer", "user", "assistant", "tool")

#: What `stream_options` may hold. The last has no effect: it is about padding against eavesdroppers on a network.
STREAM_OPTIONS = ("include_usage", "continuous_usage_stats", "include_obfuscation")

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def check_messages(value: Any) -> tuple[dict[str, Any], ...]:
    """A non-empty list of messages: dicts, or the message objects of the `openai` package."""
    if isinstance(value, str):
        raise FieldError(f"must be a list of messages, got the string {short(value)}")
    if isinstance(value, Mapping) or not isinstance(value, Sequence):
        raise FieldError(f"must be a list of messages, got {short(value)}")
    if not value:
        raise FieldError("must not be empty: give at least one message")
    return tuple(_message(message, f"[{index}]") for index, message in enumerate(value))


def check_negative_prompt(value: Any) -> str | tuple[int, ...] | tuple[dict[str, Any], ...]:
    """A text, which may be empty; token ids; or messages."""
    if isinstance(value, str):
        return check_text(value)
    first = value[0] if isinstance(value, list | tuple) and value else None
    if isinstance(first, Mapping) or hasattr(first, "model_dump"):
        return check_messages(value)
    return check_token_ids(value, "a text, a list of token ids or a list of messages")


def _message(value: Any, path: str) -> dict[str, Any]:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", exclude_unset=True)
    # A key that is null counts as absent, as everywhere in the API; a template may ask whether it is there.
    message = {key: inner for key, inner in check_object(value, path).items() if inner is not None}
    role, calls = message.get("role"), message.pop("tool_calls", None)
    if role not in ROLES:
        raise FieldError(f"must be one of {', '.join(ROLES)}, got {short(role)}", path=path + ".role")
    for key in ("name", "tool_call_id", "reasoning_content"):
        if key in message:
            check_text(message[key], f"{path}.{key}")
    if calls is not None and (made := _past_calls(calls, role, path + ".tool_calls")):
        message["tool_calls"] = made
    message["content"] = _content(message, path + ".content")
    return message


def _content(message: Mapping[str, Any], path: str) -> str | list[dict[str, Any]] | None:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        return [_part(part, f"{path}[{index}]") for index, part in enumerate(content)]
    said_otherwise = message.get("tool_calls") or message.get("reasoning_content")
    if content is None and message["role"] == "assistant" and said_otherwise:
        return None
    found = "nothing" if content is None else short(content)
    raise FieldError(f"must be text or a list of text parts, got {found}", path=path)


def _part(value: Any, path: str) -> dict[str, Any]:
    part = check_mapping(value, path)
    if part.get("type") != "text":
        raise FieldError(
            f"must be 'text' (this engine reads nothing else), got {short(part.get('type'))}", path=path + ".type"
        )
    check_text(part.get("text"), path + ".text")
    return part


def _past_calls(value: Any, role: str, path: str) -> list[dict[str, Any]]:
    if role != "assistant":
        raise FieldError(f"belongs to an assistant's message, not to the role {role!r}", path=path)
    if not isinstance(value, list):
        raise FieldError(f"must be a list of tool calls, got {short(value)}", path=path)
    return [_past_call(call, f"{path}[{index}]") for index, call in enumerate(value)]


def _past_call(value: Any, path: str) -> dict[str, Any]:
    call = check_mapping(value, path)
    if call.get("type", "function") != "function":
        raise FieldError(f"must be 'function', got {short(call['type'])}", path=path + ".type")
    if call.get("id") is not None:
        check_text(call["id"], path + ".id")
    function = check_mapping(call.get("function"), path + ".function")
    check_text(function.get("name"), path + ".function.name")
    arguments = _past_arguments(function.get("arguments"), path + ".function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}


def _past_arguments(value: Any, path: str) -> str:
    """The arguments of an earlier call as JSON text: `{}` where there are none, and an object as its text.

    Text that is not JSON stays as it is: a model may have been cut off while it wrote it.
    """
    if value is None or (isinstance(value, str) and value.strip() in ("", "null")):
        return "{}"
    if isinstance(value, Mapping):
        return json.dumps(check_object(value, path), ensure_ascii=False)
    if not isinstance(value, str):
        raise FieldError(f"must be a string that holds a JSON object, got {short(value)}", path=path)
    check_text(value, path)
    try:
        inside = [json.loads(value)]
    except (ValueError, RecursionError):
        return value
    # A chat template gets the object, and an escape in the text may stand for half of a surrogate pair.
    while inside:
        part = inside.pop()
        if isinstance(part, str):
            check_text(part, path)
        elif isinstance(part, dict):
            inside += [*part, *part.values()]
        elif isinstance(part, list):
            inside += part
    return value


def check_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """A non-empty list of function definitions with different names."""
    if not isinstance(value, list | tuple):
        raise FieldError(f"must be a list of function tools, got {short(value)}")
    if not value:
        raise FieldError("must not be empty: leave the field out to use no tools")
    tools: list[dict[str, Any]] = []
    for index, item in enumerate(value):
        tool, path = _tool(item, f"[{index}]"), f"[{index}].function.name"
        name = tool["function"]["name"]
        if any(other["function"]["name"] == name for other in tools):
            raise FieldError(f"{name!r} is defined twice", path=path)
        tools.append(tool)
    return tuple(tools)


def _tool(value: Any, path: str) -> dict[str, Any]:
    tool = check_object(value, path)
    if tool.get("type") != "function":
        raise FieldError(f"must be 'function', got {short(tool.get('type'))}", path=path + ".type")
    path += ".function"
    function = {key: inner for key, inner in check_mapping(tool.get("function"), path).items() if inner is not None}
    _check_name(function.get("name"), path + ".name")
    if "description" in function:
        check_text(function["description"], path + ".description")
    if "strict" in function:
        _flag(function["strict"], path + ".strict")
    path += ".parameters"
    kind = check_mapping(function.get("parameters", {}), path).get("type", "object")
    if "object" not in (kind if isinstance(kind, list) else [kind]):
        raise FieldError(f"must be 'object' (a call's arguments are one), got {short(kind)}", path=path + ".type")
    return {**tool, "function": function}


def check_tool_choice(value: Any) -> str | dict[str, Any]:
    """none, auto, required, or one function, by its name."""
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return value
    function = value.get("function") if isinstance(value, Mapping) and value.get("type") == "function" else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        wanted = "'none', 'auto', 'required' or {'type': 'function', 'function': {'name': ...}}"
        raise FieldError(f"must be {wanted}, got {short(value)}")
    _known(value, ("type", "function"), "")
    _known(function, ("name",), ".function")
    return {"type": "function", "function": {"name": function["name"]}}


def check_response_format(value: Any) -> dict[str, Any]:
    """text, json_object, or json_schema with a schema, which is enforced whether or not it is strict."""
    form = {key: inner for key, inner in check_object(value).items() if inner is not None}
    kind = form.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise FieldError(f"must be 'text', 'json_object' or 'json_schema', got {short(kind)}", path=".type")
    if kind != "json_schema":
        _known(form, ("type",), "", hint="; a schema belongs to the type json_schema" if "schema" in form else "")
        return form
    _known(form, ("type", "json_schema"), "")
    named = {k: v for k, v in check_mapping(form.get("json_schema"), ".json_schema").items() if v is not None}
    _known(named, ("name", "description", "schema", "strict"), ".json_schema")
    if "name" in named:
        _check_name(named["name"], ".json_schema.name")
    if "description" in named:
        check_text(named["description"], ".json_schema.description")
    if "strict" in named:
        _flag(named["strict"], ".json_schema.strict")
    if not isinstance(named.get("schema"), dict | bool):
        raise FieldError(f"must be a JSON schema, got {short(named.get('schema'))}", path=".json_schema.schema")
    return {"type": kind, "json_schema": named}


def check_structured_outputs(value: Any) -> dict[str, Any]:
    """One of regex, choice, grammar, json and json_object; what they hold is compiled with the model's vocabulary."""
    outputs = {key: inner for key, inner in check_object(value).items() if inner is not None}
    kinds = ("regex", "choice", "grammar", "json", "json_object")
    _known(outputs, kinds, "")
    if len(outputs) != 1:
        raise FieldError(f"must have one of {', '.join(kinds)}, got {' and '.join(outputs) or 'none'}")
    choice = outputs.get("choice", [""])
    if not isinstance(choice, list | tuple) or not choice or not all(isinstance(one, str) for one in choice):
        raise FieldError(f"must be a list of texts, got {short(choice)}", path=".choice")
    if outputs.get("json_object", True) is not True:
        raise FieldError(f"must be true, got {short(outputs['json_object'])}", path=".json_object")
    return outputs


def check_bad_words(value: Any) -> tuple[str, ...]:
    """A list of up to 1,000 texts of up to 1,000 characters; none of them empty."""
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 1000:
        raise FieldError(f"must be a list of 1 to 1000 texts, got {short(value)}")
    for index, word in enumerate(value):
        if not check_text(word, f"[{index}]") or len(word) > 1000:
            raise FieldError(f"must be a text of 1 to 1000 characters, got {short(word)}", path=f"[{index}]")
    return tuple(value)


def check_stream_options(value: Any) -> dict[str, bool]:
    """The options of `STREAM_OPTIONS`, each true or false."""
    options = {key: flag for key, flag in check_mapping(value).items() if flag is not None}
    for key, flag in options.items():
        if key not in STREAM_OPTIONS:
            raise FieldError(f"is not a stream option; they are {', '.join(STREAM_OPTIONS)}", path=f".{key}")
        _flag(flag, f".{key}")
    if options.get("continuous_usage_stats") and not options.get("include_usage"):
        raise FieldError("needs include_usage=true", path=".continuous_usage_stats")
    return options


def check_modalities(value: Any) -> tuple[str, ...]:
    """["text"]: what this engine writes."""
    if not isinstance(value, list | tuple) or list(value) != ["text"]:
        raise FieldError(f"must be ['text'] (this engine writes nothing else), got {short(value)}")
    return ("text",)


def _check_name(value: Any, path: str) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise FieldError(f"must be a name of up to 64 letters, digits, _ and -, got {short(value)}", path=path)


def _flag(value: Any, path: str) -> None:
    try:
        check_flag(value)
    except FieldError as bad:
        raise FieldError(str(bad), path=path) from None


def _known(value: Mapping[str, Any], keys: tuple[str, ...], path: str, *, hint: str = "") -> None:
    for key in value:
        if key not in keys:
            raise FieldError(f"is unknown here (known: {', '.join(keys)}){hint}", path=f"{path}.{key}")
