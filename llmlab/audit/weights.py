"""Tests whether an endpoint serves the weights of a reference: by whole answers, and by the logprobs of first tokens.

The two-sample test of answers is that of model equality testing (Gao, Liang, Guestrin 2024, arXiv:2410.20247): the
maximum mean discrepancy with a Hamming kernel, its p-value by permutation. It needs no logprobs. Where both sides list
logprobs, their distributions after the same prompts say more: rounding to fewer bits moves every one a little, another
model moves them much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from llmlab.audit.asking import Answer, Asker
from llmlab.audit.distributions import Distribution
from llmlab.audit.subject import PROMPTS, Finding, Subject, untested

#: Characters of an answer that are compared, answers of each side for each prompt, and permutations.
_CHARACTERS, _ANSWERS, _PERMUTATIONS = 64, 32, 2000
#: Mean KL in nats between two sides' first-token distributions: below the first, devices differ so; below the second,
#: quantized weights do; above it is another model.
_SAME, _QUANTIZED = 1e-4, 0.1
_MORE_PROMPTS = (
    "Name a bird.", "Name a tree.", "Name a country.", "Name a fruit.", "Say hello.", "Tell me a joke.",
    "Write a short poem.", "Name a river.",
)  # fmt: skip


def check_weights(subject: Subject, reference: Asker) -> Iterator[Finding]:
    """Compares the endpoint with a reference that is asked the same."""
    yield _logprobs(subject, reference)
    n = min(_ANSWERS, subject.size)
    if not subject.independent or n < 4:
        yield untested("answers", "a request has too few independent choices.")
        return
    prompts = [subject.prompt, *[one for one in PROMPTS if one != subject.prompt]][:3]
    fields = {"n": n, "max_tokens": 12}
    ours, theirs = ([ask(prompt, **fields) for prompt in prompts] for ask in (subject.ask, reference))
    p_value = equality([(_table(one), _table(two)) for one, two in zip(ours, theirs, strict=True)], rng=subject.rng)
    yield Finding(
        "answers", None, p_value,
        "Whole answers come from another distribution than the reference's (MMD, Hamming kernel); it should be the "
        "same.",
        "Whole answers are distributed like the reference's.",
    )  # fmt: skip


def _logprobs(subject: Subject, reference: Asker) -> Finding:
    more = {"logprobs": True, "top_logprobs": subject.alternatives}
    prompts = list(_MORE_PROMPTS)
    if not subject.distributions:
        return untested("weights", "the endpoint lists no alternatives.")
    here, again, there = (
        [_distribution(answers) for answers in ask.each([(one, more) for one in prompts])]
        for ask in (subject.ask, subject.ask, reference)
    )
    pairs = [(one, two) for one, two in zip(there, here, strict=True) if one is not None and two is not None]
    repeats = [(one, two) for one, two in zip(again, here, strict=True) if one is not None and two is not None]
    if not pairs:
        return untested("weights", "the reference lists no alternatives.")
    divergence = float(np.mean([kl(one, two) for one, two in pairs]))
    jitter = float(np.mean([kl(one, two) for one, two in repeats]))
    if divergence <= max(_SAME, 10 * jitter):
        return Finding("weights", True, 1.0, f"Serves the reference's weights: KL {divergence:.1e} nats a token.")
    if divergence <= _QUANTIZED:
        said = "rounds the reference's weights, as quantization does, or has lightly changed ones"
    else:
        said = "serves another model than the reference"
    what = f"The endpoint {said}: KL(reference || endpoint) is {divergence:.1e} nats a token, and should be 0."
    return Finding("weights", False, 0.0, what)


def _distribution(answers: list[Answer]) -> Distribution | None:
    top = answers[0].tokens[0].top if answers and answers[0].tokens else ()
    return Distribution.of(top) if len(top) > 1 else None


def kl(one: Distribution, other: Distribution) -> float:
    """KL(one || other) in nats, of the tokens that both list and of all others together."""
    index = other.index()
    shared = [(at, index[key]) for at, key in enumerate(one.keys) if key in index]
    if not shared:
        return math.log(1e6)  # two models with nothing in common
    p = np.exp(one.logprobs[[a for a, _ in shared]])
    q = np.exp(other.logprobs[[b for _, b in shared]])
    p, q = (np.append(x, max(1.0 - x.sum(), 1e-9)) for x in (p, q))
    return float((p / p.sum() * np.log((p / p.sum()) / (q / q.sum()))).sum())


def _table(answers: Sequence[Answer]) -> np.ndarray:
    """The characters of answers as numbers [answers, characters]; a shorter one is filled up with -1."""
    table = np.full((len(answers), _CHARACTERS), -1, np.int64)
    for row, answer in enumerate(answers):
        codes = [ord(one) for one in answer.text[:_CHARACTERS]]
        table[row, : len(codes)] = codes
    return table


def equality(samples: Sequence[tuple[np.ndarray, np.ndarray]], *, rng: np.random.Generator) -> float:
    """The p-value of the hypothesis that both sides of each pair come from one distribution, for all pairs together.

    Args:
        samples: for each prompt the answers of the two sides, as codes of their characters.
        rng: permutes.
    """
    total, permuted = 0.0, np.zeros(_PERMUTATIONS)
    for one, two in samples:
        both = np.concatenate([one, two])
        # The Hamming kernel counts the places where two texts agree; a place where both have ended tells nothing.
        kernel = ((both[:, None] == both[None]) & (both >= 0)[:, None]).mean(axis=2)
        np.fill_diagonal(kernel, 0.0)
        n, m = len(one), len(two)
        sides = np.concatenate([np.ones(n), np.zeros(m)])
        total += float(_mmd(kernel, sides[None], n, m)[0])
        order = rng.permuted(np.tile(sides, (_PERMUTATIONS, 1)), axis=1)
        permuted += _mmd(kernel, order, n, m)
    return (1 + float((permuted >= total - 1e-12).sum())) / (1 + _PERMUTATIONS)


def _mmd(kernel: np.ndarray, sides: np.ndarray, n: int, m: int) -> np.ndarray:
    """The unbiased estimate of the squared discrepancy for each division into sides [P, n + m]."""
    other = 1 - sides
    within = ((sides @ kernel) * sides).sum(axis=1) / (n * (n - 1)) + ((other @ kernel) * other).sum(axis=1) / (
        m * (m - 1)
    )
    return np.asarray(within - 2 * ((sides @ kernel) * other).sum(axis=1) / (n * m))
