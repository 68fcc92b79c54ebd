"""Plots of a sweep: a metric along one parameter, over two parameters, and diversity against likelihood.

Each is drawn from a frame of `Sweep.summary`: one row per group, with the columns metric, value, low, high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmlab.errors import RequestError
from llmlab.plots.labels import TOKEN_SIZE, length, name_ticks, points, turn, value_name, value_names
from llmlab.plots.style import STYLES, grid, ink, line_style, new_axes, numbers, open_frame, say, style, title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: The names of a sweep's columns on an axis.
LABELS = {
    "tokens": "length (tokens)",
    "mean_logprob": "mean logprob (nats per token)",
    "perplexity": "perplexity",
    "mean_entropy": "mean entropy (nats)",
    "distinct_1": "distinct-1 (share of tokens)",
    "distinct_2": "distinct-2 (share of pairs of tokens)",
    "max_tokens": "max_tokens (tokens)",
    "min_tokens": "min_tokens (tokens)",
}
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


@style()
def plot_lines(
    summary: pd.DataFrame, *, x: str, by: str | None, axes: Mapping[str, Sequence[Any]], ax: Axes | None = None
) -> Axes:
    """Plot a metric along one swept parameter with its confidence intervals: one line per value of another.

    Args:
        summary: the summary of one metric, grouped by `x` and `by`.
        x: the parameter from left to right.
        by: the parameter with one line per value; None for a single line.
        axes: the sweep's parameters and their values.
        ax: where to draw; by default a new figure.

    Raises:
        RequestError: `by` has more values than lines that can be told apart.
    """
    groups: Sequence[Any] = (None,) if by is None else axes[by]
    if len(groups) > len(STYLES):
        raise RequestError(
            f"{by} has {len(groups)} values, and {len(STYLES)} lines can be told apart; take kind='heatmap'", param="by"
        )
    ax = new_axes(ax, width=6.4, height=4.0)
    place = places(x, axes[x])
    metric = _metric(summary)
    names = (LABELS.get(x, x),) if by is None else value_names(by, groups)
    earlier = len(ax.containers)
    for index, (group, name) in enumerate(zip(groups, names, strict=True)):
        part = summary if by is None else summary[_is(summary[by], group)]
        colour, marker, line = line_style(earlier + index)
        at = np.array([place.at[_plain(value)] for value in part[x]])
        order = np.argsort(at, kind="stable")
        at, (value, low, high) = at[order], (numbers(part[column])[order] for column in ("value", "low", "high"))
        if place.numeric:
            ax.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
        else:  # there is nothing between names, and intervals must not hide each other
            at = at + 0.12 * (index - (len(groups) - 1) / 2)
            line = "none"
        reach = np.nan_to_num(np.stack([value - low, high - value]).clip(min=0))
        ax.errorbar(
            at, value, yerr=None if place.numeric else reach, color=colour, marker=marker, linestyle=line,
            markersize=5, linewidth=1.6, elinewidth=1.2, capsize=3, label=name,
        )  # fmt: skip
    _name_axis(ax.xaxis, x, place)
    ax.set_ylabel(LABELS.get(metric, metric))
    _spell_out(ax.yaxis)
    _say_unknown(ax, summary)
    grid(ax)
    open_frame(ax)
    _legend(ax, by, earlier=earlier)
    return ax


@style()
def plot_heatmap(
    summary: pd.DataFrame, *, x: str, by: str, axes: Mapping[str, Sequence[Any]], ax: Axes | None = None
) -> Axes:
    """Plot a metric over two swept parameters, as colour and as a number in each cell; unknown cells stay white.

    Args:
        summary: the summary of one metric, grouped by `x` and `by`.
        x: the parameter from left to right.
        by: the parameter from the bottom up.
        axes: the sweep's parameters and their values.
        ax: where to draw; by default a new figure.
    """
    columns, rows = list(axes[x]), list(axes[by])
    table = np.full((len(rows), len(columns)), np.nan)
    for across, up, value in zip(summary[x], summary[by], numbers(summary["value"]), strict=True):
        table[rows.index(_plain(up)), columns.index(_plain(across))] = value
    names, beside = value_names(x, columns), value_names(by, rows)
    written = max(map(length, (*names, *beside)))
    ax = new_axes(
        ax,
        width=min(0.62 * len(columns) + 2.6 + max(written - 0.8, 0), 12.0),
        height=min(max(0.42 * len(rows) + 1.5, 3.4), 10.0),
    )
    shown = np.ma.masked_invalid(table)
    mesh = ax.pcolormesh(
        np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5, shown, cmap="cividis", edgecolors="white",
        linewidth=0.5,
    )  # fmt: skip
    metric = _metric(summary)
    bar = ax.figure.colorbar(mesh, ax=ax, label=LABELS.get(metric, metric), pad=0.02)
    _spell_out(bar.ax.yaxis)
    if table.size <= _WRITTEN:
        for (row, column), value in np.ndenumerate(table):
            red, green, blue = mesh.cmap(mesh.norm(value))[:3]
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
            colour = ("white" if dark else "black") if np.isfinite(value) else ink()
            ax.text(
                column, row, f"{value:.3g}" if np.isfinite(value) else "NA", ha="center", va="center",
                fontsize="small", color=colour,
            )  # fmt: skip
    name_ticks(ax.xaxis, range(len(columns)), names)
    name_ticks(ax.yaxis, range(len(rows)), beside)
    turn(ax.xaxis, names)
    ax.set_xlabel(LABELS.get(x, x))
    ax.set_ylabel(LABELS.get(by, by))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


@style()
def plot_diversity(
    likelihood: pd.DataFrame,
    diversity: pd.DataFrame,
    *,
    along: str,
    by: str | None,
    axes: Mapping[str, Sequence[Any]],
    ax: Axes | None = None,
) -> Axes:
    """Plot the diversity of completions against their likelihood: one point per setting, joined along one parameter.

    Args:
        likelihood: the summary of one metric, for the axis from left to right.
        diversity: the summary of another metric over the same groups, for the axis from the bottom up.
        along: the parameter whose values are written at the points, which are joined in its order.
        by: the parameter with one line per value; None for a single line.
        axes: the sweep's parameters and their values.
        ax: where to draw; by default a new figure.

    Raises:
        RequestError: `by` has more values than lines that can be told apart.
    """
    from matplotlib.colors import to_rgba

    groups: Sequence[Any] = (None,) if by is None else axes[by]
    if len(groups) > len(STYLES):
        raise RequestError(
            f"{by} has {len(groups)} values, and {len(STYLES)} lines can be told apart; sweep fewer", param="by"
        )
    ax = new_axes(ax, width=6.4, height=4.6)
    named: list[tuple[str, str, float, float]] = []
    names = (LABELS.get(along, along),) if by is None else value_names(by, groups)
    earlier = len(ax.containers)
    for index, (group, name) in enumerate(zip(groups, names, strict=True)):
        colour, marker, line = line_style(earlier + index)
        flat, tall = (
            frame if by is None else frame[_is(frame[by], group)] for frame in (likelihood, diversity)
        )  # fmt: skip
        x, y = numbers(flat["value"]), numbers(tall["value"])
        ax.errorbar(
            x, y, xerr=_reach(flat), yerr=_reach(tall), color=colour, marker=marker, linestyle=line, markersize=5,
            linewidth=1.2, elinewidth=0.8, ecolor=to_rgba(colour, 0.4), label=name,
        )  # fmt: skip
        points = _point_names(along, [_plain(value) for value in flat[along]], x, y)
        # The ends of a line first: where there is no room for all, they tell the most.
        named += [(colour, *point) for point in [*points[:1], *points[:0:-1]]]
    for axis, frame in ((ax.xaxis, likelihood), (ax.yaxis, diversity)):
        axis.set_label_text(LABELS.get(_metric(frame), _metric(frame)))
        _spell_out(axis)
    _say_unknown(ax, likelihood, diversity)
    title(ax, f"labelled by {'the swept parameter' if earlier else along}", fontsize="small")
    ax.margins(0.1)
    grid(ax, "both")
    open_frame(ax)
    _legend(ax, by, earlier=earlier)
    _write_apart(ax, named)
    return ax


def _legend(ax: Axes, by: str | None, *, earlier: int) -> None:
    """Write a legend; a single line has one only where other lines were drawn on the same axes before."""
    if by is not None:
        ax.legend(title=LABELS.get(by, by), loc="center left", bbox_to_anchor=(1.0, 0.5))
    elif earlier:
        ax.legend()


def _point_names(along: str, values: Sequence[Any], x: np.ndarray, y: np.ndarray) -> list[tuple[str, float, float]]:
    """Labels of the points (label, x, y); settings that lie at the same point share a label."""
    found: dict[tuple[float, float], list[str]] = {}
    for value, here, there in zip(values, x.tolist(), y.tolist(), strict=True):
        if np.isfinite([here, there]).all():
            found.setdefault((here, there), []).append(value_name(along, value))
    return [
        (", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]}", here, there)
        for (here, there), names in found.items()
    ]


def _write_apart(ax: Axes, named: Sequence[tuple[str, str, float, float]]) -> None:
    """Write labels (colour, label, x, y) beside their points; of two that would overlap, only the earlier one."""
    taken: list[tuple[float, float, float]] = []
    # The axes have their final width only after the legend has its place.
    ax.figure.canvas.figure.draw_without_rendering()
    right, high = ax.bbox.x1 * 72 / ax.figure.dpi, points(TOKEN_SIZE)
    for colour, name, here, there in named:
        across, up = ax.transData.transform((here, there)) * 72 / ax.figure.dpi
        wide = 72 * length(name) + 4
        left = across + wide > right  # to the left of its point it stays inside the axes and off the legend
        across -= wide if left else 0
        if all(not (across < x + w and x < across + wide) or abs(up - y) > 1.2 * high for x, y, w in taken):
            taken.append((across, up, wide))
            ax.annotate(
                name, (here, there), (-5 if left else 5, 4), textcoords="offset points", fontsize=TOKEN_SIZE,
                color=colour, ha="right" if left else "left",
                bbox={"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.3, "alpha": 0.7},
            )  # fmt: skip


def _name_axis(axis: Any, name: str, place: Places) -> None:
    axis.set_label_text(LABELS.get(name, name))
    if not place.numeric:
        name_ticks(axis, place.at.values(), place.names)
        axis.axes.set_xlim(-0.6, len(place.names) - 0.4)
        turn(axis, place.names)


def _spell_out(axis: Any) -> None:
    """Write the tick labels of an axis in full, not as offsets from a number at the end of the axis."""
    from matplotlib.ticker import ScalarFormatter

    formatter = axis.get_major_formatter()
    if isinstance(formatter, ScalarFormatter):  # the user's axes may have another formatter
        formatter.set_useOffset(False)


def _say_unknown(ax: Axes, *summaries: pd.DataFrame) -> None:
    """Say which metric has no value at any setting, and why that may be."""
    for summary in summaries:
        if len(summary) and not np.isfinite(numbers(summary["value"])).any():
            why = "too few or too short completions,\nor an endpoint that does not say it"
            return say(ax, f"no value of {_metric(summary)} is known:\n{why}")


def _metric(summary: pd.DataFrame) -> str:
    return str(summary["metric"].iloc[0]) if len(summary) else ""


def _reach(summary: pd.DataFrame) -> np.ndarray:
    value, low, high = (numbers(summary[name]) for name in ("value", "low", "high"))
    return np.nan_to_num(np.stack([value - low, high - value])).clip(min=0)


def _is(column: pd.Series, value: Any) -> np.ndarray:
    return np.array([_plain(other) == value for other in column], bool)


def _plain(value: Any) -> Any:
    """A value of a frame as the sweep's parameters hold it: NA is None."""
    import pandas as pd

    return None if value is pd.NA or value != value else value
