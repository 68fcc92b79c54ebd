"""What the prompts of a sweep are called: the values of its axis "prompt"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmlab.errors import RequestError, short
from llmlab.protocol.arguments import listed
from llmlab.protocol.request import PromptRequest, Request

__all__ = ["prompt_labels"]


def prompt_labels(requests: Sequence[Request], label: Any, *, several: bool) -> list[str]:
    """Returns the name of each prompt, all of them different: what the caller says, or else its text.

    The text of a conversation is that of its last user message; that of token ids is a list of numbers. Of prompts with
    the same text, all except the first one have their number after it.

    Args:
        requests: one for each prompt.
        label: the caller's names; None for none.
        several: whether a list of prompts was given.

    Raises:
        RequestError: the names are not as many different texts as there are prompts, or there is no list of prompts.
    """
    if label is None:
        return _apart([prompt_text(request) for request in requests])
    if not several:
        raise RequestError("label names the prompts of a list: give a list of prompts", param="label")
    names = listed("label", label, of="texts")
    if len(names) != len(requests):
        raise RequestError(f"label has {len(names)} texts and there are {len(requests)} prompts", param="label")
    for name in names:
        if not isinstance(name, str):
            raise RequestError(f"label must be a list of texts, got {short(name)} in it", param="label")
        if names.count(name) > 1:
            raise RequestError(f"label has {short(name)} twice; give each prompt another text", param="label")
    return names


def prompt_text(request: Request) -> str:
    """The text of a prompt: of a conversation, that of its last user message."""
    if isinstance(request, PromptRequest):
        return request.prompt if isinstance(request.prompt, str) else str(list(request.prompt))
    users = [message for message in request.messages if message["role"] == "user"]
    content = (users or list(request.messages))[-1].get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _apart(texts: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for text in texts:
        # As many names can be taken as there are prompts before this one.
        numbered = (f"{text} ({number})" for number in range(2, len(found) + 3))
        found[next(name for name in (text, *numbered) if name not in found)] = None
    return list(found)
