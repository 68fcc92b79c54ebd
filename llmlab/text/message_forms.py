"""The forms in which chat templates expect the same messages: text or parts, arguments as an object or as a string.

A template says nowhere which form it expects. One that expects another form fails, or it leaves texts out of the prompt
without a word: a loop over content parts finds none in a string. `llmlab.text.shown` finds that out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["REASONING_KEYS", "Chat", "Form", "forms", "plain", "with_system_tools"]

#: The keys under which clients and templates pass an earlier answer's reasoning.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

#: Messages as a template receives them.
Chat = list[dict[str, Any]]


class Form(NamedTuple):
    """How messages are passed to a template.

    Attributes:
        parts: the roles whose texts are lists of one text part; those of other roles are strings.
        filled: whether an empty text takes the place of the API's null in a message that only calls tools. Some
            templates fail on the null (Qwen3's first release, Phi-3.5).
        parsed: whether the arguments of an earlier call are an object; if not, they are the API's string. A few
            templates expect the string (DeepSeek-R1).
    """

    parts: frozenset[str]
    filled: bool
    parsed: bool

    def of(self, chat: Chat) -> Chat:
        """Returns the messages in this form; they come from `plain`."""
        return list(self._messages(chat))

    def _messages(self, chat: Chat) -> Iterator[dict[str, Any]]:
        for message in chat:
            changed: dict[str, Any] = {}
            content = message.get("content", "")
            if content is None and self.filled:
                changed["content"] = ""
            if message.get("role") in self.parts and isinstance(content, str) and content:
                changed["content"] = [{"type": "text", "text": content}]
            if self.parsed and message.get("tool_calls"):
                changed["tool_calls"] = [_with_parsed_arguments(call) for call in message["tool_calls"]]
            yield {**message, **changed} if changed else message


def forms(*parts: Iterable[str]) -> Iterator[Form]:
    """Yields the forms in which the texts of these roles are parts, the most common one first."""
    for roles in parts:
        for filled in (False, True):
            for parsed in (True, False):
                yield Form(frozenset(roles), filled, parsed)


def plain(
    messages: Sequence[Mapping[str, Any]],
    *,
    developer: bool,
    reasoning: str | None = None,
    divide: Callable[[str], tuple[str, str]] | None = None,
) -> Chat:
    """Returns the messages with text parts joined to one text each.

    Args:
        messages: messages as in the API.
        developer: whether the template knows the role "developer"; if not, such a message becomes one of the system.
        reasoning: the key under which the template reads an earlier answer's reasoning; None if it reads none.
        divide: divides an earlier answer's text into reasoning and content; None if the template does so itself.
    """
    return [_plain(message, developer, reasoning, divide) for message in messages]


def _plain(
    message: Mapping[str, Any],
    developer: bool,
    reasoning: str | None,
    divide: Callable[[str], tuple[str, str]] | None,
) -> dict[str, Any]:
    changed = dict(message)
    content = changed.get("content")
    if isinstance(content, list | tuple):
        changed["content"] = content = "".join(part["text"] for part in content)
    if changed.get("role") == "developer" and not developer:
        changed["role"] = "system"
    if changed.get("role") != "assistant" or reasoning is None:
        return changed
    given = next((key for key in (reasoning, *REASONING_KEYS) if changed.get(key)), None)
    if given is not None:
        changed[reasoning] = changed.pop(given)
    elif divide and isinstance(content, str):
        thought, changed["content"] = divide(content)
        changed |= {reasoning: thought} if thought else {}
    return changed


def with_system_tools(chat: Chat, tools: Sequence[Mapping[str, Any]]) -> Chat:
    """Returns the messages with the functions as JSON under the key "tools" of the system's message (Phi-4-mini)."""
    written = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    first = chat[0] if chat and chat[0].get("role") == "system" else None
    rest = chat[1:] if first else chat
    return [{**(first or {"role": "system", "content": ""}), "tools": written}, *rest]


def _with_parsed_arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool call with its arguments as an object, if they are the JSON text of one."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call  # a model may have written arguments that are not JSON; they are passed back unchanged
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call
