"""The plot of the diversity of a sweep's completions against their likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.errors import RequestError
from llmlab.plots.labels import TOKEN_SIZE, length, value_name, value_names
from llmlab.plots.room import drawn
from llmlab.plots.style import STYLES, grid, lay_out, line_style, new_axes, numbers, open_frame, thickness, title, write
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


@drawn
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

    for param, summary in {"likelihood": likelihood, "diversity": diversity}.items():
        metrics = metrics_of(check_summary(summary, along, by, axes, param=param, first="along"))
        if len(metrics) > 1:
            raise RequestError(f"{param} holds {', '.join(metrics)}; give the rows of one of them", param=param)
    groups: Sequence[Any] = (None,) if by is None else axes[by]
    if len(groups) > len(STYLES):
        raise RequestError(
            f"{by} has {len(groups)} values, and {len(STYLES)} lines can be told apart; sweep fewer", param="by"
        )
    ax = new_axes(ax, width=6.4, height=4.6)
    named: list[tuple[str, str, float, float]] = []
    names = (LABELS.get(along, along),) if by is None else value_names(by, groups)
    earlier, thick = len(ax.containers), thickness()
    for index, (group, name) in enumerate(zip(groups, names, strict=True)):
        colour, marker, line = line_style(earlier + index)
        flat, tall = (
            frame if by is None else frame[rows_with(frame[by], group)] for frame in (likelihood, diversity)
        )  # fmt: skip
        x, y = numbers(flat["value"]), numbers(tall["value"])
        ax.errorbar(
            x, y, xerr=_reach(flat), yerr=_reach(tall), color=colour, marker=marker, linestyle=line,
            markersize=5 * thick, linewidth=1.2 * thick, elinewidth=0.8 * thick, ecolor=to_rgba(colour, 0.4),
            label=name,
        )  # fmt: skip
        points = _point_names(along, [plain(value) for value in flat[along]], x, y)
        # The ends of a line first: where there is no room for all, they tell the most.
        named += [(colour, *point) for point in [*points[:1], *points[:0:-1]]]
    for axis, frame in ((ax.xaxis, likelihood), (ax.yaxis, diversity)):
        axis.set_label_text(LABELS.get(metric_of(frame), metric_of(frame)))
        spell_out(axis)
    say_unknown(ax, likelihood, diversity)
    title(ax, f"labelled by {'the swept parameter' if earlier else along}")
    ax.margins(0.1)
    grid(ax, "both")
    open_frame(ax)
    legend_of_groups(ax, by, earlier=earlier)
    _write_apart(ax, named)
    return ax


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
    """Write labels (colour, label, x, y) beside their points, inside the axes."""
    lay_out(ax)
    right = ax.bbox.x1 / ax.figure.dpi
    for colour, name, here, there in named:
        left = ax.transData.transform((here, there))[0] / ax.figure.dpi + length(name) + 0.1 > right
        write(
            ax, name, (here, there), (-5 if left else 5, 4), fontsize=TOKEN_SIZE, color=colour,
            ha="right" if left else "left",
        )  # fmt: skip


def _reach(summary: pd.DataFrame) -> np.ndarray:
    value, low, high = interval(summary)
    return np.nan_to_num(np.stack([value - low, high - value])).clip(min=0)
