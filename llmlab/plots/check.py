"""Plots of the two checks: the sampler's draws against their distribution, a model's answers against the truth."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from llmlab.display import palette
from llmlab.plots.given import check_frame, one_text
from llmlab.plots.labels import frame_labels, length, name_slanted, room_below, shortened, tick_size
from llmlab.plots.room import drawn
from llmlab.plots.style import (
    NEXT_TOKEN,
    grid,
    inches,
    ink,
    lay_out,
    legend_above,
    new_axes,
    open_frame,
    say,
    thickness,
    title,
    write,
)
from llmlab.protocol.arguments import whole
from llmlab.text.numbers import count, probability

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: The residual beyond which a cell is marked: three standard deviations.
_FAR = 3.0


@drawn
def plot_check(
    frame: pd.DataFrame, *, draws: int | None = None, heading: str = "", top: int = 24, ax: Axes | None = None
) -> Axes:
    """The exact distribution as bars, with the observed shares as points and the 95% intervals of a share.

    The axis of probabilities is logarithmic, so that rare tokens are visible as well. Cells that differ by more than
    three standard deviations are ringed.

    Args:
        frame: one row per cell, as `SamplerCheck.frame()` returns them.
        draws: the number of draws; by default the sum of the cells.
        heading: the title.
        top: how many bars are drawn: the most likely cells, and all others together in the last one.
        ax: where to draw; by default on a new figure.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    frame = check_frame(
        frame,
        ["token", "token_id", "bytes", "tokens", "probability", "observed", "residual"],
        source="SamplerCheck.frame()",
    )
    top, heading = whole("top", top, least=2), one_text("heading", heading)
    draws = int(frame["observed"].sum()) if draws is None else whole("draws", draws, least=1)
    shown = _pooled(frame, top, draws=draws)
    pooled = shown["token_id"].isna()
    size = tick_size("x")
    prob = shown["probability"].to_numpy(np.float64)
    share = shown["observed"].to_numpy(np.float64) / draws
    ax = new_axes(ax, width=min(max(0.36 * len(shown) + 2.2, 5.0), 10.5), height=4.4)
    room = 1.4 * room_below(ax)
    labels = [
        shortened(str(token), room=room, size=size) if many else label
        for token, many, label in zip(
            shown["token"], pooled, frame_labels(shown, room=room, size=size), strict=True
        )
    ]  # fmt: skip
    at = np.arange(len(shown))
    ax.bar(at, prob, 0.75, color=palette.SKY, label="exact distribution")
    # The interval is around the exact probability: a share should lie in it.
    reach = 1.96 * np.sqrt(prob * (1 - prob).clip(min=0) / draws)
    bottom = 0.35 * min(prob.min(), share[share > 0].min(initial=1.0), 1 / draws if (share == 0).any() else 1.0)
    ax.errorbar(
        at, prob, yerr=[np.minimum(reach, prob - bottom), reach], fmt="none", ecolor=palette.BLUE,
        elinewidth=1.2 * thickness(), capsize=2.5 * thickness(), label="95% of shares",
    )  # fmt: skip
    ax.plot(at, np.maximum(share, bottom), "o", color=ink(), markersize=4 * thickness(), label=count(draws, "draw"))
    far = np.abs(np.nan_to_num(shown["residual"].to_numpy(np.float64, na_value=np.nan))) > _FAR
    if far.any():
        ax.plot(
            at[far], np.maximum(share, bottom)[far], "o", markersize=11 * thickness(), markerfacecolor="none",
            markeredgecolor=palette.VERMILION, markeredgewidth=1.6 * thickness(), label=f"off by > {_FAR:g} sd",
        )  # fmt: skip
    ax.set_yscale("log")
    # 0.05 reads better than five times ten to the minus two.
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(bottom, min(3 * prob.max(), 1.6))
    ax.set_xlim(-0.8, len(shown) - 0.2)
    name_slanted(ax, labels)
    ax.set_xlabel(NEXT_TOKEN)
    ax.set_ylabel("probability (log scale)")
    title(ax, heading)
    legend_above(ax, columns=4)
    open_frame(ax)
    return ax


def _pooled(frame: pd.DataFrame, top: int, *, draws: int) -> pd.DataFrame:
    """The most likely cells, and the others as one, so that the bars add up to the whole."""
    if len(frame) <= top:
        return frame
    import pandas as pd

    shown, rest = frame.iloc[: top - 1], frame.iloc[top - 1 :]
    prob, seen = float(rest["probability"].sum()), int(rest["observed"].sum())
    spread = float(np.sqrt(draws * prob * max(1 - prob, 0.0)))
    residual = (seen - draws * prob) / spread if spread else np.nan
    name = f"{int(rest['tokens'].sum()):,} other tokens"
    last = rest.iloc[[0]].assign(
        token=name, token_id=np.nan, bytes=None, probability=prob, observed=seen, residual=residual
    )
    # The name is none of the tokens, which are the categories of their column.
    return pd.concat([shown.astype({"token": "str"}), last], ignore_index=True)


#: The characters of a line of notes beside the axes.
_NOTE = 22
#: What stands in place of a figure that would show nothing: with one right answer every point lies at the top.
_ONE_ANSWER = (
    "Each question has one right answer,\nso the true probability is 1 by construction,\n"
    "and calibration is not to be seen here.\nMean probability of the right answer: {share}"
)


@drawn
def plot_calibration(
    frame: pd.DataFrame, reliability: pd.DataFrame, *, heading: str = "", note: str = "", ax: Axes | None = None
) -> Axes:
    """Each answer at (the model's probability, the true probability), and the means of bins.

    A calibrated model is on the diagonal; above it, the model's probability is too low, below it, too high. Where each
    question has a single right answer, its true probability is 1 by construction: a text says so in place of a figure.

    Args:
        frame: one row per answer, as `Calibration.frame()` returns them.
        reliability: one row per bin, as `Calibration.reliability_frame()` returns them.
        heading: the title.
        note: text in the lower right corner.
        ax: where to draw; by default on a new figure.
    """
    frame = check_frame(frame, ["model", "truth"], source="Calibration.frame()")
    reliability = check_frame(
        reliability, ["low", "high", "model", "truth"], source="Calibration.reliability_frame()", param="reliability"
    )
    heading, note = one_text("heading", heading), one_text("note", note)
    ax = new_axes(ax, width=5.4, height=5.2)
    if len(frame) and bool((frame["truth"] == 1).all()):
        title(ax, heading)
        say(ax, _ONE_ANSWER.format(share=probability(float(frame["model"].mean()))))
        open_frame(ax)
        return ax
    model, truth = (frame[name].to_numpy(np.float64) for name in ("model", "truth"))
    means = [reliability[name].to_numpy(np.float64) for name in ("model", "truth")]
    width = (reliability["high"] - reliability["low"]).to_numpy(np.float64)
    bins = "" if not len(width) else f" ({round(1 / width[0])} bins)"
    ax.plot([0, 1], [0, 1], color=palette.GREY, linewidth=1.2 * thickness(), linestyle="--", label="calibrated")
    ax.plot(
        model,
        truth,
        "o",
        color=palette.SKY,
        markersize=4 * thickness(),
        alpha=0.45,
        markeredgewidth=0,
        label="answer of a prompt",
    )
    ax.plot(
        *means, "s", color=palette.VERMILION, markersize=6 * thickness(), label=f"mean of a bin{bins}",
    )  # fmt: skip
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_aspect("equal")
    ax.set_xlabel("model's probability of the whole answer")
    ax.set_ylabel("true probability")
    title(ax, heading)
    legend_above(ax, columns=3)
    lay_out(ax)
    lines = note.split("\n")
    if max(length(line) for line in lines) < 0.65 * inches(ax):
        write(ax, note, (1.0, 0.02), ha="right", va="bottom", linespacing=1.4)
    else:  # beside the axes, where it covers no point
        beside = "\n".join(fill(line, _NOTE) for line in lines)
        write(ax, beside, (1.02, 0.02), (6, 0), ha="left", va="bottom", linespacing=1.4)
    grid(ax, "both")
    open_frame(ax)
    return ax
