"""The plots of a distribution of answers: every bar, what is unexplored, and bands that have their bounds as edges."""

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


def answers_frame(count: int = 14, *, text: str = "an answer of some words ") -> pd.DataFrame:
    p = 0.5 ** np.arange(1, count + 1)
    reasons = ["stop" if at % 3 else "length" for at in range(count)]
    texts = [f"{text}{at}" for at in range(count)]
    return pd.DataFrame({"rank": np.arange(1, count + 1), "text": texts, "finish_reason": reasons, "probability": p})


def bounds_frame(classes: int = 2, passes: int = 9) -> pd.DataFrame:
    rows = []
    for name in range(classes):
        for at in range(1, passes + 1):
            left = 0.5**at
            rows.append({"class": f"class {name}", "passes": at, "low": 0.3 * (1 - left), "high": 0.3 + 0.7 * left})
    return pd.DataFrame(rows)


def test_bars_have_the_probabilities_and_end_with_the_rest() -> None:
    frame = answers_frame()
    ax = plots.plot_answers(frame, unexplored=0.02, answers=5, heading="answers")
    widths = [bar.get_width() for bar in ax.patches]
    rest = frame["probability"].iloc[5:].sum()
    np.testing.assert_allclose(widths, [*frame["probability"].iloc[:5], rest, 0.02])
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[0] == "an answer of some words 0 …" and names[1] == "an answer of some words 1"
    assert names[-2:] == ["(9 others)", "(unexplored)"] and ax.get_title(loc="left") == "answers"
    assert [text.get_text() for text in ax.texts][:2] == ["0.500", "0.250"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first is at the top"
    whole = plots.plot_answers(frame, unexplored=0.0, answers=20)
    assert [label.get_text() for label in whole.get_yticklabels()][-1] == "(unexplored)" and len(whole.patches) == 15


def test_bands_lie_between_their_bounds() -> None:
    frame = bounds_frame()
    ax = plots.plot_bounds(frame, x="passes")
    first = frame[frame["class"] == "class 0"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), first["low"])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), first["high"])
    assert len(ax.collections) == 2 and ax.get_xlabel() == "passes of the model"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["class 0", "class 1"]
    with pytest.raises(RequestError, match="x: there is no 'temperature'; there are passes"):
        plots.plot_bounds(frame, x="temperature")
    with pytest.raises(RequestError, match="frame has several rows for class class 0, passes 1"):
        plots.plot_bounds(pd.concat([frame, frame]), x="passes")
    with pytest.raises(RequestError, match="8 classes are more than the 7 lines"):
        plots.plot_bounds(bounds_frame(8), x="passes")
