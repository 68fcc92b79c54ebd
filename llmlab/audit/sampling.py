"""Tests of the sampler's stages by the tokens that it draws: temperature, filters, and the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llmlab.audit.distributions import Cell, Distribution, Step, sampled
from llmlab.audit.evidence import Hypothesis, weigh
from llmlab.audit.subject import NO_LISTS, Finding, Subject, first_keys, untested
from llmlab.errors import RequestError

#: How many draws a test takes.
DRAWS = 256
#: The least gap in nats between two neighbours of which a filter keeps one: less may be rounding.
_GAP = 0.05
#: The least share of the draws in which two distributions must differ, for a test between them.
_APART = 0.08

IGNORED = "is ignored"


def hypothesis(*steps: tuple[Any, ...]) -> Hypothesis:
    """A distribution of fixed steps. A step's value may be the name of a field, whose value is then the request's."""

    def distribution(cell: Cell) -> np.ndarray:
        named = [(name, cell.fields.get(value) if isinstance(value, str) else value) for name, value in steps]
        return sampled(cell.distribution, [step for step in named if step[1] is not None])

    return distribution


def test(
    subject: Subject,
    name: str,
    requests: Sequence[Mapping[str, Any]],
    honest: Hypothesis,
    alternatives: Mapping[str, Sequence[Hypothesis]],
    *,
    fine: str,
    should: str,
    about: str = "",
    draws: int = DRAWS,
    distribution: Distribution | None = None,
    prompt: str | None = None,
    first: bool = False,
) -> Iterator[Finding]:
    """Draws under each of some requests' fields, and tests the draws against the honest distribution.

    Args:
        subject: the endpoint.
        name: the finding's name.
        requests: the fields of each request.
        honest: the distribution that the draws should come from.
        alternatives: what the endpoint may do instead -> distributions of that.
        fine: the finding where the draws fit.
        should: what the endpoint should do, for the finding where they do not.
        about: how the fields are called in the finding; by default the name.
        draws: how many, of each request.
        distribution: the distribution at neutral settings; by default the chosen prompt's.
        prompt: the prompt.
        first: whether only first tokens count; see `Subject.draw`.
    """
    about = about or name
    if not subject.distributions:
        yield untested(name, NO_LISTS)
        return
    cells = []
    try:
        for fields in requests:
            cells += subject.draw(draws, distribution=distribution, prompt=prompt, first=first, **fields)
    except RequestError as error:
        yield untested(name, f"the endpoint refuses it ({error.message}).")
        return
    verdict = weigh(cells, [honest], alternatives, rng=subject.rng)
    said = (
        f"{about} {verdict.nearest}"
        if verdict.nearest
        else f"{about} has an effect that fits no distribution known here"
    )
    yield Finding(name, None, verdict.p_value, f"{said}; {should}", fine)


def check_temperature(subject: Subject) -> Iterator[Finding]:
    """Whether the temperature divides the logits, below and above 1."""

    def score(distribution: Distribution) -> tuple[float, bool | None]:
        distributions = [np.exp(sampled(distribution, [("temperature", t)])[:-1]) for t in (0.5, 1.0, 1.6)]
        distributions = [one / one.sum() for one in distributions]
        return min(float(np.abs(one - distributions[1]).sum()) for one in (distributions[0], distributions[2])), True

    telling = _best(subject, score)
    prompt, distribution, _ = telling or (None, None, None)
    yield from test(
        subject, "temperature", [{"temperature": 0.5}, {"temperature": 1.6}],
        hypothesis(("temperature", "temperature")),
        {
            IGNORED: [hypothesis()],
            "multiplies the logits": [_of_temperature(lambda t: 1 / t)],
            "is clamped to at most 1": [_of_temperature(lambda t: min(t, 1.0))],
            "is clamped to at least 0.7 or 1": [_of_temperature(lambda t, low=low: max(t, low)) for low in (0.7, 1.0)],
            "is applied twice": [_of_temperature(lambda t: t * t)],
            "acts by its square root": [_of_temperature(lambda t: t**0.5)],
        },
        fine="temperature divides the logits, at 0.5 and at 1.6.", should="it should divide the logits.",
        distribution=distribution, prompt=prompt,
    )  # fmt: skip


def _of_temperature(change: Any) -> Hypothesis:
    def distribution(cell: Cell) -> np.ndarray:
        return sampled(cell.distribution, [("temperature", change(cell.fields["temperature"]))])

    return distribution


def check_greedy(subject: Subject) -> Iterator[Finding]:
    """Whether temperature 0 takes the most likely token."""
    if not subject.distributions:
        yield untested("greedy", NO_LISTS)
        return
    wrong, total = 0, 0
    prompts = list(subject.distributions)[:4]
    n = min(8, subject.size)
    sized = {"n": n} if n > 1 else {}
    more = {"temperature": 0.0, "logprobs": True, "top_logprobs": 0, **sized}
    for prompt, answers in zip(prompts, subject.ask.each([(one, more) for one in prompts]), strict=True):
        distribution = subject.distributions[prompt]
        best = {
            key
            for key, value in zip(distribution.keys, distribution.logprobs, strict=True)
            if value > distribution.logprobs[0] - _GAP
        }
        drawn = first_keys(answers, distribution)
        wrong, total = wrong + sum(key not in best for key in drawn), total + len(drawn)
    yield Finding(
        "greedy", wrong == 0, 1.0 if wrong == 0 else 0.0,
        "temperature 0 takes the most likely token." if wrong == 0 else
        f"temperature 0 takes another token than the most likely one in {wrong} of {total} draws; it should never.",
    )  # fmt: skip


def _best(subject: Subject, score: Callable[[Distribution], tuple[float, Any]]) -> tuple[str, Distribution, Any] | None:
    """The prompt that tells most for a test, its distribution, and what the score found; None if none does."""
    found = [
        (*score(distribution), prompt, distribution)
        for prompt, distribution in subject.distributions.items()
        if distribution.rest < 0.5
    ]
    telling = [one for one in found if one[1] is not None]
    if not telling:
        return None
    _, value, prompt, distribution = max(telling, key=lambda one: one[0])
    return prompt, distribution, value


def _nowhere(subject: Subject, name: str, why: str) -> Finding:
    """A test for which no distribution is suited, or none is known."""
    return untested(name, why if subject.distributions else NO_LISTS)


def check_top_k(subject: Subject) -> Iterator[Finding]:
    """Whether top_k keeps exactly k tokens."""

    def score(distribution: Distribution) -> tuple[float, int | None]:
        gaps, p = -np.diff(distribution.logprobs[:9]), np.exp(distribution.logprobs)
        # Beyond the k-th there must be enough to see, and the k-th itself must be seen as well.
        scores = [
            (float(min(p[k], p[k - 1], 0.3)), k)
            for k in range(2, len(gaps))
            if gaps[k - 1] > _GAP and gaps[k - 2] > _GAP
        ]
        best = max(scores, default=(0.0, 0))
        return best if best[0] > 0.01 else (0.0, None)

    found = _best(subject, score)
    if found is None:
        yield _nowhere(subject, "top_k", "no two neighbours of the distributions are far enough apart.")
        return
    prompt, distribution, k = found
    yield from test(
        subject, "top_k", [{"top_k": k}], hypothesis(("top_k", k)),
        {
            IGNORED: [hypothesis()],
            f"keeps one token more than asked for ({k + 1} for {k})": [hypothesis(("top_k", k + 1))],
            f"keeps one token fewer than asked for ({k - 1} for {k})": [hypothesis(("top_k", k - 1))],
        },
        fine=f"top_k keeps exactly the {k} most likely tokens.", should=f"it should keep exactly {k}.",
        distribution=distribution, prompt=prompt,
    )  # fmt: skip


def check_ties(subject: Subject) -> Iterator[Finding]:
    """Whether top_k keeps exactly k tokens where the k-th and the next are equally likely."""
    found = [
        (float(np.exp(distribution.logprobs[at])), prompt, at + 1)
        for prompt, distribution in subject.distributions.items()
        for at in range(min(8, len(distribution.logprobs) - 2))
        if abs(distribution.logprobs[at] - distribution.logprobs[at + 1]) < 1e-6
        and distribution.logprobs[at + 1] - distribution.logprobs[at + 2] > _GAP
    ]
    if not found or subject.size < 2 or not subject.independent:
        why = "no two equally likely tokens are among the first, or draws are too few."
        yield _nowhere(subject, "top_k_ties", why)
        return
    _, prompt, k = max(found)
    distribution = subject.distributions[prompt]
    other = np.where(np.arange(len(distribution.keys)) == k - 1, -1e-3, 0.0)  # the later of the two comes first
    try:
        cells = subject.draw(3 * DRAWS, prompt=prompt, distribution=distribution, first=True, top_k=k)
    except RequestError as error:
        yield untested("top_k_ties", f"the endpoint refuses top_k ({error.message}).")
        return
    either = [hypothesis(("top_k", k)), hypothesis(("add", other), ("top_k", k))]

    def random(cell: Cell) -> np.ndarray:
        return np.asarray(np.logaddexp(*(one(cell) for one in either)) - np.log(2))

    verdict = weigh(
        cells, [*either, random],
        {"both": [hypothesis(("top_k", k + 1))], **({"neither": [hypothesis(("top_k", k - 1))]} if k > 1 else {})},
        rng=subject.rng,
    )  # fmt: skip
    yield Finding(
        "top_k_ties", None, verdict.p_value,
        f"top_k keeps {verdict.nearest} of two tokens that tie at place {k}; it should keep exactly {k} tokens.",
        f"top_k keeps exactly {k} tokens also where two tie.",
    )  # fmt: skip


def check_top_p(subject: Subject) -> Iterator[Finding]:
    """Whether top_p keeps the token that crosses p, and none after it."""

    def score(distribution: Distribution) -> tuple[float, int | None]:
        p = np.exp(distribution.logprobs)
        best = max((float(min(p[at], p[at + 1], 0.3)), at) for at in range(1, min(8, len(p) - 1)))
        return best if best[0] > 0.02 else (0.0, None)

    found = _best(subject, score)
    if found is None:
        yield _nowhere(subject, "top_p", "no distribution has a place where it could be seen.")
        return
    prompt, distribution, j = found
    p = np.exp(distribution.logprobs)
    value = round(float(np.cumsum(p)[j] - p[j] / 2), 4)  # in the middle of the j-th token, then the last one kept
    yield from test(
        subject, "top_p", [{"top_p": value}], hypothesis(("top_p", value)),
        {
            IGNORED: [hypothesis()],
            f"leaves out the token with which the mass crosses {value}": [hypothesis(("top_p_exclusive", value))],
            "keeps one token too many": [hypothesis(("top_k", j + 2))],
        },
        fine=f"top_p = {value} keeps {j + 1} tokens: those before which the mass is below it.",
        should=f"it should keep {j + 1} tokens: those before which the mass is below {value}.",
        distribution=distribution, prompt=prompt,
    )  # fmt: skip


def check_min_p(subject: Subject) -> Iterator[Finding]:
    """Whether min_p is a share of the largest probability."""
    found = _best(subject, lambda distribution: _between(distribution.logprobs))
    if found is None:
        yield _nowhere(subject, "min_p", "no distribution has a place where it could be seen.")
        return
    prompt, distribution, m = found
    yield from test(
        subject, "min_p", [{"min_p": m}], hypothesis(("min_p", m)),
        {IGNORED: [hypothesis()], "is taken as a probability, not as a share of the largest one": [
            hypothesis(("absolute_p", m))]},
        fine=f"min_p = {m} keeps the tokens that are at least {m} times as likely as the most likely one.",
        should=f"it should keep the tokens that are at least {m} times as likely as the most likely one.",
        distribution=distribution, prompt=prompt,
    )  # fmt: skip


def _between(lp: np.ndarray) -> tuple[float, float | None]:
    """A min_p that keeps other tokens than the same number as a probability would, and how different the masses are."""
    p, best, found = np.exp(lp), _APART, None
    for j in range(1, min(9, len(lp))):
        for share in (0.5, 0.25, 0.75):
            m = round(float(np.exp(lp[j - 1] - lp[0] - share * (lp[j - 1] - lp[j]))), 4)
            if not 0 < m < 1 or not _is_clear(lp, lp[0] + np.log(m)):
                continue
            kept, absolute = int((lp >= lp[0] + np.log(m)).sum()), max(1, int((lp >= np.log(m)).sum()))
            apart = float(p[absolute:kept].sum() / p[:kept].sum())
            if apart > best and p[kept:].sum() > 0.03:
                best, found = apart, m
    return best, found


def _is_clear(lp: np.ndarray, edge: float) -> bool:
    return bool(np.abs(lp - edge).min() > _GAP / 4)


def check_order_top_p(subject: Subject) -> Iterator[Finding]:
    """Whether top_p comes after the temperature."""
    yield from _order(
        subject, "order_top_p", "top_p", [0.5, 0.7],
        lambda t, v: (("temperature", t), ("top_p", v)), lambda t, v: (("top_p", v), ("temperature", t)),
    )  # fmt: skip


def check_order_min_p(subject: Subject) -> Iterator[Finding]:
    """Whether min_p comes after the temperature."""
    yield from _order(
        subject, "order_min_p", "min_p", [0.5, 1.5],
        lambda t, v: (("temperature", t), ("min_p", v)), lambda t, v: (("min_p", v), ("temperature", t)),
    )  # fmt: skip


def _order(
    subject: Subject, name: str, field: str, temperatures: Sequence[float], right: Any, wrong: Any
) -> Iterator[Finding]:
    """Tests two orders of the temperature and a filter, at values where they keep different tokens."""

    def score(distribution: Distribution) -> tuple[float, tuple[float, float] | None]:
        best, found = 0.0, None
        for t in temperatures:
            for v in np.arange(0.1, 0.95, 0.05).round(2).tolist():
                apart = _apart(distribution, right, wrong, t, v, unlike_one=True) if distribution.rest < 0.2 else 0.0
                if apart > best:
                    best, found = apart, (t, v)
        return best, found

    telling = _best(subject, score)
    if telling is None:
        yield _nowhere(subject, name, "both orders give nearly the same distribution after every prompt.")
        return
    prompt, distribution, (t, v) = telling
    yield from test(
        subject, name, [{"temperature": t, field: v}], hypothesis(*right(t, v)),
        {
            "comes before the temperature": [hypothesis(*wrong(t, v))],
            "is ignored beside a temperature": [hypothesis(("temperature", t))],
            "makes the temperature be ignored": [hypothesis((field, v))],
        },
        about=field, fine=f"{field} comes after the temperature.", should="it should come after the temperature.",
        distribution=distribution, prompt=prompt,
    )  # fmt: skip


def _apart(distribution: Distribution, right: Any, wrong: Any, one: float, v: float, *, unlike_one: bool) -> float:
    """How far apart the distributions of two orders are with parameters `one` and `v`; 0 where v is too near an edge.

    It is the total variation; with `unlike_one` less where the wrong order hardly differs from one of its steps.
    """
    steps = right(one, v)
    distributions = [sampled(distribution, each)[:-1] for each in (steps, wrong(one, v))]
    first, second = (np.exp(each) for each in distributions)
    apart = 0.5 * float(np.abs(first - second).sum())
    if apart < _APART:
        return 0.0
    for order, found in zip((right, wrong), distributions, strict=True):
        kept = np.isfinite(found)
        if any((np.isfinite(sampled(distribution, order(one, v + off))[:-1]) != kept).any() for off in (-0.008, 0.008)):
            return 0.0  # rounding would decide which tokens are kept
    if not unlike_one:
        return apart
    alone = [np.exp(sampled(distribution, [step])[:-1]) for step in steps]
    return apart * min(1.0, *(5 * float(np.abs(each - second).sum()) for each in alone))


def check_order_top_k(subject: Subject) -> Iterator[Finding]:
    """Whether top_p measures its mass over what top_k has left."""

    def right(k: float, v: float) -> tuple[Step, ...]:
        return ("top_k", int(k)), ("top_p", v)

    def wrong(k: float, v: float) -> tuple[Step, ...]:
        return ("top_p", v), ("top_k", int(k))

    def score(distribution: Distribution) -> tuple[float, tuple[int, float] | None]:
        best, found = 0.0, None
        for k in range(2, min(9, len(distribution.logprobs))):
            if distribution.logprobs[k - 1] - distribution.logprobs[k] < _GAP:
                continue
            for v in np.arange(0.25, 0.96, 0.05).round(2).tolist():
                # Of two filters in the wrong order one always does all the work.
                apart = _apart(distribution, right, wrong, k, v, unlike_one=False)
                if apart > best:
                    best, found = apart, (k, v)
        return best, found

    telling = _best(subject, score)
    if telling is None:
        yield _nowhere(subject, "order_top_k", "both orders give nearly the same distribution after every prompt.")
        return
    prompt, distribution, (k, v) = telling
    yield from test(
        subject, "order_top_k", [{"top_k": k, "top_p": v}], hypothesis(("top_k", k), ("top_p", v)),
        {
            "measures its mass over all tokens, as if it came before top_k": [hypothesis(("top_p", v), ("top_k", k))],
            "is ignored beside top_k": [hypothesis(("top_k", k))],
            "makes top_k be ignored": [hypothesis(("top_p", v))],
        },
        about="top_p", fine="top_p measures its mass over what top_k has left.",
        should="it should measure it over what top_k has left.", distribution=distribution, prompt=prompt,
    )  # fmt: skip
