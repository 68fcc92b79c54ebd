"""The items of a Response's output as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.protocol.completion import Header, Tokens, ToolCall
from llmlab.protocol.wire import logprobs_json

#: An object of the API.
Json = dict[str, Any]


def message_item(text: str, *, name: str, number: int, logprobs: Sequence[Json]) -> Json:
    """Returns a message; `number` tells those of one answer apart."""
    return {
        "id": f"msg_{name}{_suffix(number)}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [text_part(text, logprobs=logprobs)],
    }


def text_part(text: str, *, logprobs: Sequence[Json]) -> Json:
    """Returns the only part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def reasoning_item(text: str, *, name: str, number: int, summary: bool) -> Json:
    """Returns the reasoning, as the summary of its item or as its content."""
    parts = [reasoning_part(text, summary=summary)]
    item: Json = {"id": f"rs_{name}{_suffix(number)}", "type": "reasoning", "status": "completed"}
    return item | ({"summary": parts} if summary else {"summary": [], "content": parts})


def reasoning_part(text: str, *, summary: bool) -> Json:
    """Returns the only part of the reasoning."""
    return {"type": "summary_text" if summary else "reasoning_text", "text": text}


def call_item(call: ToolCall, *, name: str, number: int) -> Json:
    """Returns a function call."""
    return {
        "id": f"fc_{name}{_suffix(number)}",
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def logprobs_of(tokens: Tokens, header: Header) -> list[Json]:
    """Returns the entries of the message's tokens; those of control tokens have no bytes.

    A token whose logprob is not known has no entry, because the API has no null there.
    """
    if not header.request.logprobs:
        return []
    return [_with_bytes(entry) for entry in logprobs_json(tokens, header)["content"] if entry["logprob"] is not None]


def _with_bytes(entry: Mapping[str, Any]) -> Json:
    lists = {name: entry[name] for name in ("top_logprobs", "kept_logprobs") if entry.get(name) is not None}
    inner = {name: [_with_bytes(other) for other in found] for name, found in lists.items()}
    return {**entry, **inner, "bytes": entry["bytes"] or []}


def _suffix(number: int) -> str:
    return f"_{number}" if number else ""


def name_of(header: Header) -> str:
    """Returns what the ids of a Response and of its items end with."""
    return header.id.removeprefix("chatcmpl-")
