"""A picture leaves nothing out in silence, and says so where it would mean nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from llmlab import plots
from llmlab.plots.completion import Alternatives
from llmlab.plots.summary import RANGES
from tests.plots.test_room import calibration, check, penalties, stages, temperatures


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def test_the_bars_of_each_temperature_add_up_to_the_whole() -> None:
    data = temperatures(values=3, tokens=10)
    assert data.prob.sum(-1).max() < 0.99, "there is something to leave out"
    ax = plots.plot_temperatures(data)
    assert ax.get_xticklabels()[-1].get_text() == "all others"
    filled = [bar for bar in ax.patches if bar.get_fill()]
    outlines = [bar for bar in ax.patches if not bar.get_fill()]
    scale = max(bar.get_height() for bar in filled if bar.get_x() < 0) / data.prob.max()
    for row in range(3):
        here = [bar for bar in filled if -row <= bar.get_y() < 1 - row]
        assert sum(bar.get_height() for bar in here) / scale == pytest.approx(1)
        rest = [bar for bar in here if bar.get_x() > 9]
        # The others' bar is made of what each stage removed of them.
        assert sum(bar.get_height() for bar in rest) / scale == pytest.approx(1 - data.prob[row].sum())
        hatched = sum(bar.get_height() for bar in rest if bar.get_hatch()) / scale
        gone = sum(float(mass[row]) for mass in data.removed_mass.values()) - data.prob[row, 6:].sum()
        assert hatched == pytest.approx(gone)
        drawn = [bar.get_height() / scale for bar in outlines if bar.get_y() == -row]
        np.testing.assert_allclose(drawn, data.final[row][data.final[row] > 0])


def test_all_tokens_have_bars_of_their_own() -> None:
    data = temperatures(values=2, tokens=4)
    whole = data._replace(
        prob=data.prob / data.prob.sum(-1, keepdims=True), final=data.final / data.final.sum(-1, keepdims=True),
        removed_mass={name: np.zeros(2) for name in data.removed_mass},
    )  # fmt: skip
    assert len(plots.plot_temperatures(whole).get_xticklabels()) == 4
    half = np.array([0.5, 0.5])
    ax = plots.plot_top_logprobs(Alternatives(0, ("a", "b"), (0, 1), half, half, 0, 1))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["▸ a", "b"]


def test_bars_of_different_tokens_read_differently() -> None:
    prob = np.array([0.9, 0.00127, 0.00145])
    ax = plots.plot_top_logprobs(Alternatives(0, ("a", "b", "c"), (0, 1, 2), prob, np.full(3, np.nan), 0, 1))
    assert [text.get_text() for text in ax.texts] == ["0.900", "0.00127", "0.00145", "0.0973"]


def test_cells_beyond_the_top_are_one_bar(assert_nothing_clipped) -> None:
    frame = check(30)
    ax = plots.plot_check(frame, top=10)
    bars = [bar.get_height() for bar in ax.patches]
    assert len(bars) == 10 and sum(bars) == pytest.approx(frame["probability"].sum())
    np.testing.assert_allclose(bars[:9], frame["probability"][:9])
    points = next(line for line in ax.get_lines() if "draws" in str(line.get_label()))
    assert np.asarray(points.get_ydata())[-1] == pytest.approx(frame["observed"][9:].sum() / frame["observed"].sum())
    assert ax.get_xticklabels()[-1].get_text().startswith("21 other")
    assert_nothing_clipped(ax)


def test_a_pool_that_is_off_is_ringed() -> None:
    frame = check(30)
    assert not any("off by" in str(line.get_label()) for line in plots.plot_check(frame, top=10).get_lines())
    far = frame.assign(observed=[*frame["observed"][:9], *(frame["observed"][9:] // 2)])
    (ring,) = (line for line in plots.plot_check(far, top=10).get_lines() if "off by" in str(line.get_label()))
    assert 9 in np.asarray(ring.get_xdata())


def test_one_right_answer_each_is_no_calibration(assert_nothing_clipped) -> None:
    frame, reliability = calibration()
    ax = plots.plot_calibration(frame.assign(truth=1.0, model=0.8), reliability, heading="a model")
    (said,) = (text.get_text() for text in ax.texts)
    assert "one right answer" in said and "0.800" in said and not ax.get_lines()
    assert_nothing_clipped(ax)
    # Where only some have a single answer there is something to see.
    mixed = frame.assign(truth=[1.0, *frame["truth"][1:]])
    assert plots.plot_calibration(mixed, reliability).get_lines()


@pytest.mark.parametrize("metric", [*RANGES, "diversity (1 − pairwise BLEU), n = 4", "a metric of mine"])
def test_intervals_end_where_the_metric_does(metric: str) -> None:
    least, most = RANGES.get(metric.split(", n = ")[0], (-np.inf, np.inf))
    low, high = max(least, -5.0), min(most, 5.0)
    axes = {"temperature": [0.5, 1.0]}
    summary = pd.DataFrame({
        "temperature": axes["temperature"], "metric": metric, "value": [low, high], "low": [low - 0.3, high - 0.3],
        "high": [low + 0.3, high + 0.3],
    })  # fmt: skip
    ax = plots.plot_lines(summary, x="temperature", by=None, axes=axes)
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(low - 0.3 if least == -np.inf else low)
    assert band.max() == pytest.approx(high + 0.3 if most == np.inf else high)
    ax = plots.plot_diversity(summary, summary, along="temperature", by=None, axes=axes)
    reach = np.concatenate([bar.get_segments() for bar in ax.containers[0].lines[2]]).reshape(-1, 2)
    assert reach.min() >= min(low, least) - 0.3 - 1e-9 and (least == -np.inf or reach.min() >= least)
    assert most == np.inf or reach.max() <= most


def test_each_value_of_a_waterfall_and_each_move_is_written() -> None:
    data = stages()
    texts = [text.get_text() for text in plots.plot_stages(data).texts if text.get_visible()]
    assert texts == ["0.265 (logit 10.26)"] * 5 + ["0.175 (logit 7.33)", "0.199 (logit 7.33)", "removed"]
    moved = [text.get_text() for text in plots.plot_penalties(penalties()).texts if text.get_visible()]
    assert len(moved) == 5 and all("repetition" in text or text == "-2.75 in all" for text in moved)
