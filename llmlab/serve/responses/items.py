"""The items of a Responses request's `input`, as the messages of a chat.

The model's own output comes as several items (reasoning, a message, function calls); a chat has one message for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmlab.errors import short
from llmlab.protocol.checks import FieldError, check_mapping, check_object, check_text

#: The roles of message items.
ROLES = ("user", "assistant", "system", "developer")

#: The parts of a message's content that are text, and the key that holds it.
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}

#: The types of items that are understood.
TYPES = ("message", "reasoning", "function_call", "function_call_output")

#: Where the ids of items are stored, an item may be given by its id alone.
_REFERENCE = "refers to a stored item, and nothing is stored here; send the item itself"


class Chat(NamedTuple):
    """The messages, and where each part of them stands in the request: `messages[1].content` -> `input[0].content`."""

    messages: list[dict[str, Any]]
    places: dict[str, str]


def check_input(value: Any) -> str | tuple[dict[str, Any], ...]:
    """A text, or a non-empty list of items: dicts, or the objects of the `openai` package."""
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, Mapping) or not isinstance(value, Sequence):
        raise FieldError(f"must be a text or a list of items, got {short(value)}")
    if not value:
        raise FieldError("must not be empty: give a text or at least one item")
    return tuple(_item(item, f"[{index}]") for index, item in enumerate(value))


def as_chat(given: str | Sequence[Mapping[str, Any]], *, instructions: str | None = None, first: int = 0) -> Chat:
    """Returns a checked input as the messages of a chat.

    Args:
        given: the input.
        instructions: a system message before the others.
        first: the items before this one are left out, except system messages.
    """
    chat = Chat([], {})
    if instructions is not None:
        chat.places["messages[0]"] = chat.places["messages[0].content"] = "instructions"
        chat.messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        where = f"messages[{len(chat.messages)}]"
        chat.places[where] = chat.places[f"{where}.content"] = "input"
        chat.messages.append({"role": "user", "content": given})
        return chat
    for index, item in enumerate(given):
        if index < first and item.get("role") not in ("system", "developer"):
            continue
        _ADD[item["type"]](chat, item, f"input[{index}]")
    return chat


# ---- from items to messages


def _add_message(chat: Chat, item: Mapping[str, Any], place: str) -> None:
    role = item["role"]
    last = chat.messages[-1] if role == "assistant" and chat.messages else {}
    # A message after its own reasoning or calls belongs to the same turn; a second text is a message of its own.
    if last.get("role") != "assistant" or "content" in last:
        last = _new(chat, {"role": role}, place)
    chat.places[f"{_where(chat)}.content"] = f"{place}.content"
    last["content"] = item["content"]


def _add_reasoning(chat: Chat, item: Mapping[str, Any], place: str) -> None:
    parts = item["content"] or item["summary"]
    if not parts:
        return  # a client may keep the item and drop its text
    _new(chat, {"role": "assistant", "reasoning_content": "\n\n".join(parts)}, place)
    chat.places[f"{_where(chat)}.reasoning_content"] = f"{place}.content"


def _add_call(chat: Chat, item: Mapping[str, Any], place: str) -> None:
    last = chat.messages[-1] if chat.messages else {}
    if last.get("role") != "assistant":
        last = _new(chat, {"role": "assistant"}, place)
    calls = last.setdefault("tool_calls", [])
    where = f"{_where(chat)}.tool_calls[{len(calls)}]"
    chat.places.update({where: place, f"{where}.function": place, f"{where}.id": f"{place}.call_id"})
    function = {"name": item["name"], "arguments": item["arguments"]}
    calls.append({"id": item["call_id"], "type": "function", "function": function})


def _add_output(chat: Chat, item: Mapping[str, Any], place: str) -> None:
    message = {"role": "tool", "content": item["output"]}
    _new(chat, message | {key: item[at] for at, key in _OUTPUT.items() if at in item}, place)
    keys = {"output": "content", **_OUTPUT}
    chat.places.update({f"{_where(chat)}.{key}": f"{place}.{at}" for at, key in keys.items()})


_OUTPUT = {"call_id": "tool_call_id", "name": "name"}
_ADD = {
    "message": _add_message,
    "reasoning": _add_reasoning,
    "function_call": _add_call,
    "function_call_output": _add_output,
}


def _new(chat: Chat, message: dict[str, Any], place: str) -> dict[str, Any]:
    chat.messages.append(message)
    chat.places[_where(chat)] = place
    return message


def _where(chat: Chat) -> str:
    return f"messages[{len(chat.messages) - 1}]"


# ---- checks of the items


def _item(value: Any, path: str) -> dict[str, Any]:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", exclude_unset=True)
    item = {key: inner for key, inner in check_object(value, path).items() if inner is not None}
    kind = item.get("type", "message" if "role" in item else None)
    if kind == "item_reference":
        raise FieldError(_REFERENCE, path=path)
    if not isinstance(kind, str) or kind not in TYPES:
        known = ", ".join(map(repr, TYPES))
        raise FieldError(
            f"must be one of {known} (this engine reads nothing else), got {short(kind)}", path=f"{path}.type"
        )
    return {"type": kind, **_CHECKS[kind](item, path)}


def _message(item: Mapping[str, Any], path: str) -> dict[str, Any]:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError(f"must be one of {', '.join(ROLES)}, got {short(role)}", path=f"{path}.role")
    return {"role": role, "content": _content(item.get("content"), f"{path}.content")}


def _reasoning(item: Mapping[str, Any], path: str) -> dict[str, Any]:
    found = {key: _reasoning_texts(item.get(key, []), f"{path}.{key}") for key in ("content", "summary")}
    if "encrypted_content" in item and not any(found.values()):
        raise FieldError(
            "cannot be read by this engine, and the item has no other text", path=f"{path}.encrypted_content"
        )
    return found


def _reasoning_texts(value: Any, path: str) -> list[str]:
    if not isinstance(value, list):
        raise FieldError(f"must be a list of texts, got {short(value)}", path=path)
    return [
        check_text(check_mapping(part, f"{path}[{index}]").get("text"), f"{path}[{index}].text")
        for index, part in enumerate(value)
    ]


def _call(item: Mapping[str, Any], path: str) -> dict[str, Any]:
    found = {key: check_text(item.get(key), f"{path}.{key}") for key in ("call_id", "name")}
    return {**found, "arguments": check_text(item.get("arguments", ""), f"{path}.arguments")}


def _call_output(item: Mapping[str, Any], path: str) -> dict[str, Any]:
    found = {key: check_text(item[key], f"{path}.{key}") for key in _OUTPUT if key in item}
    return {**found, "output": _content(item.get("output"), f"{path}.output")}


_CHECKS = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _call,
    "function_call_output": _call_output,
}


def _content(value: Any, path: str) -> str | list[dict[str, Any]]:
    """The content of a message as a chat has it: a text, or a list of text parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        found = "nothing" if value is None else short(value)
        raise FieldError(f"must be a text or a list of text parts, got {found}", path=path)
    return [_part(part, f"{path}[{index}]") for index, part in enumerate(value)]


def _part(value: Any, path: str) -> dict[str, Any]:
    part = check_mapping(value, path)
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _TEXTS:
        wanted = "'input_text' or 'output_text' (this engine reads nothing else)"
        raise FieldError(f"must be {wanted}, got {short(kind)}", path=f"{path}.type")
    key = _TEXTS[kind]
    return {"type": "text", "text": check_text(part.get(key), f"{path}.{key}")}
