"""What all plots share: matplotlib's settings, axes, titles, legends, grids, line styles.

Every plot function is decorated with `@style()`: its settings hold while the plot is drawn, and end with it. Sizes of
text are words, such as "small", which matplotlib reads relative to the user's `font.size`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmlab.display import palette
from llmlab.errors import RequestError, short

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: The settings of every plot, where the user has matplotlib's default. Text is created by matplotlib with the settings
#: of that moment; ticks and grid lines may be created later, so `name_ticks` and `grid` set theirs explicitly.
_SETTINGS: Mapping[Any, Any] = {
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "legend.fontsize": "small",
    "legend.frameon": False,
}
#: More tokens than this get a numbered axis, where only the most surprising ones have their label.
LABELLED = 60

#: Names of axes that several plots have.
TOKEN, NEXT_TOKEN, POSITION = "token", "next token, most likely first", "position (tokens)"

#: How each of several lines is drawn, so that the colour is not the only sign: colour, marker, line.
STYLES = (
    (palette.BLUE, "o", "-"),
    (palette.VERMILION, "s", "--"),
    (palette.GREEN, "^", "-."),
    (palette.PURPLE, "D", ":"),
    (palette.ORANGE, "v", "-"),
    (palette.SKY, "P", "--"),
    ("", "X", "-."),  # the user's own text colour
)
#: How values of the raw distribution and of the one sampled from are drawn.
RAW, SAMPLING = (palette.BLUE, "o", "-"), (palette.ORANGE, "s", "--")


@contextmanager
def style() -> Iterator[None]:
    """The settings that plots are drawn with, as a decorator or in a `with`; matplotlib's own come back after it.

    A setting that the user has changed from matplotlib's default stays the user's. Text is never read as a formula:
    a token may hold dollar signs.

    Only these settings are put back. `matplotlib.rc_context` puts back all of them, also what a notebook's backend sets
    when the first plot of a session loads it; interactive mode would be off again, and no later plot be shown.
    """
    from matplotlib import rcParams, rcParamsDefault

    ours = {name: value for name, value in _SETTINGS.items() if rcParams[name] == rcParamsDefault[name]}
    ours["text.parse_math"] = False
    before = {name: rcParams[name] for name in ours}
    rcParams.update(ours)
    try:
        yield
    finally:
        rcParams.update(before)


def new_axes(ax: Axes | None, *, width: float, height: float, below: float = 0.0) -> Axes:
    """The axes given, or those of a new figure with a constrained layout.

    Args:
        ax: the user's axes.
        width: of a new figure, in inches.
        height: of a new figure, in inches; it has room for labels of 0.8 inches below the axes.
        below: the inches that the labels below the axes take. The figure grows by what is more than its room.

    Raises:
        RequestError: `ax` is no matplotlib Axes.
    """
    if ax is not None:
        return check_ax(ax)
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height + max(below - 0.8, 0.0)), layout="constrained")[1]


def check_ax(ax: Any) -> Axes:
    """The axes given.

    Raises:
        RequestError: it is something else, such as the array of axes that `plt.subplots` returns.
    """
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise RequestError(
            f"ax must be one matplotlib Axes, got {short(ax)}; of figure, axes = plt.subplots(...) it is (one of) axes",
            param="ax",
        )
    return ax


def inches(ax: Axes) -> float:
    """The width of the axes in inches, as they lie now."""
    return float(ax.get_window_extent().width / ax.figure.dpi)


def title(ax: Axes, text: str, **look: Any) -> None:
    """Write a title at the left, as it is: "$x$" is no formula. `look` are matplotlib's options of a text."""
    ax.set_title(text, loc="left", parse_math=False, **look)


def grid(ax: Axes, axis: Literal["x", "y", "both"] = "y") -> None:
    """Draw faint grid lines for the "x" axis, the "y" axis or "both"."""
    ax.grid(axis=axis, color="0.5", alpha=0.25, linewidth=0.6)


def open_frame(ax: Axes) -> None:
    """Leave out the lines at the top and on the right of the axes."""
    ax.spines[["top", "right"]].set_visible(False)


def legend_above(
    ax: Axes,
    handles: Sequence[Any] | None = None,
    labels: Sequence[str] | None = None,
    *,
    columns: int = 1,
    centred: bool = False,
    marker_scale: float = 1.0,
    **options: Any,
) -> bool:
    """Write the legend above the axes, where it covers nothing; False where there is nothing to write.

    Args:
        ax: the axes.
        handles: what the entries show; by default all that has a label on the axes.
        labels: the texts of `handles`.
        columns: the number of columns, fewer where they would be wider than the figure.
        centred: in the middle; otherwise it begins at the left end of the axes.
        marker_scale: the size of markers relative to that in the plot.
        options: more of matplotlib's options of a legend.
    """
    if handles is None or labels is None:
        handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return False
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)} if centred else {
        "loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2
    }  # fmt: skip
    for ncols in range(columns, 0, -1):
        legend = ax.legend(handles, labels, ncols=ncols, markerscale=marker_scale, **{**place, **options})
        if legend.get_window_extent().width < ax.figure.bbox.width:
            break
    return True


def line_style(index: int) -> tuple[str, str, str]:
    """Colour, marker and line of the line with this number; they start again after the last of `STYLES`."""
    colour, marker, line = STYLES[index % len(STYLES)]
    return colour or ink(), marker, line


def fineness(tokens: int) -> float:
    """The factor, at most 1, by which marks and lines shrink where many tokens share the width of a plot."""
    return min(1.0, (LABELLED / max(tokens, 1)) ** 0.5)


def ink() -> str:
    """The colour of text in the style in use: black, or white on dark styles."""
    from matplotlib import rcParams

    return str(rcParams["text.color"])


def say_nothing_known(ax: Axes, what: str, *, tokens: int) -> None:
    """Say in an empty plot why it is empty, so that nobody takes it for a result."""
    say(ax, f"{what} not known: the endpoint does not say" if tokens else "no tokens")


def say(ax: Axes, text: str) -> None:
    """Write a text into the middle of a plot that has nothing else."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize="small", color=ink(), alpha=0.75)


def numbers(column: pd.Series) -> np.ndarray:
    """A column as float64; NA is NaN."""
    return column.to_numpy(dtype=np.float64, na_value=np.nan)
