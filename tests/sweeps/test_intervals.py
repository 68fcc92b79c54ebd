from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llmlab import metrics
from llmlab.errors import RequestError
from llmlab.sweeps.intervals import Units, as_shares, bootstrap_mean, jackknife_mean, measure, wilson_mean


def each(T: int) -> Units:
    return Units(np.zeros(T, int), np.arange(T))


def test_the_bootstrap_is_the_percentile_interval_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=60)
    found = bootstrap_mean(values, units=each(60), confidence=0.9, resamples=20_000, rng=np.random.default_rng(1))
    want = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.value == values.mean()
    assert found.low == pytest.approx(want.low, abs=0.01) and found.high == pytest.approx(want.high, abs=0.01)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        low, high = bootstrap_mean(
            rng.normal(size=40), units=each(40), confidence=0.9, resamples=400, rng=np.random.default_rng(0)
        )[1:]
        held += low <= 0 <= high
    assert abs(held / 400 - 0.9) < 4 * math.sqrt(0.09 / 400) + 0.02


def test_units_stand_or_fall_together_and_strata_are_kept() -> None:
    # Eight copies of five values say no more than the five.
    values = np.random.default_rng(4).normal(size=5)
    copies, units = np.tile(values, 8), Units(np.zeros(40, int), np.tile(np.arange(5), 8))
    options = {"confidence": 0.95, "resamples": 4_000}
    one = bootstrap_mean(values, units=each(5), rng=np.random.default_rng(5), **options)
    many = bootstrap_mean(copies, units=units, rng=np.random.default_rng(5), **options)
    np.testing.assert_allclose(one, many)
    # Two strata that differ by far: the difference between them is no noise.
    apart = np.concatenate([values, values + 1000])
    both = Units(np.repeat([0, 1], 5), np.tile(np.arange(5), 2))
    found = bootstrap_mean(apart, units=both, rng=np.random.default_rng(5), **options)
    assert found.high - found.low < 3


def test_one_observation_says_nothing_about_its_spread() -> None:
    rng = np.random.default_rng(0)
    alone = bootstrap_mean(np.array([2.0]), units=each(1), confidence=0.95, resamples=10, rng=rng)
    assert alone.value == 2 and math.isnan(alone.low) and math.isnan(alone.high)
    none = bootstrap_mean(np.zeros(0), units=each(0), confidence=0.95, resamples=10, rng=rng)
    assert all(math.isnan(figure) for figure in none)
    infinite = bootstrap_mean(np.array([1.0, math.inf]), units=each(2), confidence=0.95, resamples=10, rng=rng)
    assert infinite.value == math.inf and math.isnan(infinite.low)


@pytest.mark.parametrize("T", [1, 2, 4, 16, 100])
def test_a_share_has_wilsons_interval(T) -> None:
    for ones in {0, 1, T // 3, T}:
        values = np.r_[np.ones(ones), np.zeros(T - ones)]
        want = stats.binomtest(ones, T).proportion_ci(0.9, method="wilson")
        found = wilson_mean(values, units=each(T), confidence=0.9)
        assert found.value == ones / T
        np.testing.assert_allclose(found[1:], (want.low, want.high), atol=1e-12)
    assert all(math.isnan(figure) for figure in wilson_mean(np.zeros(0), units=each(0), confidence=0.9))


def coverage(T: int, p: float, interval) -> float:
    """How often the interval of T zeros and ones holds their probability p, summed over all numbers of ones."""
    held = 0.0
    for ones in range(T + 1):
        found = interval(np.r_[np.ones(ones), np.zeros(T - ones)])
        held += stats.binom.pmf(ones, T, p) * (found.low <= p <= found.high)
    return held


@pytest.mark.parametrize(("T", "p"), [(4, 0.1), (8, 0.1), (16, 0.3), (32, 0.1), (32, 0.5)])
def test_a_share_lies_in_its_interval_as_often_as_it_says(T, p) -> None:
    found = coverage(T, p, lambda values: wilson_mean(values, units=each(T), confidence=0.95))
    assert 0.92 < found < 0.985
    options = {"units": each(T), "confidence": 0.95, "resamples": 1000}
    bootstrap = coverage(T, p, lambda values: bootstrap_mean(values, rng=np.random.default_rng(0), **options))
    print(f"{T} values, p = {p}: Wilson {found:.3f}, bootstrap {bootstrap:.3f}")
    assert T > 8 or bootstrap < 0.6, "what the bootstrap does with few zeros and ones"


def test_a_share_of_units_that_stand_together() -> None:
    rng = np.random.default_rng(8)
    ones = (rng.random(12) < 0.3).astype(float)
    one = wilson_mean(ones, units=each(12), confidence=0.95)
    copies = wilson_mean(np.tile(ones, 5), units=Units(np.zeros(60, int), np.tile(np.arange(12), 5)), confidence=0.95)
    np.testing.assert_allclose(copies, one)  # five copies say no more than the twelve
    sure = wilson_mean(np.ones(60), units=Units(np.zeros(60, int), np.tile(np.arange(12), 5)), confidence=0.95)
    np.testing.assert_allclose(sure, wilson_mean(np.ones(12), units=each(12), confidence=0.95))
    # Three cells that share their noise, each choice with one number that all of them compare with.
    held, chances = 0, np.array([0.05, 0.1, 0.15])
    for _ in range(1000):
        values = (rng.random(8) < chances[:, None]).astype(float).ravel()
        found = wilson_mean(values, units=Units(np.zeros(24, int), np.tile(np.arange(8), 3)), confidence=0.95)
        held += found.low <= chances.mean() <= found.high
    assert 0.92 < held / 1000 < 0.99


def test_the_jackknife_of_a_mean_is_the_standard_error() -> None:
    values = np.random.default_rng(6).normal(size=30)
    frame = pd.DataFrame({"x": values})
    found = jackknife_mean([frame], lambda f: f["x"].mean(), name="x", units=[each(30)], confidence=0.95)
    reach = stats.norm.ppf(0.975) * stats.sem(values)
    np.testing.assert_allclose(found, (values.mean(), values.mean() - reach, values.mean() + reach))


def test_the_jackknife_over_cells() -> None:
    rng = np.random.default_rng(7)
    one, two = (pd.DataFrame({"x": rng.normal(size=20)}) for _ in range(2))
    metric = lambda f: f["x"].mean()  # noqa: E731 - as a caller writes it
    # The same draw in both cells: the mean of the pair is what varies. Draws of their own: variances add up.
    shared = jackknife_mean([one, two], metric, name="x", units=[each(20), each(20)], confidence=0.95)
    reach = stats.norm.ppf(0.975) * stats.sem((one["x"] + two["x"]) / 2)
    assert shared.high - shared.value == pytest.approx(reach)
    own = [Units(np.full(20, at), np.arange(20)) for at in (0, 1)]
    apart = jackknife_mean([one, two], metric, name="x", units=own, confidence=0.95)
    reach = stats.norm.ppf(0.975) * math.hypot(stats.sem(one["x"]), stats.sem(two["x"])) / 2
    assert apart.high - apart.value == pytest.approx(reach)
    single = jackknife_mean([one[:1]], metric, name="x", units=[each(1)], confidence=0.95)
    assert math.isnan(single.low) and single.value == one["x"][0]
    alike = pd.DataFrame({"text": ["a"] * 4})
    assert jackknife_mean([alike], metrics.self_bleu, name="b", units=[each(4)], confidence=0.95) == (1, 1, 1)


def test_a_metric_that_is_a_share_is_found() -> None:
    texts = [["a", "a", "b", "a"], ["b"] * 3, ["a"]]
    cells = [pd.DataFrame({"text": each}) for each in texts]
    found = as_shares(cells, lambda rows: (rows["text"] == "a").mean(), name="share")
    assert found is not None and [each.tolist() for each in found] == [[1, 1, 0, 1], [0, 0, 0], [1]]
    others = {
        "diversity": lambda rows: 1 - metrics.pairwise_bleu(rows),
        "entropy": metrics.sample_entropy,
        "nothing": lambda rows: math.nan,
        "constant": lambda rows: 1.0,
        "number": len,
        "strict": lambda rows: float(len(rows) in (1, 3, 4)),
        "all or none": lambda rows: 1 / (len(rows) in (1, 3, 4)),
    }
    for name, metric in others.items():
        assert as_shares(cells[:2], metric, name=name) is None, name
    tie = [pd.DataFrame({"text": ["a", "a", "b", "b"]})]
    assert as_shares(tie, metrics.majority_share, name="majority") is None, "its pseudo-values are 0, and it is not"


@pytest.mark.parametrize("given", [3, 3.0, np.float32(3), np.int64(3), np.array(3.0), pd.Series([3]).sum()])
def test_a_metric_gives_a_number(given) -> None:
    assert measure(lambda frame: given, pd.DataFrame(), name="mine") == 3.0


def test_a_metric_that_gives_no_number_is_named() -> None:
    assert math.isnan(measure(lambda frame: None, pd.DataFrame(), name="mine"))
    assert math.isnan(measure(lambda frame: pd.NA, pd.DataFrame(), name="mine"))
    with pytest.raises(RequestError, match="metric 'mine' must return a number, got 'many'") as caught:
        measure(lambda frame: "many", pd.DataFrame(), name="mine")
    assert caught.value.param == "metrics"
    with pytest.raises(RequestError, match="metric 'mine' failed: KeyError: 'nothing'"):
        measure(lambda frame: frame["nothing"], pd.DataFrame(), name="mine")
