"""Which of the swept parameters a plot shows along its axes, and which ones it averages over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmlab.errors import RequestError, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


def name_averaged(ax: Axes, axes: Mapping[str, Sequence[Any]], x: str, by: str | None) -> None:
    """Add to the plot's title which parameters were averaged over, and how many values they have."""
    rest = [f"{name} ({len(values)})" for name, values in axes.items() if name not in (x, by) and len(values) > 1]
    if rest:
        from llmlab.plots.style import title

        present = ax.get_title(loc="left")
        title(ax, ", ".join([*([present] if present else []), f"mean over {' × '.join(rest)}"]))


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
