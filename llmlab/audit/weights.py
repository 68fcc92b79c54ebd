"""Tests whether an endpoint serves the weights of a reference: by whole answers, and by the logprobs of forced tokens.

The two-sample test of answers is that of model equality testing (Gao, Liang, Guestrin 2024, arXiv:2410.20247): the
maximum mean discrepancy with a Hamming kernel, its p-value by permutation. It needs no logprobs. Where both sides list
logprobs, the KL divergence along forced tokens says more. An endpoint with the same weights crosses a bound, which
follows from the dtypes, after at most one conversation in twenty; the p-value is the binomial one of the conversations
that cross it. How far the endpoint diverges says what it may be instead. The error of rounding to b bits is
proportional to 1 / (2**(b - 1) - 1) and the divergence to its square, so that one local copy in int8 shows what fewer
bits would make; what diverges more than with 3 bits is another model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np

from llmlab.audit.asking import Answer, Ask, Asker
from llmlab.audit.forced import Forced, divergences, forced, listed_alike, shared
from llmlab.audit.subject import NO_LISTS, PROMPTS, Finding, Subject, untested
from llmlab.errors import RequestError

#: Characters of an answer that are compared, answers of each side for each prompt, and permutations: so many that the
#: smallest p-value is small enough beside all other tests.
_CHARACTERS, _ANSWERS, _PERMUTATIONS = 64, 32, 20_000
#: The most that the distributions of two honest implementations diverge, in nats per token on average over a
#: conversation, by the coarsest dtype that one of them may compute in; the unknown one may be bfloat16.
_SAME = {"float32": 5e-6, "float16": 1e-4, "bfloat16": 2e-3}
_UNKNOWN = 2e-3
#: In how many conversations that bound may be crossed all the same.
_CROSSED = 0.05
#: An endpoint may diverge from the reference as many times as far as from itself, asked again; and from a copy in
#: which the reference's weights are rounded as many times less than from the reference, if that copy is what it serves.
_JITTER, _EXPLAINED = 10, 3
#: The divergence that int8 weights make, where no copy shows it.
_INT8 = 3e-4
#: The fewest bits that weights are rounded to.
_FEWEST = 3


def _no_copy(_: str) -> AbstractContextManager[Ask | None]:
    return nullcontext(None)


class Reference(NamedTuple):
    """A model whose weights an endpoint should serve.

    Attributes:
        send: asks it.
        model: its name.
        dtype: the dtype of its weights; "" where that is not known.
        arithmetic: the coarsest float dtype that an honest endpoint may compute in: that of the checkpoint, or of the
            reference, whichever is coarser; "" where that is not known.
        copy: loads the same checkpoint in another dtype, "bfloat16" or "int8" or "float32": what asks it, or None
            where that is not possible. It is freed at the end.
    """

    send: Ask
    model: str
    dtype: str = ""
    arithmetic: str = ""
    copy: Callable[[str], AbstractContextManager[Ask | None]] = _no_copy


def check_weights(subject: Subject, reference: Reference, beside: Asker) -> Iterator[Finding]:
    """Compares the endpoint with a reference that is asked the same; `beside` asks it."""
    yield _logprobs(subject, reference, beside)
    alone = not subject.independent or subject.size < 4
    prompts = [subject.prompt, *[one for one in PROMPTS if one != subject.prompt]][:3]
    n = _ANSWERS if alone else min(_ANSWERS, subject.size)
    ours = [_sample(subject.ask, prompt, n, alone=alone) for prompt in prompts]
    theirs = [_sample(beside, prompt, n, alone=False) for prompt in prompts]
    p_value = equality([(_table(one), _table(two)) for one, two in zip(ours, theirs, strict=True)], rng=subject.rng)
    yield Finding(
        "answers", None, p_value,
        "Whole answers come from another distribution than the reference's (MMD, Hamming kernel); it should be the "
        "same.",
        "Whole answers are distributed like the reference's.",
    )  # fmt: skip


def _sample(ask: Asker, prompt: str, n: int, *, alone: bool) -> list[Answer]:
    """Several answers to a prompt: of one request, or of one request each."""
    fields = {"max_tokens": 12}
    if not alone:
        try:
            return ask(prompt, n=n, **fields)
        except RequestError:
            pass
    return [answer for answers in ask.each([(prompt, fields)] * n) for answer in answers[:1]]


class _Lists(NamedTuple):
    """Asks for the distributions of forced tokens in one way, of every side."""

    alternatives: int
    greedy: bool

    def of(self, ask: Asker) -> list[Forced]:
        return forced(ask, alternatives=self.alternatives, greedy=self.greedy)


def _logprobs(subject: Subject, reference: Reference, beside: Asker) -> Finding:
    if not subject.listed:
        return untested("weights", NO_LISTS)
    lists = _Lists(subject.alternatives, bool(subject.raw))
    here, again, there = (lists.of(ask) for ask in (subject.ask, subject.ask, beside))
    there = listed_alike(there, here)
    apart = divergences(there, here)
    if np.isnan(apart).all():
        return untested("weights", "the reference lists no alternatives.")
    jitter = np.nan_to_num(divergences(here, again))
    bound = _SAME.get(reference.arithmetic, _UNKNOWN)
    measured: dict[str, _Copy] = {}
    if _crossings(apart, np.maximum(_SAME["float32"], _JITTER * jitter)):
        measured = {} if _other_prompts(there, here) else _copies(reference, lists, there, here)
        if reference.arithmetic != "float32":
            rounding = [one.made for name, one in measured.items() if "int8" not in (name, reference.dtype)]
            bound = min([bound, *[max(_SAME["float32"], 4 * _typical(one)) for one in rounding]])
    crossed = _crossings(apart, np.maximum(bound, _JITTER * jitter))
    p_value = _tail(crossed, int((~np.isnan(apart)).sum()))
    tokens = sum(len(shared(one, two)) for one, two in zip(there, here, strict=True))
    mean = float(np.nanmean(apart))
    nats = f"{mean:.1e}" if mean > 1e-12 else "0"
    divergence = f"KL(reference || endpoint) is {nats} nats per token, over {tokens} forced tokens"
    other = _other_prompts(there, here)
    said = other or _named(apart, measured)
    return Finding(
        "weights", None, p_value,
        f"The endpoint {said}. {divergence}; with the reference's weights it is at most {bound:.0e}.",
        f"Serves the reference's weights: {divergence}.",
    )  # fmt: skip


def _other_prompts(there: Sequence[Forced], here: Sequence[Forced]) -> str:
    """What is said where the endpoint reads other tokens than the reference for the same messages."""
    pairs = list(zip(there, here, strict=True))
    lengths = {(one.length, two.length) for one, two in pairs if None not in (one.length, two.length)}
    listed = [([t.key for t in one.prompt], [t.key for t in two.prompt]) for one, two in pairs]
    if all(one == two for one, two in lengths) and all(one == two for one, two in listed if one and two):
        return ""
    many = next((f" ({two} tokens where those have {one})" for one, two in lengths if one != two), "")
    return (
        f"reads other prompts than the reference{many}, as with another chat template, a system prompt of its own or "
        "another tokenizer, so that its weights cannot be compared"
    )


class _Copy(NamedTuple):
    """What a copy of the reference shows, with its weights rounded; all in nats per token, of each conversation.

    Attributes:
        made: how far the rounding makes it diverge from the reference.
        left: how far the endpoint diverges from it.
    """

    made: np.ndarray
    left: np.ndarray


def _copies(reference: Reference, lists: _Lists, there: Sequence[Forced], here: Sequence[Forced]) -> dict[str, _Copy]:
    found, many = {}, [len(shared(one, two)) for one, two in zip(there, here, strict=True)]
    for dtype in ("float32", "bfloat16", "int8"):
        # float32 shows only how coarse a reference in another dtype is.
        if dtype == reference.dtype or (dtype == "float32" and reference.dtype in ("", "int8")):
            continue
        with reference.copy(dtype) as send:
            if send is not None:
                copy = listed_alike(lists.of(Asker(send, reference.model, 10**6, 10**9)), here)
                found[dtype] = _Copy(*(divergences(*pair, positions=many) for pair in ((there, copy), (copy, here))))
    return found


def _named(apart: np.ndarray, measured: dict[str, _Copy]) -> str:
    """What an endpoint is that diverges so far."""
    far, eight = _typical(apart), measured.get("int8")
    bits = 8 - 0.5 * math.log2(far / (_INT8 if eight is None else _typical(eight.made)))
    if bits < _FEWEST:
        said = "serves another model than the reference"
        if eight is None:
            return said
        most = eight.made * (127 / (2 ** (_FEWEST - 1) - 1)) ** 2
        p_value = _tail(_crossings(apart, most), int((~np.isnan(apart)).sum()))
        return (
            f"{said}: not even its weights rounded to {_FEWEST} bits would diverge so far (about {_typical(most):.1g} "
            f"nats, p = {p_value:.1g})"
        )
    for name, copy in measured.items():
        if _typical(copy.left) < far / _EXPLAINED:
            return f"serves the reference's weights in {name}, like a local copy of them"
    near = [(abs(math.log(far / _typical(copy.made))), name) for name, copy in measured.items() if name != "float32"]
    if bits < 7.25 or (not near and bits < 7.5):
        return f"rounds the reference's weights to about {round(bits)} bits, or has lightly changed ones"
    if not near:
        return "diverges as far as weights do that are rounded to int8 or bfloat16: the reference's, or similar ones"
    return f"diverges as far as the reference's weights rounded to {min(near)[1]} do: it serves those, or similar ones"


def _typical(values: np.ndarray) -> float:
    """The geometric mean of those that are known, at least 1e-15."""
    return float(np.exp(np.mean(np.log(np.maximum(values[~np.isnan(values)], 1e-15)))))


def _crossings(values: np.ndarray, bound: np.ndarray) -> int:
    return int((values > bound).sum())


def _tail(crossed: int, conversations: int) -> float:
    """The probability that at least so many conversations cross a bound that each crosses with `_CROSSED`."""
    q, n = _CROSSED, conversations
    if not crossed:
        return 1.0
    return math.fsum(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(crossed, n + 1))


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
