"""The plot of a search: every sequence at its log-probability, the noise and the threshold, and what is written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from llmlab import plots
from llmlab.errors import RequestError


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def search_frame(count: int = 5, *, text: str = "a sequence of some words ", **columns: object) -> pd.DataFrame:
    rank = np.arange(1, count + 1)
    own = {"rank": rank, "text": [f"{text}{at}" for at in rank], "sampling_logprob": -0.5 * rank - 1}
    return pd.DataFrame({**own, **columns})


def test_points_lie_at_the_log_probabilities_from_the_top() -> None:
    frame = search_frame(score=-np.arange(5) / 10, group=[0, 0, 1, 1, 1])
    ax = plots.plot_search(frame, heading="a search")
    first, second = ax.lines
    np.testing.assert_allclose(first.get_xdata(), frame["sampling_logprob"][:2])
    np.testing.assert_allclose(second.get_xdata(), frame["sampling_logprob"][2:])
    np.testing.assert_allclose(second.get_ydata(), [2, 3, 4])
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first is at the top"
    assert [text.get_text() for text in ax.texts] == ["score 0.000", *(f"score -0.{at}00" for at in range(1, 5))]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["group 0", "group 1"]
    assert ax.get_title(loc="left") == "a search"


def test_noise_and_threshold() -> None:
    frame = search_frame(perturbed_logprob=[1.0, 0.5, 0.0, -0.5, -1.0])
    ax = plots.plot_search(frame, threshold=-1.5)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["log-probability", "with Gumbel noise", "threshold"]
    noisy = next(line for line in ax.lines if line.get_label() == "with Gumbel noise")
    np.testing.assert_allclose(noisy.get_xdata(), frame["perturbed_logprob"])
    (threshold,) = (line for line in ax.lines if line.get_label() == "threshold")
    assert list(threshold.get_xdata()) == [-1.5, -1.5]
    none = plots.plot_search(frame, threshold=-np.inf)
    assert "threshold" not in [line.get_label() for line in none.lines]


def test_texts_that_begin_alike_show_where_they_part() -> None:
    ax = plots.plot_search(search_frame(text="Once upon a time there was "))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"…{at}" for at in range(1, 6)]
    ax = plots.plot_search(search_frame(text="One "))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"One {at}" for at in range(1, 6)]


def test_more_sequences_than_are_drawn_are_counted() -> None:
    ax = plots.plot_search(search_frame(30), sequences=6)
    assert len(ax.lines[0].get_xdata()) == 6 and "24 more sequences" in ax.get_xlabel()


def test_what_is_refused() -> None:
    frame = search_frame()
    with pytest.raises(RequestError, match=r"frame has no column rank; give SearchResult.frame\(\)"):
        plots.plot_search(frame.drop(columns="rank"))
    with pytest.raises(RequestError, match="several rows for rank 1"):
        plots.plot_search(pd.concat([frame, frame]))
    with pytest.raises(RequestError, match="sequences must be at least 1"):
        plots.plot_search(frame, sequences=0)
