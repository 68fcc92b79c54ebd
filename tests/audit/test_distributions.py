"""The audit's distributions against the engine's sampler, and its p-values against brute force and simulation."""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.audit.asking import Listed
from llmlab.audit.distributions import Cell, Distribution, sampled
from llmlab.audit.evidence import goodness, holm, weigh
from llmlab.audit.forced import kl
from llmlab.audit.sampling import hypothesis
from llmlab.audit.weights import equality
from llmlab.sampling.params import History, SamplingParams, stack
from llmlab.sampling.pipeline import ORDERS, process


def distribution_of(logits):
    logprobs = logits - np.logaddexp.reduce(logits)
    top = [Listed(str(at), str(at), float(one), at) for at, one in enumerate(logprobs)]
    return Distribution.of(top)


def engine_distributions(logits, rows, *, order="llmlab"):
    """The engine's log-probabilities of B rows, each in the order in which `Distribution` lists its tokens."""
    B, V = logits.shape
    inputs = stack([SamplingParams(**row) for row in rows], vocab_size=V)
    history = History(prompt=np.zeros((B, V), bool), counts=np.zeros((B, V), np.int32), position=np.zeros(B, np.int32))
    left = np.asarray(process(jnp.asarray(logits, jnp.float32), inputs, history, order=ORDERS[order]), np.float64)
    left -= np.logaddexp.reduce(left, axis=1, keepdims=True)
    return np.take_along_axis(left, np.argsort(-logits, axis=1, kind="stable"), axis=1)


@pytest.mark.parametrize("order", ["llmlab", "llama.cpp"])
def test_distributions_are_those_of_the_engine(order):
    """Our order, and llama.cpp's, in which the temperature comes last, over 500 logits and parameters."""
    rng = np.random.default_rng(3)
    logits = (rng.normal(size=(500, 12)) * 2).astype(np.float32).astype(np.float64)
    rows = [
        {"temperature": rng.uniform(0.3, 1.8), "top_k": int(rng.integers(1, 12)), "top_p": rng.uniform(0.1, 0.99),
         "min_p": rng.uniform(0.01, 0.6)}
        for _ in range(500)
    ]  # fmt: skip
    names = ("temperature", "top_k", "top_p", "min_p")
    names = names if order == "llmlab" else (*names[1:], names[0])
    wanted = engine_distributions(logits, rows, order=order)
    for one, row, engine in zip(logits, rows, wanted, strict=True):
        found = sampled(distribution_of(one), [(name, row[name]) for name in names])
        np.testing.assert_allclose(np.exp(found[:-1]), np.exp(engine), atol=2e-5)


def test_unlisted_tokens_count_by_their_total_probability():
    """A distribution that lists 6 of 12 tokens gives them the same probabilities as the whole one, where it can."""
    rng = np.random.default_rng(4)
    for _ in range(200):
        whole = distribution_of(rng.normal(size=12) * 2)
        part = Distribution.of(
            [Listed(k, k, float(lp)) for k, lp in zip(whole.keys[:6], whole.logprobs[:6], strict=True)]
        )
        p = rng.uniform(0.1, 0.95) * (1 - part.rest)
        for steps in ([("top_p", p)], [("top_k", 4)], [("min_p", 0.3)], [("add", 0.7 * (np.arange(6) == 2))]):
            if steps[0][0] == "add":
                wide = [("add", 0.7 * (np.arange(12) == 2))]
            else:
                wide = steps
            if steps[0][0] == "min_p" and whole.logprobs[5] >= whole.logprobs[0] + math.log(0.3):
                assert np.isnan(sampled(part, steps)[-1])  # all that are listed are kept, and perhaps others
                continue
            np.testing.assert_allclose(np.exp(sampled(part, steps)[:6]), np.exp(sampled(whole, wide)[:6]), atol=1e-9)
        # After a temperature the mass of the others is not known; the ratios of the listed ones are.
        found, wanted = sampled(part, [("temperature", 0.6)]), sampled(whole, [("temperature", 0.6)])[:6]
        assert np.isnan(found[-1])
        np.testing.assert_allclose(found[:6] - found[0], wanted - wanted[0], atol=1e-9)


@pytest.mark.parametrize("honest", [True, False])
def test_p_values_keep_their_rate(honest):
    """Of 200 samples of the honest distribution at most 5% + 3 standard errors have p < 0.05; of others nearly all."""
    rng = np.random.default_rng(7)
    distribution = distribution_of(np.array([1.0, 0.5, 0.2, -0.5, -1.0, -2.0]))
    p = np.exp(sampled(distribution, [] if honest else [("temperature", 0.5)])[:-1])
    alternatives = {"sharper": [hypothesis(("temperature", 0.5))], "flatter": [hypothesis(("temperature", 2.0))]}
    small, tested, named = 0, 0, 0
    for _ in range(200):
        cell = Cell(distribution, np.append(rng.multinomial(150, p / p.sum()), 0))
        found = weigh([cell], [hypothesis()], alternatives, rng=rng)
        small += found.p_value < 0.05
        tested += goodness([cell], hypothesis(), rng=rng) < 0.05
        named += found.nearest == "sharper"
    if honest:
        assert small <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)
        assert 1 <= tested <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)
    else:
        assert small >= 195 and named >= 198


def test_an_impossible_draw_is_found_at_once():
    distribution = distribution_of(np.array([1.0, 0.5, 0.2, -0.5, -1.0, -2.0]))
    cell = Cell(distribution, np.array([30, 20, 14, 7, 4, 1, 0]))
    found = weigh([cell], [hypothesis(("top_k", 2))], {"ignored": [hypothesis()]}, rng=np.random.default_rng(0))
    assert found.nearest == "ignored" and found.p_value < 1e-4


def test_holm():
    """Against its definition: reject p_(1..j) as long as p_(i) <= rate / (m - i + 1) for all of them."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        p = rng.uniform(0, 0.05, size=6).round(3).tolist()
        ranked = sorted(p)
        most = max((j for j in range(7) if all(ranked[i] <= 0.05 / (6 - i) for i in range(j))), default=0)
        assert sum(holm(p, rate=0.05)) == most
    assert holm([math.nan, 0.0, 0.2], rate=0.01) == [False, True, False]


def test_equality_of_answers():
    """The permutation test is right where both sides are alike, and finds another distribution of texts."""
    rng = np.random.default_rng(2)

    def answers(shift):
        return rng.integers(0, 4, size=(24, 10)) + (rng.random((24, 10)) < shift)

    same = [equality([(answers(0), answers(0))], rng=rng) for _ in range(40)]
    assert sum(p < 0.05 for p in same) <= 7 and np.mean(same) > 0.35
    assert max(equality([(answers(0), answers(0.9))], rng=rng) for _ in range(5)) < 0.01


def test_equality_is_that_of_the_definition():
    """The discrepancy of all divisions of 3 + 3 short texts, by loops."""
    rng = np.random.default_rng(5)
    texts = rng.integers(0, 3, size=(6, 4))

    def mmd(left):
        right = [i for i in range(6) if i not in left]

        def k(i, j):
            return (texts[i] == texts[j]).mean()

        within = [np.mean([k(i, j) for i in side for j in side if i != j]) for side in (left, right)]
        return within[0] + within[1] - 2 * np.mean([k(i, j) for i in left for j in right])

    seen = mmd((0, 1, 2))
    exact = np.mean([mmd(left) >= seen - 1e-12 for left in itertools.combinations(range(6), 3)])
    assert equality([(texts[:3], texts[3:])], rng=rng) == pytest.approx(exact, abs=0.04)


def test_kl():
    one, other = distribution_of(np.array([1.0, 0.0, -1.0])), distribution_of(np.array([0.8, 0.1, -0.9]))
    p, q = (np.exp(distribution.logprobs) for distribution in (one, other))
    assert kl(one, other) == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-6)
    assert kl(one, one) == pytest.approx(0.0, abs=1e-12)


def test_kl_of_lists_that_share_a_part():
    """What is not listed is taken to be as likely as it can be: never more than the truth says, and enough to see."""
    rng = np.random.default_rng(6)
    for scale, least in [(0.01, 0.0), (0.5, 0.2), (3.0, 0.3)]:
        found, exact = [], []
        for _ in range(100):
            logits = rng.normal(size=(2, 60)) * 2
            logits[1] = logits[0] + scale * logits[1]
            whole = [distribution_of(each) for each in logits]
            p, q = (np.exp(each - np.logaddexp.reduce(each)) for each in logits)
            exact.append(float((p * np.log(p / q)).sum()))
            lists = [
                Distribution.of([Listed(k, k, float(lp)) for k, lp in zip(d.keys[:8], d.logprobs[:8], strict=True)])
                for d in whole
            ]
            found.append(kl(*lists))
        assert least * np.mean(exact) <= np.mean(found) <= 1.02 * np.mean(exact), (
            scale,
            np.mean(found),
            np.mean(exact),
        )
