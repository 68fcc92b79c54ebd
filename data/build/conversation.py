"""The conversation that every generator of the corpus returns, and the rule that keeps training and evaluation apart."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass
class Conversation:
    """One conversation of the corpus.

    ``messages`` and ``tools`` are as a chat-completion API spells them; ``expected`` is the last assistant message when
    the answer is a function of the request, and None when it is a draw at random (distributions, stories).
    """

    domain: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    enable_thinking: bool = False
    deterministic: bool = True
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> list[Message]:
        """The messages before the last assistant turn."""
        return self.messages[:-1]

    @property
    def expected(self) -> Message:
        """The last assistant turn."""
        return self.messages[-1]


def user(content: str) -> Message:
    """A user turn."""
    return {"role": "user", "content": content}


def assistant(content: str, *, reasoning: str = "") -> Message:
    """An assistant turn; ``reasoning`` is the text between the think tags."""
    message: Message = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    return message


def held_out(text: str, *, one_in: int = 10) -> bool:
    """Whether a wording (or a sum) belongs to evaluation alone: one in ``one_in``, chosen by a hash, never by a seed.

    Held out in this way a wording is unseen whatever seeds the two sides use.
    """
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") % one_in == 0


def listing(items: list[str], word: str = "and") -> str:
    """Items joined as in a sentence: "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def words(text: str) -> list[str]:
    """The words of a line, for the lists that a generator draws from."""
    return text.split()


def polite(rng: random.Random, request: str) -> str:
    """Wrap a lower-case imperative ("flip a coin") in one of many ways of asking; the answer does not depend on it."""
    head, tail = rng.choice(OPENERS)
    text = f"{head}{request}{tail}"
    return text[0].upper() + text[1:]


OPENERS: list[tuple[str, str]] = [
    ("", "."), ("", "."), ("", "!"), ("please ", "."), ("", ", please."), ("can you ", "?"), ("could you ", "?"),
    ("hi, ", "."), ("now ", "."), ("I want you to ", "."), ("would you ", "?"), ("go ahead and ", "."),
    ("hey, please ", "."), ("ok, ", "."), ("just ", "."), ("could you please ", "?"),
]  # fmt: skip
