"""Plots of scores of certainty beside the truth: are they calibrated, and what does rejecting answers bring?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmlab.display import palette
from llmlab.errors import RequestError
from llmlab.plots.given import check_frame, check_single
from llmlab.plots.room import drawn
from llmlab.plots.style import (
    STYLES,
    grid,
    legend_above,
    line_style,
    new_axes,
    numbers,
    open_frame,
    say,
    thickness,
    title,
)
from llmlab.text.numbers import count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@drawn
def plot_reliability(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Plot the share of right answers against the confidence in them, one point per bin, with its interval.

    A calibrated score is on the diagonal; above it, the score is too low, below it, too high.

    Args:
        frame: `Evaluation.reliability_frame()`, of one score or of several.
        ax: where to draw; by default on a new figure.

    Raises:
        RequestError: there are more scores than lines that can be told apart.
    """
    source = "Evaluation.reliability_frame()"
    columns = ["score", "bin_low", "questions", "confidence", "accuracy", "low", "high"]
    frame = check_frame(frame, columns, source=source)
    check_single(frame, ["score", "bin_low"], param="frame", way_out=f"give one {source}")
    scores = _scores(frame)
    ax = new_axes(ax, width=5.2, height=4.8)
    ax.plot([0, 1], [0, 1], color=palette.GREY, linewidth=1.2 * thickness(), linestyle="--", label="calibrated")
    for index, score in enumerate(scores):
        own = frame[frame["score"] == score]
        colour, marker, line = line_style(index)
        x, y = numbers(own["confidence"]), numbers(own["accuracy"])
        reach = np.stack([y - numbers(own["low"]), numbers(own["high"]) - y]).clip(min=0)
        ax.errorbar(
            x, y, yerr=np.nan_to_num(reach), color=colour, marker=marker, linestyle=line, markersize=5 * thickness(),
            linewidth=1.2 * thickness(), elinewidth=0.9 * thickness(), label=_named(score),
        )  # fmt: skip
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("confidence")
    ax.set_ylabel("share of right answers")
    if scores:
        questions = int(frame["questions"][frame["score"] == scores[0]].sum())
        title(ax, count(questions, "question"))
    else:
        say(ax, "no score is a probability")
    legend_above(ax, columns=2)
    grid(ax, "both")
    open_frame(ax)
    return ax


@drawn
def plot_rejection(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Plot the share of right answers among those that are kept against the share that is rejected.

    A score that tells right answers from wrong ones rises from the left to the right. Beside it are a random order and
    the best possible one; a band is the interval of the share.

    Args:
        frame: `Evaluation.rejection_frame()`, of one score or of several.
        ax: where to draw; by default on a new figure.

    Raises:
        RequestError: there are more scores than lines that can be told apart.
    """
    source = "Evaluation.rejection_frame()"
    columns = ["score", "rejected", "accuracy", "low", "high", "random", "oracle"]
    frame = check_frame(frame, columns, source=source)
    check_single(frame, ["score", "rejected"], param="frame", way_out=f"give one {source}")
    scores = _scores(frame)
    ax = new_axes(ax, width=6.0, height=4.2)
    for index, score in enumerate(scores):
        own = frame[frame["score"] == score]
        x = numbers(own["rejected"])
        if not index:
            ax.plot(
                x, numbers(own["oracle"]), color=palette.GREY, linewidth=1.0 * thickness(), linestyle="-",
                label="best possible order",
            )  # fmt: skip
            ax.plot(
                x, numbers(own["random"]), color=palette.GREY, linewidth=1.0 * thickness(), linestyle="--",
                label="random order",
            )  # fmt: skip
        colour, _, line = line_style(index)
        ax.plot(
            x, numbers(own["accuracy"]), color=colour, linestyle=line, linewidth=1.6 * thickness(), label=_named(score)
        )
        ax.fill_between(x, numbers(own["low"]), numbers(own["high"]), color=colour, alpha=0.15, linewidth=0)
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("share of answers rejected, the least certain first")
    ax.set_ylabel("share of right answers among the others")
    if scores:
        title(ax, count(int((frame["score"] == scores[0]).sum()), "question"))
    else:
        say(ax, "no question has a score")
    legend_above(ax, columns=3)
    grid(ax, "both")
    open_frame(ax)
    return ax


def _scores(frame: pd.DataFrame) -> list[str]:
    found = [str(score) for score in dict.fromkeys(frame["score"])]
    if len(found) > len(STYLES):
        raise RequestError(
            f"frame has {len(found)} scores, and {len(STYLES)} lines can be told apart; give the rows of fewer",
            param="frame",
        )
    return found


def _named(score: str) -> str:
    return score.replace("_", " ")
