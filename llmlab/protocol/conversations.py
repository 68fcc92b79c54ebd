"""What the lab's methods take in place of a conversation: a text, several prompts, and a system message beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from llmlab.errors import RequestError
from llmlab.protocol.checks import FieldError, check_text

__all__ = ["MessageObject", "begins_with_system", "several_conversations", "several_prompts", "with_system"]


@runtime_checkable
class MessageObject(Protocol):
    """A message as an object, such as those of the `openai` package."""

    @property
    def role(self) -> Any:
        """Who speaks."""


#: The roles of a message that says how the model should behave.
_SYSTEM = ("system", "developer")


def several_conversations(messages: Any, *, also: tuple[type, ...] = ()) -> list[Any] | None:
    """The prompts in a list of prompts; None for a single prompt.

    A list whose items are messages, which are objects with a role, is one conversation. A list whose items are texts,
    requests or lists of messages is several prompts, also when it has a single item. An array or a column of a
    dataframe is a list.

    Args:
        messages: a text, a list, a request, or anything else.
        also: the types of further values that are a prompt by themselves, such as requests.

    Raises:
        RequestError: the list has both prompts and messages.
    """
    if getattr(messages, "ndim", 0) == 1 and hasattr(messages, "tolist"):
        messages = messages.tolist()
    if not _is_list(messages) or not messages:
        return None
    whole = [isinstance(item, (str, bytes, *also)) or _is_list(item) for item in messages]
    if any(whole) and not all(whole):
        raise RequestError(
            "messages mixes prompts and single messages; give one list of messages, or a list of prompts",
            param="messages",
        )
    return list(messages) if whole[0] else None


def several_prompts(prompt: Any) -> list[Any] | None:
    """The raw prompts in a list of prompts; None for a single one. A list of integers is one prompt, as token ids."""
    if getattr(prompt, "ndim", 0) == 1 and hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    if not _is_list(prompt) or not prompt or all(isinstance(item, Real) for item in prompt):
        return None
    return list(prompt)


def with_system(messages: Any, system: Any) -> list[Any]:
    """A conversation with a system message in front, in place of the one that it begins with.

    Args:
        messages: the user's text, or a list of messages.
        system: the text of the system message.

    Raises:
        RequestError: `system` is not a text.
    """
    try:
        system = check_text(system)
    except FieldError as bad:
        raise RequestError(f"system {bad}", param="system") from None
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return [{"role": "system", "content": system}, *(said[1:] if begins_with_system(said) else said)]


def begins_with_system(messages: Any) -> bool:
    """Whether the first message of a conversation is a system message."""
    first = messages[0] if _is_list(messages) and len(messages) else None
    return isinstance(first, Mapping) and first.get("role") in _SYSTEM


def _is_list(value: Any) -> bool:
    return (isinstance(value, Sequence) and not isinstance(value, str | bytes)) or hasattr(value, "__array__")
