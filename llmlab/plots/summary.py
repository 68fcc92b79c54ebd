"""What the plots of a sweep share: the check of a summary, names and ranges of its metrics, legends and axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.plots.given import check_frame, check_single, one_name
from llmlab.plots.style import legend_above, legend_beside, numbers, say

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
#: The values that metrics can have: an interval that is symmetric about its value may reach beyond them.
RANGES = {
    "tokens": (0.0, np.inf),
    "mean_logprob": (-np.inf, 0.0),
    "perplexity": (1.0, np.inf),
    "mean_entropy": (0.0, np.inf),
    "distinct_1": (0.0, 1.0),
    "distinct_2": (0.0, 1.0),
    "diversity (1 − pairwise BLEU)": (0.0, 1.0),
}


def check_summary(
    summary: Any, x: Any, by: Any, axes: Any, *, param: str = "summary", first: str = "x", single: bool = True
) -> pd.DataFrame:
    """A summary that has one row for each metric and each value of `x` and `by`; None for `by` is `single`.

    Raises:
        RequestError: an argument is something else; the summary is grouped by other parameters as well.
    """
    if not isinstance(axes, Mapping):
        raise RequestError(f"axes must be a dict, parameter -> values, got {short(axes)}", param="axes")
    one_name(first, x, axes)
    groups = [x] if by is None and single else [x, one_name("by", by, axes)]
    source = f"sweep.summary_frame(by={groups!r})"
    frame = check_frame(summary, [*groups, "metric", "value", "low", "high"], source=source, param=param)
    check_single(frame, [*groups, "metric"], param=param, way_out=f"give {source}")
    return frame


def metrics_of(summary: pd.DataFrame) -> list[str]:
    """The metrics of a summary, in the order of their first rows."""
    return [str(name) for name in dict.fromkeys(summary["metric"])]


def metric_of(summary: pd.DataFrame) -> str:
    """The metric of a summary that has one; "" of an empty one."""
    return str(summary["metric"].iloc[0]) if len(summary) else ""


def interval(summary: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values of a metric with the ends of their intervals, which end where the metric's range does."""
    value, low, high = (numbers(summary[name]) for name in ("value", "low", "high"))
    # The name of a metric of many completions says how many they are.
    least, most = RANGES.get(metric_of(summary).split(", n = ")[0], (-np.inf, np.inf))
    return value, np.clip(low, least, most), np.clip(high, least, most)


def rows_with(column: pd.Series, value: Any) -> np.ndarray:
    """Which rows of a column have a value of a swept parameter."""
    return np.array([plain(other) == value for other in column], bool)


def plain(value: Any) -> Any:
    """A value of a frame as the sweep's parameters hold it: NaN is None."""
    return None if value != value else value


def legend_of_groups(ax: Axes, by: str | None, *, earlier: int) -> None:
    """Write a legend; a single line has one only where other lines were drawn on the same axes before."""
    if by is not None:
        legend_beside(ax, LABELS.get(by, by))
    elif earlier:
        legend_above(ax, columns=4)


def spell_out(axis: Any) -> None:
    """Write the tick labels of an axis in full, not as offsets from a number at the end of the axis."""
    from matplotlib.ticker import ScalarFormatter

    formatter = axis.get_major_formatter()
    if isinstance(formatter, ScalarFormatter):  # the user's axes may have another formatter
        formatter.set_useOffset(False)


def say_unknown(ax: Axes, *summaries: pd.DataFrame) -> None:
    """Say which metric has no value at any setting, and why that may be."""
    for summary in summaries:
        if len(summary) and not np.isfinite(numbers(summary["value"])).any():
            why = "too few or too short completions,\nor an endpoint that does not say it"
            return say(ax, f"no value of {metric_of(summary)} is known:\n{why}")
