"""Sampling without replacement against exact probabilities: of ordered samples, of inclusion, and of estimates."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from llmlab.search.without_replacement import inclusion_probability, sample_without_replacement
from tests.search.tables import Table

SEEDS = 4000


@pytest.fixture(scope="module")
def space():
    found = Table(5, V=3, spread=1.0)
    assert len(found.sequences(3)) == 15
    return found


@pytest.fixture(scope="module")
def samples(space):
    return [sample_without_replacement(space, k=3, max_tokens=3, seed=seed) for seed in range(SEEDS)]


def fits(observed, expected):
    """The p-value of Pearson's test, with cells of fewer than five expected draws joined."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    rare = expected < 5
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


def test_ordered_samples_have_their_exact_probabilities(space, samples):
    # The first sequence by its probability, the second by its probability among all others (Plackett-Luce).
    p = {path: math.exp(logprob) for path, logprob in space.sequences(3).items()}
    seen = Counter(tuple(drawn.path.tokens for drawn in sample.drawn[:2]) for sample in samples)
    pairs = list(itertools.permutations(p, 2))
    expected = [SEEDS * p[a] * p[b] / (1 - p[a]) for a, b in pairs]
    assert set(seen) <= set(pairs)
    assert fits([seen[pair] for pair in pairs], expected) > 1e-3


def test_sequences_are_included_as_often_as_they_should_be(space, samples):
    p = {path: math.exp(logprob) for path, logprob in space.sequences(3).items()}
    exact = dict.fromkeys(p, 0.0)
    for triple in itertools.permutations(p, 3):
        a, b, c = (p[path] for path in triple)
        for path in triple:
            exact[path] += a * b / (1 - a) * c / (1 - a - b)
    assert sum(exact.values()) == pytest.approx(3)
    seen = Counter(drawn.path.tokens for sample in samples for drawn in sample.drawn)
    z = [(seen[path] - SEEDS * q) / math.sqrt(SEEDS * q * (1 - q)) for path, q in exact.items()]
    assert np.abs(z).max() < 4
    # Each by itself is binomial; together their squares are near what as many independent ones would have.
    assert stats.chi2.sf(float(np.square(z).sum()), len(z)) > 1e-3


def test_importance_weights_are_unbiased(space, samples):
    every = space.sequences(3)
    length = sum(math.exp(logprob) * len(path) for path, logprob in every.items())
    estimates = []
    for sample in samples:
        q = [inclusion_probability(drawn.path.logprob, threshold=sample.threshold) for drawn in sample.drawn]
        weights = [math.exp(drawn.path.logprob) / q for drawn, q in zip(sample.drawn, q, strict=True)]
        estimates.append(
            [sum(weights), sum(w * len(d.path.tokens) for w, d in zip(weights, sample.drawn, strict=True))]
        )
    mean, error = np.mean(estimates, axis=0), np.std(estimates, axis=0) / math.sqrt(SEEDS)
    assert np.abs((mean - [1.0, length]) / error).max() < 4


def test_the_inclusion_probability_given_the_threshold_is_that_of_a_gumbel_variable():
    for logprob, threshold in itertools.product([-5.0, -1.0, 0.0], [-3.0, 0.0, 2.0]):
        exact = stats.gumbel_r.sf(threshold, loc=logprob)
        assert inclusion_probability(logprob, threshold=threshold) == pytest.approx(exact, rel=1e-12)
    assert inclusion_probability(-3.0, threshold=-math.inf) == 1.0
    # A sequence that is very unlikely keeps its digits.
    assert inclusion_probability(-800.0, threshold=-100.0) == pytest.approx(math.exp(-700.0), rel=1e-9)


def test_the_largest_variables_have_the_right_distribution(space, samples):
    # The maximum over all sequences of independent Gumbel variables is a Gumbel variable at log(sum of p) = 0.
    largest = [sample.drawn[0].perturbed for sample in samples]
    assert stats.kstest(largest, stats.gumbel_r.cdf).pvalue > 1e-3


def test_the_threshold_is_the_next_sequence(space, samples):
    for seed in range(50):
        more = sample_without_replacement(space, k=4, max_tokens=3, seed=seed)
        assert more.drawn[:3] == samples[seed].drawn  # fewer are the first of more
        assert more.drawn[3].perturbed == samples[seed].threshold
        values = [drawn.perturbed for drawn in more.drawn]
        assert values == sorted(values, reverse=True) and values[-1] > more.threshold


def test_all_sequences_and_no_more():
    for number in range(10):
        space = Table(number, V=3, forbidden=0.4)
        every = space.sequences(3)
        sample = sample_without_replacement(space, k=40, max_tokens=3, seed=number)
        assert {drawn.path.tokens for drawn in sample.drawn} == set(every) and len(sample.drawn) == len(every)
        assert sample.threshold == -math.inf
        for drawn in sample.drawn:
            assert drawn.path.logprob == pytest.approx(every[drawn.path.tokens])
            assert drawn.finish_reason == ("stop" if drawn.path.tokens[-1] in space.ends else "length")


def test_nodes_of_a_step_are_one_more_than_sequences():
    space = Table(1, V=5, ends=0)
    sample_without_replacement(space, k=6, max_tokens=6, seed=1)
    assert space.most == 7


def test_seeds_differ_and_repeat(space):
    one, again, other = (sample_without_replacement(space, k=3, max_tokens=3, seed=seed) for seed in (9, 9, 2**60 + 9))
    assert one == again != other


def test_unlikely_sequences_are_drawn_with_finite_numbers():
    # Log-probabilities of thousands of nats, and tokens of almost all of the probability.
    space = Table(0, V=4, ends=0, spread=400.0)
    sample = sample_without_replacement(space, k=20, max_tokens=4, seed=0)
    assert len(sample.drawn) == 20
    assert np.isfinite([drawn.perturbed for drawn in sample.drawn]).all() and math.isfinite(sample.threshold)
