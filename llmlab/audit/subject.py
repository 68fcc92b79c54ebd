"""The endpoint under audit: what was found out so far, and how it is asked for draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from llmlab.audit.asking import Answer, Asker, Drawn, Key
from llmlab.audit.distributions import Cell, Distribution
from llmlab.errors import RequestError

#: The most alternatives that the API gives.
TOP = 20
#: Prompts whose first token is uncertain for most models. The one that is most so is used for most questions.
PROMPTS = (
    "Name an animal.",
    "Tell me a short story.",
    "Name a colour.",
    "Say one random word.",
    "Name a city.",
    "Write a sentence about the sea.",
    "Name a food.",
    "Think of a number between 1 and 100 and write it down.",
)
#: One whose answers are long.
STORY = PROMPTS[1]
#: Sizes of n that are tried.
_SIZES = (64, 16, 4)
#: The most requests of a test that needs one for each draw.
_SINGLE = 40
#: The tokens of an answer, where one choice has to give many draws.
LONG = 24


class Finding(NamedTuple):
    """What one test found.

    Attributes:
        name: the name of the test.
        ok: whether the endpoint does what it should; None where that was not tested.
        p_value: the probability of what was seen if it does. 0 for what an honest endpoint never does, NaN where
            nothing was tested.
        what: what the endpoint does, and what it should do, in one or two sentences.
        fine: what is said in its place where the p-value is not small enough, beside those of all other tests.
    """

    name: str
    ok: bool | None
    p_value: float
    what: str
    fine: str = ""


def untested(name: str, why: str) -> Finding:
    """A test that was not made."""
    return Finding(name, None, float("nan"), f"Not tested: {why}")


def certain(name: str, broken: str | None, *, fine: str) -> Finding:
    """A test without chance: `broken` says what is wrong, if something is."""
    return Finding(name, broken is None, 1.0 if broken is None else 0.0, broken or fine)


@dataclass(eq=False)
class Subject:
    """What is known of an endpoint.

    Attributes:
        ask: asks it.
        rng: simulates.
        prompt: the prompt whose first token has the most uncertain distribution.
        distribution: that distribution.
        distributions: those of all prompts.
        size: how many choices a request gets.
        independent: whether the choices of a request without a seed are drawn independently.
        raw: whether `logprobs` stay the same whatever the sampling fields are; None until that is tested.
        alternatives: how many alternatives are listed at most.
    """

    ask: Asker
    rng: np.random.Generator
    prompt: str = PROMPTS[0]
    distribution: Distribution = field(default_factory=lambda: Distribution((), np.zeros(0)))
    distributions: dict[str, Distribution] = field(default_factory=dict)
    first: dict[str, Answer] = field(default_factory=dict)
    size: int = 1
    independent: bool = True
    raw: bool | None = None
    alternatives: int = TOP

    def look(self) -> None:
        """Asks each prompt once, for the distribution of its first token, and chooses one of them."""
        top = TOP
        try:
            [first] = [self.ask(PROMPTS[0], logprobs=True, top_logprobs=top)]
        except RequestError:
            top = 5
            first = self.ask(PROMPTS[0], logprobs=True, top_logprobs=top)
        self.alternatives = top
        others = self.ask.each([(one, {"logprobs": True, "top_logprobs": top}) for one in PROMPTS[1:]])
        for prompt, answers in zip(PROMPTS, [first, *others], strict=True):
            if answers:
                self.first[prompt] = answers[0]
            if answers and answers[0].tokens and len(answers[0].tokens[0].top) > 1:
                self.distributions[prompt] = Distribution.of(answers[0].tokens[0].top)
        if self.distributions:
            self.prompt = max(
                self.distributions,
                key=lambda one: self.distributions[one].entropy * (1 - self.distributions[one].rest) ** 2,
            )
            self.distribution = self.distributions[self.prompt]

    def measure(self) -> tuple[int, int]:
        """Finds out how many choices a request gets; returns (asked for, sent)."""
        for size in _SIZES:
            try:
                answers = self.ask(self.prompt, n=size)
            except RequestError:
                continue
            self.size = max(1, len(answers))
            return size, len(answers)
        self.size = 1
        return 1, 1

    def draw(
        self,
        draws: int,
        *,
        prompt: str | None = None,
        distribution: Distribution | None = None,
        first: bool = False,
        **fields: Any,
    ) -> list[Cell]:
        """Draws first tokens under some fields.

        Where a request has one choice, or choices that are copies of each other, later tokens count as well, each with
        the distribution that is listed beside it.

        Args:
            draws: how many, at least.
            prompt: the prompt; by default the chosen one.
            distribution: its distribution.
            first: whether only first tokens count, because what is tested is about this distribution's tokens.
            fields: the request's fields.
        """
        prompt, distribution = prompt or self.prompt, distribution or self.distribution
        if first and not (self.size > 1 and self.independent):
            asked = [(prompt, {**fields, "logprobs": True, "top_logprobs": 0})] * min(draws, _SINGLE)
            answers = [one for found in self.ask.each(asked) for one in found[:1]]
            return [cell_of(distribution, [one.tokens[0].key for one in answers if one.tokens], fields)]
        if self.size > 1 and self.independent:
            asked = [(prompt, {**fields, "n": self.size, "logprobs": True, "top_logprobs": 0})] * -(-draws // self.size)
            answers = [one for found in self.ask.each(asked) for one in found]
            return [cell_of(distribution, [one.tokens[0].key for one in answers if one.tokens], fields)]
        if not self.raw:
            raise UntestableError("a request has one independent choice, and its logprobs are not those of the model")
        more = {"max_tokens": LONG, "logprobs": True, "top_logprobs": self.alternatives}
        asked = [(prompt, {**fields, **more})] * -(-draws // LONG)
        found = []
        for answers in self.ask.each(asked):
            found += positions(answers[0], fields)
        return found


class UntestableError(Exception):
    """A test that this endpoint's answers do not allow; says why."""


def cell_of(distribution: Distribution, keys: Iterable[Key], fields: dict[str, Any]) -> Cell:
    """The counts of drawn tokens."""
    index = distribution.index()
    counts = np.zeros(len(distribution.keys) + 1, np.int64)
    for key, times in Counter(keys).items():
        counts[index.get(key, -1)] += times
    return Cell(distribution, counts, fields)


def positions(answer: Answer, fields: dict[str, Any], *, since: int = 0) -> list[Cell]:
    """One draw for each token of an answer whose listed logprobs are the model's own."""
    found, made = [], Counter[Key]()
    for at, token in enumerate(answer.tokens):
        if at >= since and len(token.top) > 1:
            found.append(_position(token, made, fields))
        made[token.key] += 1
    return found


def _position(token: Drawn, made: Counter[Key], fields: dict[str, Any]) -> Cell:
    distribution = Distribution.of(token.top)
    # The sampled token may be listed beside the alternatives, as one more.
    cell = cell_of(distribution, [token.key], fields)
    cell.seen = np.array([made[key] for key in distribution.keys], np.int64)
    return cell


def collisions(answers: Sequence[Sequence[Key]]) -> int:
    """How many of several answers are copies of an earlier one."""
    return len(answers) - len({tuple(one) for one in answers})
