"""The fields of a Responses request that have parts, as checks and as what they are in a chat request.

A check returns new plain values, or raises `FieldError` with the path of the part that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmlab.errors import short
from llmlab.protocol import parts
from llmlab.protocol.checks import FieldError, check_choice, check_flag, check_mapping, check_object, check_text
from llmlab.protocol.fields import FIELDS

#: What may be included in an answer. The others are about tools, inputs and encryption that there are none of here.
LOGPROBS = "message.output_text.logprobs"
INCLUDES = (
    LOGPROBS,
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
EFFORTS = FIELDS["reasoning_effort"].choices
SUMMARIES = ("auto", "concise", "detailed")
VERBOSITIES = FIELDS["verbosity"].choices

#: Keys of a function tool that the engine does nothing about, and the only value that asks for nothing.
_NEUTRAL: Mapping[str, Any] = {"defer_loading": False, "async": False, "allowed_callers": ["direct"]}
_FUNCTION = ("name", "description", "parameters", "strict")


def refusal(reason: str, *, neutral: tuple[Any, ...] = ()) -> Callable[[Any], Any]:
    """Returns the check of a field that cannot be honoured, except for values that ask for nothing."""

    def check(value: Any) -> Any:
        if any(value == one and type(value) is type(one) for one in neutral):
            return value
        raise FieldError(f"is not supported: {reason}")

    return check


def check_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """A list of functions, whose fields stand beside `type`; it may be empty."""
    if not isinstance(value, list | tuple):
        raise FieldError(f"must be a list of function tools, got {short(value)}")
    tools = tuple(_tool(tool, f"[{index}]") for index, tool in enumerate(value))
    if tools:
        try:
            parts.check_tools(chat_tools(tools))
        except FieldError as bad:
            raise FieldError(str(bad), path=bad.path.replace(".function", "", 1)) from None
    return tools


def _tool(value: Any, path: str) -> dict[str, Any]:
    tool = {key: inner for key, inner in check_object(value, path).items() if inner is not None}
    kind = tool.pop("type", None)
    if kind != "function":
        hint = " (there are no other tools here)" if isinstance(kind, str) else ""
        raise FieldError(f"must be 'function'{hint}, got {short(kind)}", path=f"{path}.type")
    if "function" in tool:
        raise FieldError("belongs to the chat's tools; here its fields stand beside `type`", path=f"{path}.function")
    for key, inner in tool.items():
        if key in _FUNCTION or (key in _NEUTRAL and inner == _NEUTRAL[key]):
            continue
        raise FieldError(f"is not supported, got {short(inner)} (known: {', '.join(_FUNCTION)})", path=f"{path}.{key}")
    return {"type": "function", **{key: tool[key] for key in _FUNCTION if key in tool}}


def chat_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns tools as a chat request has them."""
    return [{"type": "function", "function": {key: tool[key] for key in _FUNCTION if key in tool}} for tool in tools]


def check_tool_choice(value: Any) -> str | dict[str, Any]:
    """none, auto, required, one function by its name, or some of the functions as allowed tools."""
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return value
    given = check_object(value) if isinstance(value, Mapping) else {}
    choice = {key: inner for key, inner in given.items() if inner is not None}
    if choice.get("type") == "function":
        _known(choice, ("type", "name"), "")
        return {"type": "function", "name": check_text(choice.get("name"), ".name")}
    if choice.get("type") == "allowed_tools":
        _known(choice, ("type", "mode", "tools"), "")
        _choice(choice.get("mode"), ("auto", "required"), ".mode")
        tools = choice.get("tools")
        if not isinstance(tools, list) or not tools:
            raise FieldError(f"must be a list of functions, got {short(tools)}", path=".tools")
        for index, tool in enumerate(tools):
            path = f".tools[{index}]"
            if check_mapping(tool, path).get("type") != "function":
                raise FieldError(f"must be 'function', got {short(tool.get('type'))}", path=f"{path}.type")
            check_text(tool.get("name"), f"{path}.name")
        return choice
    wanted = "'none', 'auto', 'required', {'type': 'function', 'name': ...} or {'type': 'allowed_tools', ...}"
    raise FieldError(f"must be {wanted}, got {short(value)}")


def chat_tool_choice(choice: str | Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the fields `tools` and `tool_choice` of a chat request; allowed tools are the only ones there.

    Raises:
        FieldError: a tool is named that there is none of.
    """
    if isinstance(choice, Mapping) and choice["type"] == "allowed_tools":
        names = [tool["name"] for tool in tools]
        for index, allowed in enumerate(choice["tools"]):
            if allowed["name"] not in names:
                there = f"the tools are {', '.join(names)}" if names else "there are no tools"
                raise FieldError(f"names {short(allowed['name'])}; {there}", path=f".tools[{index}].name")
        wanted = {allowed["name"] for allowed in choice["tools"]}
        tools, choice = [tool for tool in tools if tool["name"] in wanted], choice["mode"]
    elif isinstance(choice, Mapping):
        choice = {"type": "function", "function": {"name": choice["name"]}}
    found = {"tools": chat_tools(tools)} if tools else {}
    # Without tools, neither of these says anything.
    return found if choice is None or (choice in ("auto", "none") and not tools) else found | {"tool_choice": choice}


def check_text_config(value: Any) -> dict[str, Any]:
    """`format`: text, json_object or json_schema with a schema; `verbosity`."""
    config = _object(value, ("format", "verbosity"))
    if "verbosity" in config:
        _choice(config["verbosity"], VERBOSITIES, ".verbosity")
    if "format" in config:
        chat_format(config["format"])
    return config


def chat_format(form: Any) -> dict[str, Any]:
    """Returns a text format as the `response_format` of a chat request.

    Raises:
        FieldError: the format is wrong; its path begins with `.format`.
    """
    path = ".format"
    form = {key: inner for key, inner in check_mapping(form, path).items() if inner is not None}
    if form.get("type") == "json_schema":
        if "json_schema" in form:
            said = "belongs to the chat's response_format; here its fields stand beside `type`"
            raise FieldError(said, path=f"{path}.json_schema")
        _known(form, ("type", "name", "description", "schema", "strict"), path)
        form = {"type": "json_schema", "json_schema": {key: form[key] for key in form if key != "type"}}
    try:
        return parts.check_response_format(form)
    except FieldError as bad:
        raise FieldError(str(bad), path=path + bad.path.replace(".json_schema", "", 1)) from None


def check_reasoning(value: Any) -> dict[str, Any]:
    """`effort`; `summary`, or its older name `generate_summary`; `context` and `mode` at their defaults."""
    config = _object(value, ("effort", "summary", "generate_summary", "context", "mode"))
    choices = {
        "effort": EFFORTS,
        "summary": SUMMARIES,
        "generate_summary": SUMMARIES,
        "context": ("auto",),
        "mode": ("standard",),
    }
    for key, inner in config.items():
        _choice(inner, choices[key], f".{key}")
    return config


def check_include(value: Any) -> tuple[str, ...]:
    """A list of what else the answer should hold."""
    if not isinstance(value, list | tuple):
        raise FieldError(f"must be a list of texts, got {short(value)}")
    for index, one in enumerate(value):
        _choice(one, INCLUDES, f"[{index}]")
    return tuple(value)


def check_stream_options(value: Any) -> dict[str, bool]:
    """`include_obfuscation`, and nothing else."""
    options = _object(value, ("include_obfuscation",))
    for key, inner in options.items():
        try:
            check_flag(inner)
        except FieldError as bad:
            raise FieldError(str(bad), path=f".{key}") from None
    return options


def check_cache_options(value: Any) -> dict[str, Any]:
    """`mode` and `ttl`, and the options that ask for something at the value that asks for nothing."""
    options = _object(value, ("mode", "ttl", "prewarm", "comparison_response_id"))
    for key, choices in (("mode", ("implicit", "explicit")), ("ttl", ("30m", "12h"))):
        if key in options:
            _choice(options[key], choices, f".{key}")
    if options.get("prewarm", False) is not False:
        raise FieldError(f"must be false (every request generates), got {short(options['prewarm'])}", path=".prewarm")
    if "comparison_response_id" in options:
        raise FieldError("is not supported: no answer is stored here", path=".comparison_response_id")
    return options


def check_metadata(value: Any) -> dict[str, str]:
    """An object of texts."""
    return {key: check_text(inner, f".{key}") for key, inner in check_mapping(value).items()}


def _object(value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    found = {key: inner for key, inner in check_object(value).items() if inner is not None}
    _known(found, keys, "")
    return found


def _choice(value: Any, choices: tuple[str, ...], path: str) -> None:
    try:
        check_choice(value, choices)
    except FieldError as bad:
        raise FieldError(str(bad), path=path) from None


def _known(value: Mapping[str, Any], keys: tuple[str, ...], path: str) -> None:
    for key in value:
        if key not in keys:
            raise FieldError(f"is unknown here (known: {', '.join(keys)})", path=f"{path}.{key}")
