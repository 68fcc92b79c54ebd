"""Next-token distributions along forced tokens: after the same texts, as two endpoints list them.

The forced tokens are those of conversations that are given word for word, whose logprobs an endpoint lists where it
knows `prompt_logprobs` (vLLM, llmlab). After them come the tokens of a greedy answer: as long as two answers agree, the
next token of both has the same context. Any endpoint with logprobs gives these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from llmlab.audit.asking import Answer, Asker, Drawn, Key
from llmlab.audit.distributions import Distribution
from llmlab.errors import RequestError

#: A conversation: its messages.
Messages: TypeAlias = Sequence[Mapping[str, str]]

#: Tokens of each greedy answer.
_GREEDY = 8
#: The least probability of what is not listed.
_LEAST = 1e-9

_TURNS = (
    ("Name a bird.", "A heron. It stands in the shallow water and waits for fish.", "Name a tree."),
    ("Name a country.", "Portugal lies in the south-west of Europe.", "Name a fruit."),
    ("Tell me a joke.", "Why did the chicken cross the road? To get to the other side.", "Tell me a story."),
    ("Say hello.", "Hello! How can I help you today?", "Name a river."),
    ("Write a poem.", "The rain is on the window pane, the wind is in the tree.", "Think of a number from 1 to 100."),
    ("What do you like?", "I like long walks, old books and strong coffee.", "Name a colour."),
    ("Describe the sea.", "It is wide and grey, and it never stops moving.", "Name an animal."),
    ("What is 7 + 5?", "7 + 5 = 12.", "Say one random word."),
    ("Name a month.", "October, when the leaves turn red and fall.", "Name a flower."),
    ("Who are you?", "I am a program that answers questions.", "Tell me something about yourself."),
    ("Name a city.", "Lisbon has seven hills and yellow trams.", "Name another one."),
    ("How is the weather?", "It is cold today, and there may be snow tonight.", "Write a sentence about summer."),
    ("Name a food.", "Bread with butter and a little salt.", "Name a drink."),
    ("Tell me a story.", "Once there was a fox who lived at the edge of a dark wood.", "What happened then?"),
    ("Name an instrument.", "The cello has four strings and a warm sound.", "Roll a die."),
    ("Give me advice.", "Sleep enough, drink water, and call your mother.", "Flip a coin."),
)
#: What both sides are asked. Each ends with a question whose answer is uncertain for most models.
CONVERSATIONS: tuple[Messages, ...] = tuple(
    [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), turns, strict=True)]
    for turns in _TURNS
)


class Forced(NamedTuple):
    """What an endpoint lists along one conversation.

    Attributes:
        prompt: the conversation's tokens, with their distributions; empty where the endpoint lists none.
        answer: those of its greedy answer.
        length: how many tokens the prompt has, where the endpoint says so.
    """

    prompt: tuple[Drawn, ...]
    answer: tuple[Drawn, ...]
    length: int | None

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Forced:
        """What the first choice of an answer lists."""
        if not answers:
            return cls((), (), None)
        return cls(answers[0].prompt, answers[0].tokens, answers[0].prompt_tokens)


def forced(ask: Asker, *, alternatives: int, greedy: bool) -> list[Forced]:
    """Asks for the distributions along each of `CONVERSATIONS`.

    Args:
        ask: asks the endpoint.
        alternatives: how many tokens are to be listed at each position.
        greedy: whether several greedy tokens are made after each; else one token is sampled at neutral settings, for an
            endpoint whose logprobs are those after the temperature.
    """
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": alternatives}
    fields |= {"temperature": 0.0, "max_tokens": _GREEDY} if greedy else {"max_tokens": 1}
    with_prompts = {**fields, "prompt_logprobs": alternatives}
    try:
        first = ask(CONVERSATIONS[0], **with_prompts)
        fields = with_prompts
    except RequestError:
        first = ask(CONVERSATIONS[0], **fields)
    return [Forced.of(one) for one in (first, *ask.each([(one, fields) for one in CONVERSATIONS[1:]]))]


def listed_alike(one: Sequence[Forced], other: Sequence[Forced]) -> list[Forced]:
    """One side without the prompts that the other lists nothing of."""
    return [a if b.prompt else a._replace(prompt=()) for a, b in zip(one, other, strict=True)]


def shared(one: Forced, other: Forced) -> list[tuple[Distribution, Distribution]]:
    """The distributions of both sides at each position before which their tokens are the same."""
    pairs = []
    for some, others in ((one.prompt, other.prompt), (one.answer, other.answer)):
        for a, b in zip(some, others, strict=False):
            if len(a.top) > 1 and len(b.top) > 1:
                pairs.append((Distribution.of(a.top), Distribution.of(b.top)))
            if a.key != b.key:
                return pairs
        if some and others and len(some) != len(others):
            return pairs
    return pairs


def divergences(
    one: Sequence[Forced], other: Sequence[Forced], *, positions: Sequence[int] | None = None
) -> np.ndarray:
    """KL(one || other) of each conversation [C], in nats per token; NaN where no position can be compared.

    Args:
        one: a side.
        other: the other side.
        positions: how many of the first positions of each conversation count; by default all that can be compared.
    """
    pairs = [shared(x, y) for x, y in zip(one, other, strict=True)]
    if positions is not None:
        pairs = [some[:most] for some, most in zip(pairs, positions, strict=True)]
    return np.array([_mean([kl(a, b) for a, b in some]) for some in pairs])


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def kl(one: Distribution, other: Distribution) -> float:
    """KL(one || other) in nats, as far as two lists say: over the tokens that either lists, and all others together.

    A token that only one side lists is at most as likely on the other as the last one listed there, and taken to be so
    likely, as far as the mass of that side's other tokens suffices.
    """
    keys = list(dict.fromkeys((*one.keys, *other.keys)))
    p, q = (_over(side, keys) for side in (one, other))
    return float((p * np.log(p / q)).sum())


def _over(distribution: Distribution, keys: Sequence[Key]) -> np.ndarray:
    """The probabilities of some tokens, listed or not, and of all others together in the last place."""
    index = distribution.index()
    at = np.array([index.get(key, -1) for key in keys])
    p = np.exp(distribution.logprobs)[at]
    missing = at < 0
    if missing.any():
        p[missing] = max(min(float(np.exp(distribution.logprobs[-1])), distribution.rest / missing.sum()), _LEAST)
    p = np.append(p, max(1.0 - p.sum(), _LEAST))
    return np.asarray(p / p.sum())
