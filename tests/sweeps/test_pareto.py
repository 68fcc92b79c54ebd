"""Pareto smoothed importance weights: the shape of known tails, the fit against its likelihood, and plain cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import genpareto

from llmlab.sweeps.pareto import _fit, effective_size, smoothed, trusted_shape


@pytest.mark.parametrize("shape", [-0.2, 0.1, 0.5, 0.9])
def test_the_fit_finds_the_shape_of_a_tail(shape: float) -> None:
    """Within four standard errors of the maximum likelihood estimate (Hosking and Wallis 1987)."""
    M = 4000
    x = np.sort(genpareto.rvs(shape, scale=2.5, size=M, random_state=np.random.default_rng(0)))
    scale, found = _fit(x)
    error = (1 + shape) / np.sqrt(M)
    assert abs(found - (M * shape + 10 * 0.5) / (M + 10)) < 4 * error
    likely, _, likely_scale = genpareto.fit(x, floc=0)
    assert abs(found - likely) < 0.02 and scale == pytest.approx(likely_scale, rel=0.03)


def test_weights_of_a_heavier_tail_have_a_larger_shape_and_fewer_effective_ones() -> None:
    """The ratio of two normal densities with scales 1 and s has a tail of shape 1 - 1 / s^2 (target the wider)."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=20_000)
    found = {}
    for wide in (1.05, 1.3, 2.0):
        log_weights = 0.5 * x**2 * (1 - 1 / wide**2)
        found[wide] = smoothed(log_weights)
        assert found[wide].shape == pytest.approx(1 - 1 / wide**2, abs=0.12)
    sizes = [effective_size(one.weights) for one in found.values()]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 19_000


def test_smoothing_keeps_the_order_and_the_small_weights_and_the_largest_bounds_all() -> None:
    log_weights = np.random.default_rng(2).standard_t(3, size=400)
    found = smoothed(log_weights)
    plain = np.exp(log_weights - log_weights.max())
    order = np.argsort(plain)
    assert (np.diff(found.weights[order]) >= 0).all() and found.weights.max() <= 1
    np.testing.assert_array_equal(found.weights[order[:-60]], plain[order[:-60]])


def test_plain_cases() -> None:
    alike = smoothed(np.full(50, -700.0))
    assert alike.shape == -np.inf and effective_size(alike.weights) == pytest.approx(50)
    assert smoothed(np.full(3, -np.inf)).shape == np.inf and effective_size(np.zeros(3)) == 0
    assert smoothed(np.zeros(0)).shape == np.inf
    assert smoothed(np.array([0.0, -1.0, -2.0])).shape == np.inf, "too few to say"
    two = smoothed(np.repeat([0.0, -3.0], 100))
    assert two.shape == -np.inf, "bounded: the largest are all alike"
    assert trusted_shape(5) == 0 and trusted_shape(100) == 0.5 and trusted_shape(10**6) == 0.7
