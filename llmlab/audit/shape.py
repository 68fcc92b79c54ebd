"""Tests of what an answer looks like: how many choices, tokens and alternatives, which logprobs, where it stops."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np

from llmlab.audit.asking import Answer, Drawn
from llmlab.audit.distributions import Distribution
from llmlab.audit.subject import LONG, NO_LISTS, STORY, Finding, Subject, certain, untested
from llmlab.errors import RequestError

#: How far two logprobs of one token may differ in nats, at least: other batches round otherwise.
_ROUNDING = 0.02


def check_alternatives(subject: Subject) -> Iterator[Finding]:
    """The order and the number of `top_logprobs`, and whether the sampled token is listed with the same logprob."""
    tokens = [token for answer in subject.first.values() for token in answer.tokens[:1]]
    if not tokens:
        yield untested("top_logprobs", "the endpoint lists no logprobs.")
        return
    lists = [[one.logprob for one in token.top] for token in tokens]
    lengths, asked = sorted({len(each) for each in lists}), subject.alternatives
    unsorted = sum(any(a < b - 1e-6 for a, b in zip(each, each[1:], strict=False)) for each in lists)
    # Some list the sampled token as one more, in front or at the end.
    extra = sum(_is_sorted_but_for_one(token) for token in tokens if _unsorted(token))
    broken = None
    if lengths[-1] < asked or lengths[-1] > asked + 1:
        broken = f"Lists {lengths[-1]} alternatives where top_logprobs asks for {asked}."
    elif unsorted > extra:
        broken = (
            f"Lists the alternatives of {unsorted} of {len(lists)} tokens out of order; they should come most likely "
            "first."
        )
    elif any(_contradicts(token) for token in tokens):
        broken = "Gives the sampled token another logprob than the same token has among its alternatives."
    elif any(np.exp([one for one in each if one > -math.inf]).sum() > 1.01 for each in lists):
        broken = "Lists alternatives whose probabilities add up to more than 1."
    yield certain("top_logprobs", broken, fine=f"Lists {asked} alternatives, most likely first.")


def _unsorted(token: Drawn) -> bool:
    values = [one.logprob for one in token.top]
    return any(a < b - 1e-6 for a, b in zip(values, values[1:], strict=False))


def _is_sorted_but_for_one(token: Drawn) -> bool:
    values = [one.logprob for one in token.top if one.key != token.key]
    return all(a >= b - 1e-6 for a, b in zip(values, values[1:], strict=False))


def _contradicts(token: Drawn) -> bool:
    same = [one.logprob for one in token.top if one.key == token.key]
    return bool(same) and abs(same[0] - token.logprob) > _ROUNDING


def check_logprobs(subject: Subject) -> Iterator[Finding]:
    """Whether `logprobs` are the model's own, or of the distribution after some of the sampler's stages."""
    distribution = subject.distribution
    if not subject.listed:
        yield untested("logprobs", NO_LISTS)
        return
    more = {"logprobs": True, "top_logprobs": subject.alternatives}
    again, warm, cut = subject.ask.each(
        [(subject.prompt, {**more, **fields}) for fields in ({}, {"temperature": 0.5}, {"top_p": 0.5})]
    )
    noise = _difference(distribution, again)
    tolerance = max(_ROUNDING, 5 * noise)
    moved = [_difference(distribution, answers) for answers in (warm, cut)]
    subject.raw = all(one <= tolerance for one in moved)
    broken = None
    if noise > 0.5:
        broken = f"Two equal requests get logprobs that differ by {noise:.2f} nats; they should be equal."
    elif moved[1] > tolerance:
        broken = (
            "logprobs are those after the whole sampler, with the filters (top_p = 0.5 changes them); they should be "
            "the model's own."
        )
    elif moved[0] > tolerance:
        broken = "logprobs are those after the temperature; they should be the model's own, before every stage."
    yield certain("logprobs", broken, fine="logprobs are the model's own, before every stage of the sampler.")


def _difference(distribution: Distribution, answers: list[Answer]) -> float:
    """The largest difference of the five most likely tokens' logprobs, in nats; infinite where one is missing."""
    if not answers or not answers[0].tokens:
        return math.inf
    there = {one.key: one.logprob for one in answers[0].tokens[0].top}
    return max(
        abs(there.get(key, -math.inf) - value)
        for key, value in zip(distribution.keys[:5], distribution.logprobs[:5], strict=True)
    )


def check_n(subject: Subject) -> Iterator[Finding]:
    """What `n` really makes, and whether the choices of a request are copies of each other."""
    asked, sent = subject.measure()
    if asked == 1:
        yield untested("n", "the endpoint refuses n.")
    else:
        broken = None if sent == asked else f"n = {asked} gets {sent} choice{'s' * (sent != 1)}."
        yield certain("n", broken, fine=f"n = {asked} gets {asked} choices.")
    if sent < 2:
        yield untested("clones", "a request gets one choice.")
        return
    size = min(8, sent)
    answers = subject.ask(STORY, n=size, max_tokens=LONG, logprobs=True, top_logprobs=subject.alternatives)
    logs, copies = copy_evidence(answers)
    p_value = min(1.0, math.exp(-max(min(logs, 700.0), 0.0)))
    if logs > math.log(1e4):
        subject.independent = False
        different = len(answers) - copies
        what = (
            f"The {len(answers)} choices of one request are {different} different text{'s' * (different != 1)}: copies "
            "of each other; each should be drawn by itself."
        )
        yield Finding("clones", False, p_value, what)
    else:
        yield Finding("clones", True, p_value, "The choices of one request are drawn independently.")


def copy_evidence(answers: list[Answer]) -> tuple[float, int]:
    """How much likelier answers are if each may copy an earlier one, as the log of a ratio; and how many are copies.

    Under the alternative a choice copies a random earlier one with probability 1/2. The probability of what is copied
    is that of its tokens, as the endpoint says.
    """
    ratio, copies = 0.0, 0
    for at, answer in enumerate(answers[1:], start=1):
        same = sum(answer.keys == other.keys for other in answers[:at])
        copies += bool(same)
        logprob = sum(token.logprob for token in answer.tokens if token.logprob > -math.inf)
        if not answer.tokens:  # without logprobs: one in two characters, which is less than any language has
            logprob = -0.5 * len(answer.text)
        ratio += float(np.logaddexp(math.log(0.5), math.log(same / at) + math.log(0.5) - logprob if same else -np.inf))
    return ratio, copies


def check_length(subject: Subject) -> Iterator[Finding]:
    """Whether `max_tokens` is kept to, and the finish reason and the usage say so."""
    lengths = (3, 17)
    asked = [(prompt, {"max_tokens": length}) for length in lengths for prompt in list(subject.first)[:3]]
    wrong, reasons, counted = [], set(), 0
    found = subject.ask.each([(prompt, {**fields, "logprobs": True, "top_logprobs": 0}) for prompt, fields in asked])
    for (_, fields), answers in zip(asked, found, strict=True):
        for answer in answers:
            many, limit = _tokens(answer), fields["max_tokens"]
            if many is None:
                continue
            counted += 1
            if many > limit or (many + answer.end_listed < limit and answer.finish_reason == "length"):
                wrong.append((limit, many))
            if many == limit and not answer.end_listed and answer.finish_reason != "length":
                reasons.add(answer.finish_reason)
    if not counted:
        for name in ("max_tokens", "usage"):
            yield untested(name, "the endpoint neither lists tokens nor counts them.")
        return
    broken = None
    if wrong:
        limit, many = wrong[0]
        broken = f"max_tokens = {limit} gives {many} tokens, in {len(wrong)} of {len(found)} answers."
    # Where the end token falls exactly on the limit, "stop" is right; more than half of all answers is not that.
    elif reasons and sum(_stopped_at_limit(a, f) for (_, f), a in zip(asked, found, strict=True)) > len(found) / 2:
        broken = f"finish_reason is {min(map(str, reasons))!r} where max_tokens ends an answer; it should be 'length'."
    yield certain("max_tokens", broken, fine="An answer has at most max_tokens tokens, and says when it was cut.")
    if subject.size > 1:  # of several choices, too
        subject.ask(subject.prompt, n=min(4, subject.size), max_tokens=3, logprobs=True, top_logprobs=0)
    usage = subject.ask.usage
    if not usage:
        lacks = "counts no tokens" if subject.listed else "lists no tokens that its count could be compared with"
        yield untested("usage", f"the endpoint {lacks}.")
        return
    # End tokens are counted by some and not listed.
    off = [one for one in usage if not one[0] <= one[1] <= one[0] + one[2]]
    broken = None
    if off:
        broken = f"usage counts {off[0][1]} completion tokens where {off[0][0]} are listed."
    yield certain("usage", broken, fine="usage counts the tokens that are listed.")


def _stopped_at_limit(answers: list[Answer], fields: dict[str, int]) -> bool:
    return any(_tokens(one) == fields["max_tokens"] and one.finish_reason != "length" for one in answers)


def _tokens(answer: Answer) -> int | None:
    """How many tokens an answer has: those that are listed, or else those that the endpoint counts."""
    return len(answer.tokens) if answer.tokens else answer.counted


def check_stop(subject: Subject) -> Iterator[Finding]:
    """Whether `stop` ends the answer, also where its text begins and ends inside tokens."""
    base = {"temperature": 0.0, "max_tokens": LONG, "logprobs": True, "top_logprobs": 0}
    for prompt in sorted(subject.first, key=lambda one: one != STORY):
        [answer] = subject.ask(prompt, **base)[:1]
        whole, inside, rest = _stops(answer)
        if inside:
            break
    else:
        yield untested("stop", "the answers are too short.")
        return
    try:
        asked = [(prompt, {**base, "stop": [stop]}) for stop in (whole, inside)]
        one, other = [answers[0] for answers in subject.ask.each(asked)]
    except RequestError as error:
        yield untested("stop", f"the endpoint refuses it ({error.message}).")
        return
    broken = None
    fine = "stop ends the answer, also inside a token; its text is "
    if _ignores(one, whole):
        broken = "stop is ignored: the text continues after it. It should end there."
    elif _ignores(other, inside) and other.finish_reason == "stop" and rest.startswith(_after(other, inside)):
        broken = (
            "stop ends the answer, but where it ends inside a token the rest of that token stays in the text "
            f"({_after(other, inside)!r} after {inside!r}); the text should end with the stop text or before it."
        )
    elif _ignores(other, inside):
        broken = (
            "stop is compared with whole tokens: a stop text that begins or ends inside a token does not end the "
            "answer. It should, wherever its text appears."
        )
    elif one.finish_reason != "stop":
        broken = f"finish_reason is {one.finish_reason!r} where stop ended the answer; it should be 'stop'."
    yield certain("stop", broken, fine=fine + ("kept." if one.text.endswith(whole) else "left out."))


def _ignores(answer: Answer, stop: str) -> bool:
    return bool(_after(answer, stop))


def _after(answer: Answer, stop: str) -> str:
    """What comes after a stop text in an answer."""
    return answer.text.partition(stop)[2]


def _stops(answer: Answer) -> tuple[str, str, str]:
    """A token's text; one that begins inside a token and ends inside the next, and the rest of that; or "".

    Neither of the first two occurs earlier in the answer.
    """
    # Where no tokens are listed, words stand for them.
    texts = [token.text for token in answer.tokens] or re.findall(r"\s*\S+", answer.text)
    if "".join(texts) != answer.text:
        return "", "", ""
    whole = inside = rest = ""
    for at in range(2, len(texts) - 3):
        before = "".join(texts[:at])
        if not whole and texts[at].strip() and texts[at] not in before:
            whole = texts[at]
        crossing = texts[at][-1:] + texts[at + 1][:2]
        # It must differ from every token, and something must come after it in the second token.
        if not inside and crossing not in before + texts[at] and len(texts[at + 1]) > 2 and len(texts[at]) > 1:
            inside, rest = crossing, texts[at + 1][2:]
    return (whole, inside, rest) if whole else ("", "", "")
