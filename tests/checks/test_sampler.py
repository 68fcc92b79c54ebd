from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy import stats

from llmlab.checks import sampler as module
from llmlab.checks.sampler import SamplerCheck, goodness_of_fit
from llmlab.errors import RequestError

QUESTION = "Name an animal."


@pytest.fixture(scope="module")
def check(demo) -> SamplerCheck:
    return demo.check_sampler(QUESTION, temperature=1.2, top_p=0.98, draws=20_000)


@pytest.mark.parametrize("cells", [2, 3, 8, 41, 334])
def test_the_p_value_is_scipys(demo, cells: int) -> None:
    """With as many draws as one likes the counts are the expected ones, moved by a little or by much."""
    step, counts = demo.next_token(QUESTION), np.full(cells, 1000)
    for shift in (0, 1, 40, 400):
        moved = counts.copy()
        moved[:2] += (shift, -shift)
        prob, observed = np.zeros(len(step.logits)), np.zeros(len(step.logits), np.int64)
        prob[:cells], observed[:cells] = 1 / cells, moved
        found, want = goodness_of_fit(observed, prob, step=step), stats.chisquare(moved)
        assert found.degrees == cells - 1 and found.statistic == pytest.approx(want.statistic)
        assert found.p_value == pytest.approx(want.pvalue, rel=1e-9)


def test_the_sampler_draws_from_its_distribution(check) -> None:
    assert check.fits and check.p_value > 0.001 and check.impossible == 0
    assert check.engine_agrees == check.engine_draws == 32, "the engine's draws are these"
    assert "20,000 draws fit the exact distribution: chi-square" in check.verdict
    assert "The engine drew the same token 32 times of 32" in repr(check) and "<table" in check._repr_html_()


def test_the_frame_has_a_row_a_cell_and_the_rare_ones_together(demo, check) -> None:
    frame = check.frame()
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "token": "category", "token_id": "float64", "bytes": "object", "tokens": "int64", "probability": "float64",
        "expected": "float64", "observed": "int64", "residual": "float64",
    }  # fmt: skip
    exact = demo.next_token(QUESTION, temperature=1.2, top_p=0.98).frame(top=None)
    assert frame["observed"].sum() == 20_000 and frame["expected"].sum() == pytest.approx(20_000)
    assert frame["expected"].ge(5).all() and frame["tokens"].iloc[:-1].eq(1).all()
    assert frame["tokens"].sum() == exact["kept"].sum() and frame["token_id"].isna().sum() == 1
    logprobs = exact.set_index("token_id")["sampling_logprob"]
    single = frame[frame["token_id"].notna()]
    np.testing.assert_allclose(single["probability"], np.exp(logprobs[single["token_id"]]), rtol=1e-6)
    want = stats.chisquare(frame["observed"], frame["expected"].astype(float))
    assert check.statistic == pytest.approx(want.statistic) and check.p_value == pytest.approx(want.pvalue)
    assert check.degrees == len(frame) - 1


def test_draws_from_another_distribution_are_found_out(demo) -> None:
    step = demo.next_token(QUESTION)
    prob = np.exp(step.logprobs)
    rng = np.random.default_rng(0)
    wrong = np.exp(step.logprobs / 1.1)
    for drawn_from, fits in ((prob, True), (wrong / wrong.sum(), False)):
        found = goodness_of_fit(rng.multinomial(20_000, drawn_from), prob, step=step)
        assert found.fits is fits and ("do not fit" in found.verdict) is not fits
    assert found.p_value < 1e-6


def test_a_draw_that_cannot_be_is_found_out(demo) -> None:
    step = demo.next_token(QUESTION)
    prob, observed = np.zeros(len(step.logits)), np.zeros(len(step.logits), np.int64)
    prob[[5, 6]], observed[[5, 6, 7]] = 0.5, (5000, 4999, 1)
    found = goodness_of_fit(observed, prob, step=step)
    assert not found.fits and found.impossible == 1 and "1 draws are of tokens that cannot be drawn" in found.verdict


def test_a_sampler_with_other_noise_than_the_engines_is_found_out(demo, monkeypatch) -> None:
    monkeypatch.setattr(module.Noise, "values", lambda self, vocab_size: np.zeros(vocab_size, np.float32))
    found = demo.check_sampler(QUESTION, draws=1000)
    assert found.engine_agrees < 32 and not found.fits and found.p_value > 0.001


def test_one_token_alone_leaves_nothing_to_test(demo) -> None:
    found = demo.check_sampler(QUESTION, temperature=0, draws=500)
    assert np.isnan(found.p_value) and found.degrees == 0 and found.fits
    assert "there is nothing to test" in found.verdict and found.frame()["observed"].tolist() == [500]


def test_few_draws_make_few_cells(demo) -> None:
    found = demo.check_sampler(QUESTION, draws=7, seed=2**63 - 3)
    assert found.frame()["expected"].ge(5).all() and found.frame()["observed"].sum() == 7
    with pytest.raises(RequestError, match="draws must be at least 1, got 0"):
        demo.check_sampler(QUESTION, draws=0)


def test_the_plot(check, demo, assert_nothing_clipped) -> None:
    ax = check.plot()
    frame = check.frame()
    bars = [bar.get_height() for bar in ax.containers[0]] if ax.containers else []
    assert len(bars) == 24
    np.testing.assert_allclose(bars[:23], frame["probability"].iloc[:23].astype(float))
    labels = [tick.get_text() for tick in ax.get_xticklabels()]
    assert labels[0] == "Dog" and labels[-1].endswith("other tokens")
    assert (
        ax.get_yscale() == "log"
        and ax.get_ylabel() == "probability (log scale)"
        and "fits the distribution" in ax.get_title("left")
    )
    assert_nothing_clipped(ax)
    plt.close("all")
    for found in (demo.check_sampler(QUESTION, temperature=0, draws=100), wrong_check(demo)):
        _, axes = plt.subplots(layout="constrained", figsize=(8, 5))
        assert found.plot(ax=axes) is axes
        assert_nothing_clipped(axes)
        plt.close("all")


def wrong_check(demo) -> SamplerCheck:
    step = demo.next_token(QUESTION)
    prob = np.exp(step.logprobs)
    observed = np.random.default_rng(0).multinomial(20_000, prob)
    observed[step.ranking[:2]] = observed[step.ranking[:2]][::-1]
    return goodness_of_fit(observed, prob, step=step)


def test_a_distribution_of_a_single_cell_has_room(demo, assert_nothing_clipped) -> None:
    check = demo.check_sampler(QUESTION, draws=50, temperature=0)
    assert_nothing_clipped(check.plot())
    plt.close("all")
