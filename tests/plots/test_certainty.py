"""The plots of scores beside the truth draw their frames, and say where there is nothing to draw."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from llmlab import certainty, plots
from llmlab.errors import RequestError


def judged_frames(*scores: str, questions: int = 40) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames of rejection and of reliability of some scores, all of them probabilities."""
    rng = np.random.default_rng(3)
    said = {score: rng.random(questions).round(1) for score in scores}
    frame = pd.DataFrame({**said, "correct": rng.random(questions) < said[scores[0]]})
    found = certainty.evaluate(frame, probability=scores, resamples=20)
    return found.rejection_frame(), found.reliability_frame()


def test_rejection_is_drawn_as_it_is() -> None:
    frame, _ = judged_frames("one", "two")
    ax = plots.plot_rejection(frame)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["best possible order", "random order", "one", "two"]
    for score in ("one", "two"):
        own = frame[frame["score"] == score]
        np.testing.assert_array_equal(lines[score].get_xydata(), own[["rejected", "accuracy"]])
    np.testing.assert_array_equal(lines["best possible order"].get_ydata(), frame["oracle"][:40])
    band = ax.collections[0].get_paths()[0].vertices
    assert {frame["low"][0], frame["high"][0]} <= set(band[band[:, 0] == 0, 1])
    assert ax.get_title(loc="left") == "40 questions"


def test_reliability_is_drawn_as_it_is() -> None:
    _, frame = judged_frames("one", "two")
    ax = plots.plot_reliability(frame)
    for score, bars in zip(("one", "two"), ax.containers, strict=True):
        own = frame[frame["score"] == score]
        np.testing.assert_array_equal(bars.lines[0].get_xydata(), own[["confidence", "accuracy"]])
        ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
        np.testing.assert_allclose(ends, own[["low", "high"]])
    assert ax.get_title(loc="left") == "40 questions"


def test_nothing_to_draw_is_said() -> None:
    for plot, frame, text in zip(
        (plots.plot_rejection, plots.plot_reliability), judged_frames("one"),
        ("no question has a score", "no score is a probability"), strict=True,
    ):  # fmt: skip
        assert [one.get_text() for one in plot(frame.head(0)).texts] == [text]


def test_two_evaluations_and_too_many_scores_are_refused() -> None:
    for plot, frame in zip((plots.plot_rejection, plots.plot_reliability), judged_frames("one"), strict=True):
        with pytest.raises(RequestError, match="frame has several rows for score one"):
            plot(pd.concat([frame, frame]))
        many = pd.concat([frame.assign(score=f"score {at}") for at in range(9)])
        with pytest.raises(RequestError, match="frame has 9 scores, and 7 lines can be told apart"):
            plot(many)
