"""Plots of a distribution of answers: the answers as bars, and bounds that close in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmlab.display import palette
from llmlab.errors import RequestError
from llmlab.plots.given import check_frame, check_single, one_name, one_text
from llmlab.plots.labels import name_ticks, room_beside, shortened, tick_size
from llmlab.plots.room import drawn
from llmlab.plots.style import (
    STYLES,
    grid,
    legend_above,
    line_style,
    new_axes,
    numbers,
    open_frame,
    thickness,
    title,
    write,
)
from llmlab.protocol.arguments import number, whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LABELS = {"passes": "passes of the model"}


@drawn
def plot_answers(
    frame: pd.DataFrame, *, unexplored: float, answers: int = 12, heading: str = "", ax: Axes | None = None
) -> Axes:
    """Plot the most likely answers as bars, then all others that were found, and what is unexplored.

    Args:
        frame: `Answers.frame()` of one setting.
        unexplored: `Answers.unexplored`.
        answers: how many bars of answers.
        heading: the title.
        ax: where to draw; by default on a new figure.
    """
    frame = check_frame(frame, ["rank", "text", "finish_reason", "probability"], source="Answers.frame()")
    check_single(frame, ["rank"], param="frame", way_out="give the rows of one setting")
    heading, shown = one_text("heading", heading), frame.head(whole("answers", answers, least=1))
    left = number("unexplored", unexplored, 0.0, 1.0)
    rest = float(frame["probability"].iloc[len(shown) :].sum())
    names = [
        text.replace("\n", " ") + (" …" if reason == "length" else "")
        for text, reason in zip(shown["text"].astype(str), shown["finish_reason"].astype(str), strict=True)
    ]
    values, colours = numbers(shown["probability"]).tolist(), [line_style(0)[0]] * len(shown)
    if len(frame) > len(shown):
        names.append(f"({len(frame) - len(shown):,} others)")
        values.append(rest)
        colours.append(palette.SKY)
    names.append("(unexplored)")
    values.append(left)
    colours.append(palette.GREY)
    ax = new_axes(ax, width=7.2, height=max(2.0, 0.32 * len(names) + 1.2))
    at = np.arange(len(names))
    ax.barh(at, values, color=colours, height=0.7)
    size, room = tick_size("y"), 1.5 * room_beside(ax)
    name_ticks(ax.yaxis, at, [shortened(text, room=room, size=size) for text in names], fontsize=size)
    for row, value in zip(at, values, strict=True):
        write(ax, f"{value:.2g}" if value < 0.01 else f"{value:.3f}", (value, row), (4, 0), va="center")
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0.0, min(1.12, 1.18 * max(values)))
    ax.set_xlabel("probability of the whole answer")
    title(ax, heading)
    grid(ax, "x")
    open_frame(ax)
    return ax


@drawn
def plot_bounds(frame: pd.DataFrame, *, x: str, ax: Axes | None = None) -> Axes:
    """Plot the bounds of classes of answers as bands: by passes of the model, or along a sampler's field.

    Args:
        frame: `Answers.bounds_frame()` or `Answers.probability_frame()`.
        x: the column from left to right.
        ax: where to draw; by default on a new figure.
    """
    columns = ["class", "low", "high"]
    from matplotlib.ticker import MaxNLocator

    frame = check_frame(frame, columns, source="Answers.bounds_frame()")
    x = one_name("x", x, [name for name in frame.columns if name not in columns])
    check_single(frame, ["class", x], param="frame", way_out="give the rows of one setting")
    names = list(dict.fromkeys(frame["class"].astype(str)))
    if len(names) > len(STYLES):
        raise RequestError(f"{len(names)} classes are more than the {len(STYLES)} lines that can be told apart")
    ax = new_axes(ax, width=6.4, height=4.0)
    thick = thickness()
    for index, name in enumerate(names):
        part = frame[frame["class"].astype(str) == name].sort_values(x)
        at, low, high = (numbers(part[column]) for column in (x, "low", "high"))
        colour, marker, line = line_style(index)
        ax.fill_between(at, low, high, color=colour, alpha=0.25, linewidth=0)
        shown = marker if len(at) <= 24 else ""
        ax.plot(
            at, low, linestyle=line, color=colour, linewidth=1.4 * thick, marker=shown, markersize=4 * thick, label=name
        )
        ax.plot(at, high, linestyle=line, color=colour, linewidth=1.4 * thick)
    ax.set_ylim(-0.02, 1.02)
    if x == "passes":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(_LABELS.get(x, x))
    ax.set_ylabel("probability, with certain bounds")
    grid(ax)
    open_frame(ax)
    legend_above(ax, columns=4)
    return ax
