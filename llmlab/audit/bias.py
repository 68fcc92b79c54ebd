"""Tests of `logit_bias` and of the penalties: what is added to or divided out of single tokens' logits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from llmlab.audit.distributions import Cell, Distribution, Step, sampled
from llmlab.audit.evidence import Hypothesis, weigh
from llmlab.audit.sampling import DRAWS, IGNORED, hypothesis, test
from llmlab.audit.subject import NO_LISTS, Finding, Subject, positions, untested
from llmlab.errors import RequestError

#: The constant between logits and logprobs, which an endpoint does not report: an honest distribution may have any of
#: these.
_OFFSETS = tuple(np.concatenate([np.arange(-6, 12, 0.25), np.arange(12, 60, 2.0)]).tolist())
_REPETITION = 2.0
#: Tokens that are not listed may be penalized as well: what is known is the distribution of the others.
_LISTED = ("listed", True)
#: The answers from which penalties are seen, and their length.
_ANSWERS, _LENGTH = 8, 32


def check_bias(subject: Subject) -> Iterator[Finding]:
    """Whether `logit_bias` is added as it is, and before the temperature."""
    distribution = subject.distribution
    if not subject.distributions:
        for name in ("logit_bias", "order_logit_bias"):
            yield untested(name, NO_LISTS)
        return
    known = [at for at, one in enumerate(distribution.ids) if one is not None]
    if not known:
        yield untested("logit_bias", "the endpoint lists no token ids.")
        yield untested("order_logit_bias", "the endpoint lists no token ids.")
        return
    # A rare token and a large number, and a common one and a small number, so that about half of the mass moves: a
    # clamp shows at the first, and what the second gets tells a clamp from a field that is ignored.
    rare = known[-1]
    common = min(known, key=lambda at: abs(float(distribution.logprobs[at]) + 3.0))
    values = {at: round(min(-float(distribution.logprobs[at]), 20.0), 1) for at in (rare, common)}
    told = " and ".join(str(value) for value in sorted(set(values.values())))
    yield from test(
        subject, "logit_bias", [{"logit_bias": {str(distribution.ids[at]): value}} for at, value in values.items()],
        _biased(lambda b: b),
        {
            IGNORED: [hypothesis()],
            "is clamped": [_biased(partial(min, most)) for most in (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)],
            "is subtracted": [_biased(lambda b: -b)],
            "is added twice": [_biased(lambda b: 2 * b)],
            "forces the token": [_biased(lambda b: 50.0)],
        },
        fine=f"logit_bias is added as it is ({told}).", should=f"it should be added as it is ({told}).", first=True,
    )  # fmt: skip
    # As likely as the most likely token, if it is added before the temperature.
    even = round(min(float(distribution.logprobs[0] - distribution.logprobs[rare]), 20.0), 2)
    if even < 0.7:
        yield untested("order_logit_bias", "no rare token is listed.")
        return
    yield from test(
        subject, "order_logit_bias", [{"logit_bias": {str(distribution.ids[rare]): even}, "temperature": 0.5}],
        _biased(lambda b: b, ("temperature", 0.5)),
        {"is added after the temperature": [_biased(lambda b: 0.5 * b, ("temperature", 0.5))]},
        about="logit_bias", fine="logit_bias is added before the temperature.",
        should="it should be added before the temperature.", first=True,
    )  # fmt: skip


def _biased(change: Callable[[float], float], *then: Step) -> Hypothesis:
    """The distribution with the request's biases, each changed, and further steps after them."""

    def distribution(cell: Cell) -> np.ndarray:
        biases = cell.fields["logit_bias"]
        added = [change(biases[str(one)]) if str(one) in biases else 0.0 for one in cell.distribution.ids]
        return sampled(cell.distribution, [("add", np.array(added)), *then])

    return distribution


def check_penalties(subject: Subject) -> Iterator[Finding]:
    """The formulas of presence_penalty and frequency_penalty, by the tokens that long answers repeat."""
    if not subject.raw:
        why = "the logprobs of later tokens are not the model's own." if subject.listed else NO_LISTS
        for name in ("presence_penalty", "frequency_penalty"):
            yield untested(name, why)
        return
    # Negative penalties invite repetition, so that tokens with a count of several are seen.
    yield from _penalty(
        subject, "presence_penalty", [1.5, -1.5], lambda seen: 1.0 * (seen > 0),
        {"is multiplied by the count, as the frequency penalty is": lambda seen: 1.0 * seen},
        "subtracted once from each token that was generated.",
    )  # fmt: skip
    yield from _penalty(
        subject, "frequency_penalty", [1.0, -0.7], lambda seen: 1.0 * seen,
        {"is subtracted once, whatever the count": lambda seen: 1.0 * (seen > 0)},
        "subtracted for each time that a token was generated.",
    )  # fmt: skip


def _penalty(
    subject: Subject, name: str, values: list[float], count: Any, others: dict[str, Any], should: str
) -> Iterator[Finding]:
    def distribution_of(times: Any, factor: float = 1.0) -> Hypothesis:
        def distribution(cell: Cell) -> np.ndarray:
            assert cell.seen is not None
            return sampled(cell.distribution, [("add", -factor * cell.fields[name] * times(cell.seen)), _LISTED])

        return distribution

    size = min(_ANSWERS, subject.size) if subject.independent else 1
    more = {"max_tokens": _LENGTH, "logprobs": True, "top_logprobs": subject.alternatives}
    sized = {"n": size} if size > 1 else {}
    cells: list[Cell] = []
    try:
        for value in values:
            for _ in range(-(-_ANSWERS // size)):
                prompt = PROMPT_OF_PENALTIES if PROMPT_OF_PENALTIES in subject.distributions else subject.prompt
                for answer in subject.ask(prompt, **{name: value}, **more, **sized):
                    cells += positions(answer, {name: value}, since=1)
    except RequestError as error:
        yield untested(name, f"the endpoint refuses it ({error.message}).")
        return
    cells = [cell for cell in cells if _may_repeat(cell)]
    if len(cells) < 30:
        yield untested(name, "hardly a token is likely to be repeated.")
        return
    verdict = weigh(
        cells, [distribution_of(count)],
        {
            IGNORED: [distribution_of(lambda seen: 0.0 * seen)],
            **{said: [distribution_of(times)] for said, times in others.items()},
            "is added, not subtracted": [distribution_of(count, -1.0)], "is halved": [distribution_of(count, 0.5)],
            "is doubled": [distribution_of(count, 2.0)],
        },
        rng=subject.rng,
    )  # fmt: skip
    said = verdict.nearest or "has an effect that fits no distribution known here"
    yield Finding(name, None, verdict.p_value, f"{name} {said}; it should be {should}", f"{name} is {should}")


def _may_repeat(cell: Cell) -> bool:
    """Whether a token that was generated before has any chance to be drawn again; other draws tell nothing."""
    return cell.seen is not None and float(np.exp(cell.distribution.logprobs[cell.seen > 0]).sum()) > 0.01


PROMPT_OF_PENALTIES = "Tell me a short story."


def check_scope(subject: Subject) -> Iterator[Finding]:
    """Whether the penalties count the prompt's tokens: repetition_penalty should, the other two should not."""
    found = _prompt_with_tokens(subject) if subject.distributions else None
    if found is None:
        why = "no likely first token could be put into a prompt." if subject.distributions else NO_LISTS
        for name in ("penalty_scope", "repetition_penalty"):
            yield untested(name, why)
        return
    prompt, distribution, there = found
    names = ("presence_penalty", "frequency_penalty")
    for_each = dict.fromkeys(names, 1.5)
    shift = 1.5 * there
    yield from test(
        subject, "penalty_scope", [for_each], hypothesis(),
        {
            "count the prompt's tokens": [
                hypothesis(("add", -shift * share)) for share in (1.0, 2.0, 3.0)
            ]
        },
        about="presence_penalty and frequency_penalty", fine="Both penalties count generated tokens only.",
        should="they should count generated tokens only.", distribution=distribution, prompt=prompt, first=True,
    )  # fmt: skip
    yield from _repetition(subject, prompt, distribution, there)


def _repetition(subject: Subject, prompt: str, distribution: Distribution, there: np.ndarray) -> Iterator[Finding]:
    r = _REPETITION
    try:
        cells = subject.draw(4 * DRAWS, prompt=prompt, distribution=distribution, first=True, repetition_penalty=r)
    except RequestError as error:
        yield untested("repetition_penalty", f"the endpoint refuses it ({error.message}).")
        return
    if "repetition_penalty" in subject.ask.refused:
        yield untested("repetition_penalty", "the endpoint refuses it.")
        return

    def distribution_of(step: str, z: float) -> Hypothesis:
        return lambda cell: sampled(cell.distribution, [(step, r, there, z), _LISTED])

    verdict = weigh(
        cells, [distribution_of("repetition", z) for z in _OFFSETS],
        {
            "does not count the prompt's tokens": [hypothesis()],
            "divides negative logits too, which makes their tokens likelier": [
                distribution_of("divide", z) for z in _OFFSETS
            ],
            "is subtracted from the logits": [
                hypothesis(("add", -1.0 * there * s)) for s in (math.log(r), r - 1, r)],
        },
        rng=subject.rng,
    )  # fmt: skip
    should = "it should divide the positive logits and multiply the negative ones, of the prompt's tokens as well."
    said = verdict.nearest or "has an effect that fits no distribution known here"
    if verdict.nearest and verdict.nearest.startswith("does not"):
        lowers = _lowers_repeats(subject)
        said = {True: said, False: IGNORED, None: f"{IGNORED}, or {said}"}[lowers]
    yield Finding(
        "repetition_penalty", None, verdict.p_value,
        f"repetition_penalty {said}; {should}",
        "repetition_penalty divides or multiplies the logits, also of the prompt's tokens.",
    )  # fmt: skip


def _lowers_repeats(subject: Subject) -> bool | None:
    """Whether generated tokens become less likely under a repetition penalty; None where answers cannot show it."""
    if not subject.raw:
        return None
    size = {"n": min(2 * _ANSWERS, subject.size)} if subject.size > 1 else {}
    more = {"max_tokens": _LENGTH, "logprobs": True, "top_logprobs": subject.alternatives, **size}
    cells = []
    for answer in subject.ask(PROMPT_OF_PENALTIES, repetition_penalty=_REPETITION, **more):
        cells += [cell for cell in positions(answer, {}, since=1) if _may_repeat(cell)]

    def lowered(cell: Cell, by: float) -> np.ndarray:
        assert cell.seen is not None
        return sampled(cell.distribution, [("add", -by * (cell.seen > 0))])

    lower = {"lower": [partial(lowered, by=by) for by in (0.5, 1.0, 2.0)]}
    return bool(cells) and weigh(cells, [hypothesis()], lower, rng=subject.rng).nearest is not None


def _prompt_with_tokens(subject: Subject) -> tuple[str, Distribution, np.ndarray] | None:
    """A prompt that names likely first tokens of its own answer, its distribution, and which tokens are in it [K]."""
    words = [text.strip() for text in subject.distribution.texts if re.fullmatch(r"\s?\w{2,}", text)]
    # Some likely ones, whose logits are the largest, and some less likely ones, whose logits may be below 0.
    words = words[:2] + words[4:10]
    if len(words) < 2:
        return None
    # At the start of a line and after a space: a word may be another token there.
    prompt = f"{subject.prompt} Not {', '.join(words)}.\n" + "\n".join(words)
    distribution = subject.list_of(prompt)
    if distribution is None:
        return None
    there = np.array([text.strip() in words for text in distribution.texts])
    mass = float(np.exp(distribution.logprobs)[there].sum())
    return (prompt, distribution, there) if there.sum() >= 2 and 0.05 < mass < 0.98 else None
