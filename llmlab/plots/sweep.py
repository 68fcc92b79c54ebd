"""Plots of a sweep: a metric along one parameter, or over two parameters.

Each is drawn from a frame of `Sweep.summary`: one row per group, with the columns metric, value, low, high.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmlab.errors import RequestError
from llmlab.plots.labels import (
    fitted,
    length,
    name_ticks,
    room_below,
    room_beside,
    turn,
    value_names,
)
from llmlab.plots.room import drawn
from llmlab.plots.style import (
    STYLES,
    grid,
    inches,
    ink,
    lay_out,
    line_style,
    new_axes,
    new_panels,
    numbers,
    open_frame,
    thickness,
)
from llmlab.plots.summary import (
    LABELS,
    check_summary,
    interval,
    legend_of_groups,
    metric_of,
    metrics_of,
    plain,
    rows_with,
    say_unknown,
    spell_out,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: A heat map with more cells than this has no values written in them.
_WRITTEN = 150


class Places(NamedTuple):
    """The places of a swept parameter's values on an axis."""

    at: Mapping[Any, float]
    names: tuple[str, ...]
    numeric: bool  #: whether they lie at their own numbers; otherwise side by side


def places(name: str, values: Sequence[Any]) -> Places:
    """The places of values on an axis: numbers where they are; text, or a parameter that is off, side by side."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    numeric = numbers and not (name == "top_k" and 0 in values) and name != "prompt"
    at = {value: float(value) if numeric else float(index) for index, value in enumerate(values)}
    return Places(at, value_names(name, values), numeric)


@drawn
def plot_lines(
    summary: pd.DataFrame, *, x: str, by: str | None, axes: Mapping[str, Sequence[Any]], ax: Any = None
) -> Axes | np.ndarray:
    """Plot a metric along one swept parameter with its confidence intervals: one line per value of another.

    Several metrics are drawn in a panel each.

    Args:
        summary: the summary of metrics, grouped by `x` and `by`.
        x: the parameter from left to right.
        by: the parameter with one line per value; None for a single line.
        axes: the sweep's parameters and their values.
        ax: where to draw; by default a new figure. For several metrics a sequence of as many axes.

    Returns:
        The axes; for several metrics an array of them, in the order of the metrics in `summary`.

    Raises:
        RequestError: `by` has more values than lines that can be told apart; an argument is something else.
    """
    summary = check_summary(summary, x, by, axes)
    groups = () if by is None else axes[by]
    if len(groups) > len(STYLES):
        raise RequestError(
            f"{by} has {len(groups)} values, and {len(STYLES)} lines can be told apart; take kind='heatmap'", param="by"
        )
    return _panels(_lines, summary, x, by, axes, ax=ax, width=6.4, height=4.0)


def _lines(summary: pd.DataFrame, x: str, by: str | None, axes: Mapping[str, Sequence[Any]], *, ax: Axes) -> None:
    """Draw the lines of one metric."""
    groups: Sequence[Any] = (None,) if by is None else axes[by]
    place = places(x, axes[x])
    metric = metric_of(summary)
    names = (LABELS.get(x, x),) if by is None else value_names(by, groups)
    earlier, thick = len(ax.containers), thickness()
    for index, (group, name) in enumerate(zip(groups, names, strict=True)):
        part = summary if by is None else summary[rows_with(summary[by], group)]
        colour, marker, line = line_style(earlier + index)
        at = np.array([place.at[plain(value)] for value in part[x]])
        order = np.argsort(at, kind="stable")
        at, (value, low, high) = at[order], (column[order] for column in interval(part))
        if place.numeric:
            ax.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
        else:  # there is nothing between names, and intervals must not hide each other
            at = at + 0.12 * (index - (len(groups) - 1) / 2)
            line = "none"
        reach = np.nan_to_num(np.stack([value - low, high - value]).clip(min=0))
        ax.errorbar(
            at, value, yerr=None if place.numeric else reach, color=colour, marker=marker, linestyle=line,
            markersize=5 * thick, linewidth=1.6 * thick, elinewidth=1.2 * thick, capsize=3 * thick, label=name,
        )  # fmt: skip
    _name_axis(ax.xaxis, x, place)
    ax.set_ylabel(LABELS.get(metric, metric))
    spell_out(ax.yaxis)
    say_unknown(ax, summary)
    grid(ax)
    open_frame(ax)
    legend_of_groups(ax, by, earlier=earlier)


@drawn
def plot_heatmap(
    summary: pd.DataFrame, *, x: str, by: str, axes: Mapping[str, Sequence[Any]], ax: Any = None
) -> Axes | np.ndarray:
    """Plot a metric over two swept parameters, as colour and as a number in each cell; unknown cells stay white.

    Several metrics are drawn in a panel each.

    Args:
        summary: the summary of metrics, grouped by `x` and `by`.
        x: the parameter from left to right.
        by: the parameter from the bottom up.
        axes: the sweep's parameters and their values.
        ax: where to draw; by default a new figure. For several metrics a sequence of as many axes.

    Returns:
        The axes; for several metrics an array of them, in the order of the metrics in `summary`.

    Raises:
        RequestError: an argument is something else.
    """
    summary = check_summary(summary, x, by, axes, single=False)
    columns, rows = value_names(x, axes[x]), value_names(by, axes[by])
    written = max(map(length, (*columns, *rows)))
    width = min(0.62 * len(columns) + 2.6 + max(written - 0.8, 0), 12.0)
    height = min(max(0.42 * len(rows) + 1.5, 3.4), 10.0)
    return _panels(_cells, summary, x, by, axes, ax=ax, width=width, height=height)


def _cells(summary: pd.DataFrame, x: str, by: str, axes: Mapping[str, Sequence[Any]], *, ax: Axes) -> None:
    """Draw the cells of one metric."""
    columns, rows = list(axes[x]), list(axes[by])
    table = np.full((len(rows), len(columns)), np.nan)
    for across, up, value in zip(summary[x], summary[by], numbers(summary["value"]), strict=True):
        table[rows.index(plain(up)), columns.index(plain(across))] = value
    names = fitted(value_names(x, columns), room=1.6 * room_below(ax))
    beside = fitted(value_names(by, rows), room=room_beside(ax))
    shown = np.ma.masked_invalid(table)
    mesh = ax.pcolormesh(
        np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5, shown, cmap="cividis", edgecolors="white",
        linewidth=0.5,
    )  # fmt: skip
    metric = metric_of(summary)
    bar = ax.figure.colorbar(mesh, ax=ax, label=LABELS.get(metric, metric), pad=0.02)
    spell_out(bar.ax.yaxis)
    name_ticks(ax.xaxis, range(len(columns)), names)
    name_ticks(ax.yaxis, range(len(rows)), beside)
    turn(ax.xaxis, names)
    ax.set_xlabel(LABELS.get(x, x))
    ax.set_ylabel(LABELS.get(by, by))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    lay_out(ax)
    texts = [f"{value:.3g}" if np.isfinite(value) else "NA" for value in table.ravel()]
    # A number has room in its cell, or none is written.
    if table.size <= _WRITTEN and max(map(length, texts)) < 0.85 * inches(ax) / len(columns):
        for ((row, column), value), text in zip(np.ndenumerate(table), texts, strict=True):
            colour = _on_colour(mesh, value) if np.isfinite(value) else ink()
            ax.text(column, row, text, ha="center", va="center", fontsize="small", color=colour)


def _on_colour(mesh: Any, value: float) -> str:
    """The colour of a number on the colour of its value."""
    red, green, blue = mesh.cmap(mesh.norm(value))[:3]
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45 else "black"


def _name_axis(axis: Any, name: str, place: Places) -> None:
    axis.set_label_text(LABELS.get(name, name))
    if not place.numeric:
        names = fitted(place.names, room=1.6 * room_below(axis.axes))
        name_ticks(axis, place.at.values(), names)
        axis.axes.set_xlim(-0.6, len(names) - 0.4)
        turn(axis, names)


def _panels(
    draw: Callable[..., None], summary: pd.DataFrame, *groups: Any, ax: Any, width: float, height: float
) -> Axes | np.ndarray:
    """Draw one metric of a summary on one axes, or several on an axes each."""
    metrics = metrics_of(summary)
    if len(metrics) < 2 and not isinstance(ax, list | tuple | np.ndarray):
        ax = new_axes(ax, width=width, height=height)
        draw(summary, *groups, ax=ax)
        return ax
    panels = new_panels(ax, panels=max(len(metrics), 1), width=min(width, 5.0), height=height)
    for panel, metric in zip(panels, metrics, strict=True):
        draw(summary[summary["metric"] == metric], *groups, ax=panel)
    return np.array(panels, object)
