"""Tests of the noise that tokens are drawn with: seeds and their scope, the tail, repeated noise, and batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from llmlab.audit.asking import Answer
from llmlab.audit.distributions import Cell, Distribution, sampled
from llmlab.audit.evidence import Hypothesis, Verdict, weigh
from llmlab.audit.sampling import hypothesis
from llmlab.audit.subject import (
    LONG,
    NO_LISTS,
    STORY,
    Finding,
    Subject,
    cell_of,
    certain,
    first_keys,
    positions,
    untested,
)
from llmlab.errors import RequestError

#: Draws of the first token; requests with a seed each; answers of many tokens.
_DRAWS, _SEEDS, _ANSWERS = 768, 40, 24
#: Choices for each seed.
_CHOICES = 32
_SEED = 20_000
#: Equal answers count as copies if they were less likely than this by chance, in nats.
_UNLIKELY = -14.0
#: How far the logprobs of a greedy answer may move with the batch, in nats.
_BATCH = 0.02

#: From which share of the largest probability a token is rare, and what is left of the rare ones' probability.
_TAIL = tuple((share, left) for share in (0.003, 0.01, 0.03, 0.1) for left in (0.05, 0.4))


def _alternatives() -> dict[str, Sequence[Hypothesis]]:
    return {
        "draws rare tokens too seldom or never, as where its noise has too few bits for the tail of a distribution": [
            hypothesis(("tail", one)) for one in _TAIL
        ],
        "draws from a sharper distribution than the one listed": [hypothesis(("temperature", t)) for t in (0.6, 0.8)],
        "draws from a flatter distribution than the one listed": [hypothesis(("temperature", t)) for t in (1.3, 1.8)],
    }


def check_noise(subject: Subject) -> Iterator[Finding]:
    """Whether first tokens come from the listed distribution at neutral settings, its tail included."""
    if not subject.distributions:
        yield untested("noise", NO_LISTS)
        return
    cells = subject.draw(_DRAWS)
    prompt = max(subject.distributions, key=lambda one: _tail(subject.distributions[one]))
    cells += subject.draw(_DRAWS, prompt=prompt, distribution=subject.distributions[prompt], first=True)
    verdict = weigh(cells, [hypothesis()], _alternatives(), rng=subject.rng)
    yield _noise("noise", verdict, "At neutral settings the sampler", subject.whose)


def _tail(distribution: Distribution) -> float:
    """How well it shows the bits of the noise: by the mass of rare tokens beside a likely one."""
    p = np.exp(distribution.logprobs)
    return float(min(p[0], 0.5) * min(p[p < 0.02 * p[0]].sum() + distribution.rest, 0.25))


def _noise(name: str, verdict: Verdict, who: str, whose: str) -> Finding:
    said = verdict.nearest or "draws from another distribution than the one listed"
    bad = f"{who} {said}; it should draw from the one that {whose}, with its tail."
    return Finding(name, None, verdict.p_value, bad, f"{who} draws from the distribution that {whose}.")


def check_seeded_noise(subject: Subject) -> Iterator[Finding]:
    """Whether the draws of consecutive seeds come from the listed distribution."""
    if not subject.distributions:
        yield untested("seeded_noise", NO_LISTS)
        return
    n = min(_CHOICES, subject.size) if subject.independent else 1
    sized = {"n": n} if n > 1 else {}
    more = {"logprobs": True, "top_logprobs": 0, **sized}
    # A likely token and others: wrong noise is seen best where few tokens compete.
    prompt = min(
        subject.distributions, key=lambda one: abs(float(np.exp(subject.distributions[one].logprobs[0])) - 0.6)
    )
    asked = [(prompt, {**more, "seed": _SEED + at * (n + 1)}) for at in range(_SEEDS)]
    try:
        found = subject.ask.each(asked)
    except RequestError as error:
        yield untested("seeded_noise", f"the endpoint refuses a seed ({error.message}).")
        return
    first = [first_keys(answers, subject.distributions[prompt]) for answers in found]
    if len(first) > 8 and len({tuple(one) for one in first}) == 1:
        yield untested("seeded_noise", "every seed gives the same draws; see seed.")
        return
    if n > 1 and all(len(set(one)) <= 1 for one in first):  # copies: one draw for each seed
        first = [one[:1] for one in first]
    cells = [cell_of(subject.distributions[prompt], [key for one in first for key in one], {})]
    verdict = weigh(cells, [hypothesis()], _alternatives(), rng=subject.rng)
    yield _noise("seeded_noise", verdict, "With a seed the sampler", subject.whose)


def check_later_tokens(subject: Subject) -> Iterator[Finding]:
    """Whether later tokens come from the distributions listed beside them, and do not repeat the noise of earlier ones.

    What drafts of another model would bend, where they are accepted too readily, is seen here.
    """
    if not subject.listed:
        for name in ("later_tokens", "repeated_noise"):
            yield untested(name, NO_LISTS)
        return
    n = min(8, subject.size) if subject.independent else 1
    more = {"max_tokens": 32, "logprobs": True, "top_logprobs": subject.alternatives}
    sized = {"n": n} if n > 1 else {}
    asked = [(subject.prompt, {**more, **sized})] * -(-_ANSWERS // n)
    cells = [cell for answers in subject.ask.each(asked) for one in answers for cell in positions(one, {}, since=1)]
    sharp, flat = (0.5, 0.7, 0.85), (1.2, 1.5)
    repeats = [partial(_boosted, by=by) for by in (0.5, 1.0, 2.0)]
    verdict = weigh(
        cells, [hypothesis()],
        {
            "sharper than": [hypothesis(("temperature", t)) for t in sharp]
            + [partial(_greedy_share, share=share) for share in (0.1, 0.2, 0.4)],
            "flatter than": [hypothesis(("temperature", t)) for t in flat],
            "repeats": repeats,
        },
        rng=subject.rng,
    )  # fmt: skip
    is_repeat = verdict.nearest == "repeats"
    name = verdict.nearest if verdict.nearest and not is_repeat else "other than"
    yield Finding(
        "later_tokens", None, 1.0 if is_repeat else verdict.p_value,
        f"Tokens after the first are drawn from distributions {name} those listed beside them, as where drafts are "
        "accepted too readily; each should come from the listed one.",
        "Tokens after the first are drawn from the distributions listed beside them.",
    )  # fmt: skip
    only = weigh(
        [cell for cell in cells if cell.seen is not None and cell.seen.any()], [hypothesis()], {"repeats": repeats},
        rng=subject.rng,
    )  # fmt: skip
    yield Finding(
        "repeated_noise", None, only.p_value if is_repeat or verdict.nearest is None else 1.0,
        "A token that was drawn before is drawn again too often, as where every position gets the same noise; each "
        "position should have noise of its own.",
        "Every position has noise of its own.",
    )  # fmt: skip


def _boosted(cell: Cell, *, by: float) -> np.ndarray:
    assert cell.seen is not None
    return sampled(cell.distribution, [("add", by * (cell.seen > 0))])


def _greedy_share(cell: Cell, *, share: float) -> np.ndarray:
    distribution = sampled(cell.distribution, []) + math.log1p(-share)
    distribution[0] = np.logaddexp(distribution[0], math.log(share))
    return distribution


def check_seed(subject: Subject) -> Iterator[Finding]:
    """Whether a seed is honoured, and whether it is one request's or one choice's."""
    n = min(4, subject.size)
    more: dict[str, Any] = {"max_tokens": LONG, "logprobs": True, "top_logprobs": 0, **({"n": n} if n > 1 else {})}
    seeds = (_SEED, _SEED, _SEED + 1, _SEED + 7919)
    try:
        found = subject.ask.each([(STORY, {**more, "seed": seed}) for seed in seeds], together=False)
    except RequestError as error:
        for name in ("seed", "seed_scope", "seed_bits"):
            yield untested(name, f"the endpoint refuses a seed ({error.message}).")
        return
    first, again, following, other = found
    same = [one.keys == two.keys for one, two in zip(first, again, strict=False)]
    if not same or not any(map(_is_unlikely, first)):
        for name in ("seed", "seed_scope", "seed_bits"):
            yield untested(name, "the answers are too certain to tell one draw from another.")
        return
    broken = None
    if not any(same):
        broken = "seed is ignored: the same seed gives other answers; it should give the same ones."
    elif not all(same):
        broken = (
            f"seed fixes {sum(same)} of {len(same)} choices of a request; the same seed should give the same choices."
        )
    elif _share(first, following) and _share(first, other):
        broken = "Different seeds give the same answers, as if the seed were a constant; they should differ."
    yield certain("seed", broken, fine="The same seed gives the same answers, another seed other ones.")
    yield certain("seed_scope", None if broken else _scope(first, following), fine="Each choice has noise of its own.")
    if broken:
        yield untested("seed_bits", "the seed is not honoured.")
        return
    try:
        wide = subject.ask(STORY, **more, seed=_SEED + 2**32)
    except RequestError:
        yield certain("seed_bits", None, fine="A seed beyond 32 bits is refused.")
        return
    broken = "Only 32 bits of the seed count: a seed and the same plus 2**32 give the same answers; all should count."
    yield certain("seed_bits", broken if _share(first, wide) else None, fine="More than 32 bits of the seed count.")


def _is_unlikely(answer: Answer) -> bool:
    if not answer.tokens:
        return len(answer.text) >= 40
    return sum(token.logprob for token in answer.tokens if token.logprob > -math.inf) < _UNLIKELY


def _share(some: list[Answer], others: list[Answer]) -> bool:
    """Whether the first choices are the same, and long enough that this is no chance."""
    return bool(some and others) and some[0].keys == others[0].keys and _is_unlikely(some[0])


def _scope(first: list[Answer], following: list[Answer]) -> str | None:
    copies = [one for at, one in enumerate(first) if any(one.keys == two.keys for two in first[:at])]
    if any(map(_is_unlikely, copies)):
        return (
            "With a seed the choices of one request are copies of each other: its noise is the request's; each choice "
            "should have noise of its own."
        )
    shifted = zip(first[1:], following, strict=False)
    if len(first) > 1 and any(one.keys == two.keys and _is_unlikely(one) for one, two in shifted):
        return (
            "A choice's seed is the request's plus its index, so that consecutive seeds share answers (choice 1 of a "
            "seed is choice 0 of the next); the noise of different seeds should be independent."
        )
    return None


def check_batch(subject: Subject) -> Iterator[Finding]:
    """Whether an answer at temperature 0 depends on what is computed beside it."""
    more = {"temperature": 0.0, "max_tokens": LONG, "logprobs": True, "top_logprobs": 0}
    prompts = list(subject.first)[:4]
    alone = subject.ask.each([(one, more) for one in prompts], together=False)
    again = subject.ask.each([(prompts[0], more)], together=False)
    n = min(8, subject.size)
    sized = {"n": n} if n > 1 else {}
    beside = subject.ask.each([(one, {**more, **sized}) for one in prompts])
    if not all((*alone, *again, *beside)):
        yield untested("batch", "an answer has no choices.")
        return
    jitter = _apart(alone[0][0], again[0][0])
    pairs = [(one[0], two) for one, many in zip(alone, beside, strict=True) for two in many]
    moved = max(_apart(one, two) for one, two in pairs)
    others = sum(one.text != two.text for one, two in pairs)
    broken = None
    if math.isinf(jitter):
        broken = "Two equal requests at temperature 0, one after the other, get different texts; they should be equal."
    elif others:
        broken = (
            f"At temperature 0 an answer depends on the batch: {others} of {len(pairs)} texts change where others are "
            "made beside them; none should."
        )
    elif moved > max(_BATCH, 5 * jitter):
        broken = (
            f"At temperature 0 logprobs depend on the batch, by up to {moved:.2f} nats where other answers are made "
            "beside them; they should not."
        )
    yield certain("batch", broken, fine="At temperature 0 an answer does not depend on what is made beside it.")


def _apart(one: Answer, other: Answer) -> float:
    """The largest difference of two answers' logprobs in nats, infinite where their tokens differ."""
    if one.keys != other.keys:
        return math.inf
    pairs = zip(one.tokens, other.tokens, strict=True)
    return max(
        (abs(a.logprob - b.logprob) for a, b in pairs if math.inf > abs(a.logprob) and math.inf > abs(b.logprob)),
        default=0.0,
    )
