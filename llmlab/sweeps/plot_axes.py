"""What a plot of a sweep shows: which parameters along its axes, which metrics, and what it averages over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.protocol.arguments import listed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.metrics import Metric


def choose_axes(axes: Mapping[str, Sequence[Any]], x: str | None, by: str | None) -> tuple[str, str | None]:
    """The two parameters to plot against: those that were named, otherwise the first ones that are swept.

    Args:
        axes: the swept parameters and their values.
        x: the parameter along the x axis, if it was named.
        by: the second parameter, if it was named.

    Raises:
        RequestError: a parameter is not swept, the same one is named twice, or nothing is swept.
    """
    check_names("x", [name for name in (x,) if name is not None], list(axes))
    check_names("by", [name for name in (by,) if name is not None], list(axes))
    if x is not None and x == by:
        raise RequestError(f"by is {by!r}, which x is already: name another parameter", param="by")
    # The prompts are the first axis of the grid, and the last choice for an axis of a plot.
    free = sorted((name for name in axes if name not in (x, by)), key=lambda name: name == "prompt")
    if x is None:
        if not free:
            raise RequestError("this sweep has no swept parameter to plot against", param="x")
        x = free.pop(0)
    if by is None and free and free[0] != "prompt":
        by = free[0]
    return x, by


def metric_names(metric: Any, metrics: Any) -> list[str]:
    """The names of the metrics to plot, a panel each: those asked for, or all functions given, or mean_entropy.

    Raises:
        RequestError: they are something else than a name or a list of different names.
    """
    if metric is None:
        return list(metrics or ()) or ["mean_entropy"]
    if isinstance(metric, Mapping):
        raise RequestError("metric must be a name or a list of names; functions go into metrics=", param="metric")
    names = [metric] if isinstance(metric, str) else listed("metric", metric, of="names")
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise RequestError(f"metric must be a name or a list of different names, got {short(metric)}", param="metric")
    return names


def panels_summary(
    names: Sequence[str],
    metrics: Mapping[str, Metric],
    summary: Callable[..., pd.DataFrame],
    *,
    sizes: Collection[int],
) -> pd.DataFrame:
    """The summary of metrics, in the order of their names; a metric of many completions is named with their number.

    Args:
        names: columns of a sweep's frame, or names in `metrics`.
        metrics: name -> function of the rows of one cell.
        summary: `Sweep.summary_frame`, with the options that all of them have.
        sizes: the numbers of completions that a cell has.
    """
    import pandas as pd

    few, many = min(sizes, default=0), max(sizes, default=0)
    counted = f", n = {few}" if few == many else f", n = {few} to {many}"
    parts = [
        summary([], metrics={name: metrics[name]}).assign(metric=f"{name}{counted}")
        if isinstance(name, str) and name in metrics
        else summary([name])
        for name in names
    ]
    return pd.concat(parts, ignore_index=True)


def name_averaged(ax: Axes | np.ndarray, axes: Mapping[str, Sequence[Any]], x: str, by: str | None) -> None:
    """Add to the title of each plot which parameters were averaged over, and how many values they have."""
    rest = [f"{name} ({len(values)})" for name, values in axes.items() if name not in (x, by) and len(values) > 1]
    if rest:
        from llmlab.plots.style import title

        for one in np.ravel(np.array(ax, object)):
            present = one.get_title(loc="left")
            title(one, ", ".join([*([present] if present else []), f"mean over {' × '.join(rest)}"]))


def check_names(param: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Check names against those that exist.

    Raises:
        RequestError: naming `param`, and the first name that is unknown.
    """
    for name in names:
        if name not in known:
            raise RequestError(
                f"{param}: there is no {short(name)}; there are {', '.join(known) or 'none'}", param=param
            )
