"""The mixture: an endless, seeded stream of conversations, and the streams that evaluation draws on.

``python -m data.build.corpus --show 20`` prints some of it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from data.build import arithmetic, facts, records, stories, tools
from data.build.conversation import Conversation, Message
from data.build.distributions import Decks

# Training streams are seeded from TRAIN_SEED on, evaluation from EVAL_SEED on; a stream is far shorter than the gap.
TRAIN_SEED, EVAL_SEED = 1_000_000, 9_000_000


@dataclass(frozen=True)
class Course:
    """What is taught: domain -> its share of the conversations (tools are 5 times as long as draws), and how calls are."""

    mixture: dict[str, float]
    calls: tools.Lessons


BROAD = Course(
    {"distributions": 0.34, "arithmetic": 0.20, "facts": 0.11, "tools": 0.11, "records": 0.10, "stories": 0.06,
     "talk": 0.03, "several": 0.05}, tools.BROAD,
)  # fmt: skip
# What a small model is slow to learn, more often and in fewer spellings; the figures on the card are asked of this one.
CLOSE = Course(
    {"distributions": 0.40, "arithmetic": 0.12, "facts": 0.08, "tools": 0.20, "records": 0.10, "stories": 0.04,
     "talk": 0.02, "several": 0.04}, tools.CLOSE,
)  # fmt: skip

# the first shard of a training run -> what is taught from it on
CURRICULUM: dict[int, Course] = {0: BROAD, 10: CLOSE}


class Stream:
    """Conversations from one seed. ``evaluation`` swaps the wordings and the sums for those that are held out."""

    def __init__(self, seed: int, *, evaluation: bool = False, course: Course = CLOSE) -> None:
        self.rng = random.Random(seed)
        self.course = course
        self.decks = Decks(self.rng)
        self.evaluation = evaluation

    def __iter__(self) -> Iterator[Conversation]:
        while True:
            yield self.next()

    def next(self) -> Conversation:
        """The next conversation of the mixture."""
        domain = self.rng.choices(list(self.course.mixture), list(self.course.mixture.values()))[0]
        conversation = self.several() if domain == "several" else self.of(domain)
        if conversation.messages[0]["role"] != "system" and self.rng.random() < 0.08:
            system = {"role": "system", "content": self.rng.choice(tools.SYSTEMS)}
            conversation.messages = [system, *conversation.messages]
        return conversation

    def of(self, domain: str) -> Conversation:
        """A conversation of one domain."""
        rng = self.rng
        if domain == "distributions":
            return self.decks.conversation(evaluation=self.evaluation)
        if domain == "arithmetic":
            return arithmetic.conversation(rng, evaluation=self.evaluation)
        if domain == "facts":
            return facts.conversation(rng, evaluation=self.evaluation)
        if domain == "records":
            return records.conversation(rng)
        if domain == "stories":
            return stories.conversation(rng)
        if domain == "talk":
            return stories.talk(rng)
        if domain == "tools":
            if rng.random() < 0.05:
                return tools.without_tools(rng)
            return tools.conversation(rng, chat=self.plain, lessons=self.course.calls)
        raise ValueError(f"no domain {domain!r}")

    def plain(self) -> Conversation:
        """One short turn of anything but tools, answered without thinking."""
        kind = self.rng.choices(("distributions", "facts", "arithmetic", "records", "stories"), (5, 3, 2, 2, 0.6))[0]
        if kind == "arithmetic":
            return arithmetic.conversation(self.rng, evaluation=self.evaluation, thinking=False)
        while True:
            conversation = self.of(kind)
            if not conversation.enable_thinking:
                return conversation

    def several(self) -> Conversation:
        """Turns of different kinds one after the other, up to about 500 tokens; a few are much longer."""
        long = self.rng.random() < 0.08
        messages: list[Message] = []
        for _ in range(self.rng.randint(10, 24) if long else self.rng.randint(2, 5)):
            messages += (stories.talk(self.rng) if self.rng.random() < 0.2 else self.plain()).messages
        last = self.of(self.rng.choice(("distributions", "arithmetic", "facts", "records")))
        return Conversation(
            "several", messages + last.messages, enable_thinking=last.enable_thinking, deterministic=last.deterministic
        )


def tool_questions(seed: int, count: int) -> list[Conversation]:
    """Requests with functions in the system part whose right answer (a call, or none) is known; no random draws."""
    stream = Stream(seed, evaluation=True)

    def chat() -> Conversation:
        conversation = stream.plain()
        while not conversation.deterministic or conversation.domain.startswith("arithmetic"):
            conversation = stream.plain()
        return conversation

    return [
        tools.conversation(stream.rng, chat=chat, lessons=stream.course.calls, calls_only=True) for _ in range(count)
    ]


def questions(domain: str, seed: int, count: int) -> list[Conversation]:
    """Single-turn questions of a domain that training has not seen, answered with ``enable_thinking=false``.

    ``arithmetic`` is with thinking, ``arithmetic (no thinking)`` without.
    """
    if domain == "tools":
        return tool_questions(seed, count)
    stream, found = Stream(seed, evaluation=True), []
    while len(found) < count:
        if domain.startswith("arithmetic"):
            conversation = arithmetic.conversation(stream.rng, evaluation=True, thinking=domain == "arithmetic")
        elif domain in ("records", "words"):
            conversation = records.conversation(stream.rng, foreign=domain == "words")
        else:
            conversation = stream.of(domain)
        if conversation.enable_thinking == (domain == "arithmetic"):
            found.append(conversation)
    return found


def as_row(conversation: Conversation) -> dict[str, object]:
    """A conversation as a row of JSONL."""
    row: dict[str, object] = {"messages": conversation.messages, "enable_thinking": conversation.enable_thinking}
    return row | ({"tools": conversation.tools} if conversation.tools else {}) | {"domain": conversation.domain}


def main() -> None:
    """Print some conversations as JSONL."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--show", type=int, default=10, help="how many")
    parser.add_argument("--seed", type=int, default=TRAIN_SEED)
    arguments = parser.parse_args()
    stream = Stream(arguments.seed)
    for _ in range(arguments.show):
        print(json.dumps(as_row(stream.next()), ensure_ascii=False))


if __name__ == "__main__":
    main()
