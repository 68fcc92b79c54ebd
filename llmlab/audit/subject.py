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
#: Why a test is not made that needs a distribution.
NO_LISTS = "the endpoint lists no alternatives, so that no distribution is known."
#: Sizes of n that are tried.
_SIZES = (64, 16, 4)
#: The most requests of a test that needs one for each draw: so many, or this share of all.
_SINGLE, _SHARE = 40, 0.08
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
        reference: asks the model whose weights it should serve, if there is one. Where the endpoint lists no logprobs,
            the distributions are the reference's.
        listed: whether the distributions are the endpoint's own.
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
    reference: Asker | None = None
    listed: bool = False
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
            if (found := _first_list(answers)) is not None:
                self.distributions[prompt] = found
        self.listed = bool(self.distributions)
        if not self.listed and self.reference is not None:
            lists = {prompt: self.list_of(prompt) for prompt in PROMPTS}
            self.distributions = {prompt: found for prompt, found in lists.items() if found is not None}
        if self.distributions:
            self.prompt = max(
                self.distributions,
                key=lambda one: self.distributions[one].entropy * (1 - self.distributions[one].rest) ** 2,
            )
            self.distribution = self.distributions[self.prompt]

    def list_of(self, prompt: str) -> Distribution | None:
        """The distribution of a prompt's first token, as the endpoint lists it, or else the reference."""
        ask = self.ask if self.listed or self.reference is None else self.reference
        found = _first_list(ask(prompt, logprobs=True, top_logprobs=self.alternatives))
        # Where answers are texts only, a first token must be told from others by its text.
        return found if found is None or self.listed or _is_told_by_text(found) else None

    @property
    def whose(self) -> str:
        """Who lists the distributions, in words."""
        return "it lists" if self.listed else "the reference lists"

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
        if self.size > 1 and self.independent:
            asked = [(prompt, {**fields, "n": self.size, "logprobs": True, "top_logprobs": 0})] * -(-draws // self.size)
            answers = [one for found in self.ask.each(asked) for one in found]
            return [cell_of(distribution, first_keys(answers, distribution), fields)]
        if first or not self.listed:
            most = max(_SINGLE, int(_SHARE * self.ask.max_requests))
            asked = [(prompt, {**fields, "logprobs": True, "top_logprobs": 0})] * min(draws, most)
            answers = [one for found in self.ask.each(asked) for one in found[:1]]
            return [cell_of(distribution, first_keys(answers, distribution), fields)]
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


def _first_list(answers: Sequence[Answer]) -> Distribution | None:
    top = answers[0].tokens[0].top if answers and answers[0].tokens else ()
    return Distribution.of(top) if len(top) > 1 else None


def _is_told_by_text(distribution: Distribution) -> bool:
    """Whether nearly all first tokens have a text that no other one has, and that is whole characters."""
    stripped = [text.strip() for text in distribution.texts]
    often, p = Counter(stripped), np.exp(distribution.logprobs)
    unclear = [not text or often[text] > 1 or "\ufffd" in text for text in stripped]
    return float(p[unclear].sum()) < 1e-3


def first_keys(answers: Iterable[Answer], distribution: Distribution) -> list[Key]:
    """The first tokens of answers; where an answer has a text only, it is the text of one token."""
    by_text = {text.strip(): key for text, key in zip(distribution.texts, distribution.keys, strict=True)}
    return [
        one.tokens[0].key if one.tokens else by_text.get(one.text.strip(), one.text)
        for one in answers
        if one.tokens or one.text.strip()
    ]


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
