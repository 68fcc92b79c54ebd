"""What the value of each request field may be: one small check a field, raising `FieldError` where it may not.

A check returns the value in the form that the request keeps: NumPy scalars as Python numbers, lists as tuples, the keys
of `logit_bias` as integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

ROLES = ("system", "user", "assistant", "tool")


class FieldError(ValueError):
    """A bad value somewhere inside a field: `path` is what to add to the field's name."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def short(value: Any) -> str:
    """How a value reads in a message: its repr, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out an integer of more than some thousand digits
        text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def _unboxed(value: Any) -> Any:
    """A NumPy or JAX scalar as the Python number it holds; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def check_number(value: Any, low: float, high: float, *, above: bool = False) -> float:
    """A number in [low, high], or in (low, high] where `above`; not a bool, not NaN, not a string of digits."""
    value = _unboxed(value)
    wanted = f"must be above {low:g} and at most {high:g}" if above else f"must be between {low:g} and {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(f"must be a number, got {short(value)}")
    if not (low < value if above else low <= value) or not value <= high:  # NaN fails both
        raise FieldError(f"{wanted}, got {short(value)}")
    return float(value)


def check_integer(value: Any, low: int, high: int | None) -> int:
    """An integer in [low, high], without an upper bound where `high` is None; not a bool, nor a float that is whole."""
    value = _unboxed(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        raise FieldError(f"must be an integer, got {short(value)}; write {int(value)}")
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(f"must be an integer, got {short(value)}")
    if high is None and value < low:
        raise FieldError(f"must be at least {low}, got {short(value)}")
    if high is not None and not low <= value <= high:
        bounds = "a signed 64-bit integer" if high == 2**63 - 1 else f"between {low} and {high}"
        raise FieldError(f"must be {bounds}, got {short(value)}")
    return value


def check_flag(value: Any) -> bool:
    """True or False, and nothing that is merely truthy."""
    value = _unboxed(value)
    if not isinstance(value, bool):
        raise FieldError(f"must be true or false, got {short(value)}")
    return value


def check_text(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise FieldError(f"must be a string, got {short(value)}")
    return value


def check_mapping(value: Any, path: str = "") -> dict[str, Any]:
    """An object, as a new dict."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise FieldError(f"must be an object with string keys, got {short(value)}", path=path)
    return dict(value)


def check_top_k(value: Any) -> int:
    """How many tokens to keep; off is 0, -1 or null, and comes out as 0."""
    try:
        return max(check_integer(value, -1, 128), 0)
    except FieldError:
        raise FieldError(
            f"must be an integer between 1 and 128 (or 0, -1 or null for off), got {short(value)}"
        ) from None


def check_logit_bias(value: Any) -> dict[int, float]:
    """Token ids (integers, or strings of digits as JSON has them) and biases."""
    if not isinstance(value, Mapping):
        raise FieldError(f"must be an object of token ids and biases, got {short(value)}")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        token = _unboxed(key)
        # Digits of other scripts are no JSON client's idea of a number.
        if isinstance(token, str) and token.isascii() and token.isdigit():
            token = int(token)
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise FieldError(f"has the key {short(key)}, which is not a token id (an integer, or a string of digits)")
        try:
            number = check_number(bias, -100, 100)
        except FieldError as bad:
            raise FieldError(str(bad), path=f"[{token}]") from None
        if token in biases:
            raise FieldError(f"names token {token} twice")
        biases[token] = number
    return biases


def check_stop(value: Any) -> str | tuple[str, ...]:
    """A string, or up to four as a tuple; none of them empty."""
    many = isinstance(value, list | tuple)
    stops = tuple(value) if many else (value,)
    if len(stops) > 4:
        raise FieldError(f"must be a string or up to 4 strings, got {len(stops)}")
    for index, stop in enumerate(stops):
        path = f"[{index}]" if many else ""
        if not isinstance(stop, str):
            raise FieldError(f"must be a string{'' if many else ' or up to 4 strings'}, got {short(stop)}", path=path)
        if not stop:
            raise FieldError("must not be an empty string", path=path)
    return stops if many else cast(str, value)


def check_prompt(value: Any) -> str | tuple[int, ...]:
    """A text, or token ids: a list or an array of one axis; neither of them empty."""
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, str | list | tuple):
        raise FieldError(f"must be a text or a list of token ids, got {short(value)}")
    if not value:
        raise FieldError("must not be empty: there would be nothing to continue")
    return value if isinstance(value, str) else tuple(_token_id(item, f"[{i}]") for i, item in enumerate(value))


def _token_id(value: Any, path: str) -> int:
    try:
        return check_integer(value, 0, None)
    except FieldError as bad:
        raise FieldError(str(bad), path=path) from None


def check_messages(value: Any) -> tuple[dict[str, Any], ...]:
    """A non-empty list of messages, each a dict with a known role and text; keys beyond the API's stay as they are."""
    if isinstance(value, str):
        raise FieldError(f"must be a list of messages, got the string {short(value)}")
    if isinstance(value, Mapping) or not isinstance(value, Sequence):
        raise FieldError(f"must be a list of messages, got {short(value)}")
    if not value:
        raise FieldError("must not be empty: give at least one message")
    return tuple(_message(message, f"[{index}]") for index, message in enumerate(value))


def _message(value: Any, path: str) -> dict[str, Any]:
    message = check_mapping(value, path)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise FieldError(f"must be one of {', '.join(ROLES)}, got {short(role)}", path=path + ".role")
    calls = message.get("tool_calls")
    if calls is not None:
        message["tool_calls"] = _past_calls(calls, role, path + ".tool_calls")
    if content is None:
        if role != "assistant" or not calls:
            raise FieldError("must be text or a list of text parts, got nothing", path=path + ".content")
    elif isinstance(content, list | tuple):
        message["content"] = [_part(part, f"{path}.content[{i}]") for i, part in enumerate(content)]
    elif not isinstance(content, str):
        raise FieldError(f"must be text or a list of text parts, got {short(content)}", path=path + ".content")
    for key in ("name", "tool_call_id", "reasoning_content"):
        if message.get(key) is not None and not isinstance(message[key], str):
            raise FieldError(f"must be a string, got {short(message[key])}", path=f"{path}.{key}")
    return message


def _part(value: Any, path: str) -> dict[str, Any]:
    part = check_mapping(value, path)
    if part.get("type") != "text":
        raise FieldError(
            f"must be 'text' (this engine reads nothing else), got {short(part.get('type'))}", path=path + ".type"
        )
    if not isinstance(part.get("text"), str):
        raise FieldError(f"must be a string, got {short(part.get('text'))}", path=path + ".text")
    return part


def _past_calls(value: Any, role: str, path: str) -> list[dict[str, Any]]:
    if role != "assistant":
        raise FieldError(f"belongs to an assistant's message, not to the role {role!r}", path=path)
    if not isinstance(value, list | tuple):
        raise FieldError(f"must be a list of tool calls, got {short(value)}", path=path)
    calls = []
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        call = check_mapping(item, here)
        function = check_mapping(call.get("function"), here + ".function")
        for key, what in (("name", "a string"), ("arguments", "a string that holds a JSON object")):
            if not isinstance(function.get(key), str):
                raise FieldError(f"must be {what}, got {short(function.get(key))}", path=f"{here}.function.{key}")
        calls.append({**call, "function": function})
    return calls


def check_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """A non-empty list of function definitions."""
    if not isinstance(value, list | tuple):
        raise FieldError(f"must be a list of function tools, got {short(value)}")
    if not value:
        raise FieldError("must not be empty: leave the field out to use no tools")
    tools, names = [], set()
    for index, item in enumerate(value):
        path = f"[{index}]"
        tool = check_mapping(item, path)
        if tool.get("type") != "function":
            raise FieldError(f"must be 'function', got {short(tool.get('type'))}", path=path + ".type")
        function = check_mapping(tool.get("function"), path + ".function")
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise FieldError(f"must be a function's name, got {short(name)}", path=path + ".function.name")
        if name in names:
            raise FieldError(f"{name!r} is defined twice", path=path + ".function.name")
        names.add(name)
        if function.get("description") is not None and not isinstance(function["description"], str):
            raise FieldError(
                f"must be a string, got {short(function['description'])}", path=path + ".function.description"
            )
        if function.get("parameters") is not None:
            check_mapping(function["parameters"], path + ".function.parameters")
        tools.append({**tool, "function": function})
    return tuple(tools)


def check_tool_choice(value: Any) -> str | dict[str, Any]:
    """none, auto, required, or one function by name."""
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return value
    named = (
        isinstance(value, Mapping) and value.get("type") == "function" and isinstance(value.get("function"), Mapping)
    )
    if not named or not isinstance(value["function"].get("name"), str):
        wanted = "'none', 'auto', 'required' or {'type': 'function', 'function': {'name': ...}}"
        raise FieldError(f"must be {wanted}, got {short(value)}")
    return {"type": "function", "function": {"name": value["function"]["name"]}}


def check_response_format(value: Any) -> dict[str, Any]:
    """text, json_object, or json_schema with a schema."""
    form = check_mapping(value)
    kind = form.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise FieldError(f"must be 'text', 'json_object' or 'json_schema', got {short(kind)}", path=".type")
    if kind == "json_schema":
        schema = check_mapping(form.get("json_schema"), ".json_schema")
        if not isinstance(schema.get("schema"), Mapping | bool):
            raise FieldError(f"must be a JSON schema, got {short(schema.get('schema'))}", path=".json_schema.schema")
    return form


def check_stream_options(value: Any) -> dict[str, bool]:
    """include_usage, and nothing else."""
    options = check_mapping(value)
    for key, flag in options.items():
        if key != "include_usage":
            raise FieldError("is not a stream option; include_usage is the only one", path=f".{key}")
        if not isinstance(flag, bool):
            raise FieldError(f"must be true or false, got {short(flag)}", path=".include_usage")
    return options
