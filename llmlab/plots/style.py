"""What all plots share: matplotlib's settings, axes, titles, legends, grids, line styles.

Every plot function is decorated with `@style()`: its settings hold while the plot is drawn, and end with it. Sizes of
text are words, such as "small", which matplotlib reads relative to the user's `font.size`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np

from llmlab.display import palette
from llmlab.errors import RequestError, short

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from matplotlib.transforms import Bbox

#: The settings of every plot, where the user has matplotlib's default. Text is created by matplotlib with the settings
#: of that moment; ticks and grid lines may be created later, so `name_ticks` and `grid` set theirs explicitly.
_SETTINGS: Mapping[Any, Any] = {
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "legend.fontsize": "small",
    "legend.frameon": False,
}
#: The legends that lie above their axes -> whether they are centred.
ABOVE: WeakKeyDictionary[Legend, bool] = WeakKeyDictionary()
#: The points between two tokens from which on marks have their full size.
_PITCH = 12.0
#: The most of a plot's width that a legend beside it takes.
_BESIDE = 0.3
#: The fewest characters of a line of a wrapped text in a legend.
_SHORTEST = 12
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
    """The axes given, or those of a new figure with a constrained layout, of the user's size where one is set.

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

    size = own_size() or (width, height + max(below - 0.8, 0.0))
    return plt.subplots(figsize=size, layout="constrained")[1]


def own_size() -> tuple[float, float] | None:
    """The size of figures that the user has set, in inches; None where it is matplotlib's own."""
    from matplotlib import rcParams, rcParamsDefault

    across, up = rcParams["figure.figsize"]
    return None if [across, up] == list(rcParamsDefault["figure.figsize"]) else (float(across), float(up))


def new_panels(ax: Any, *, panels: int, width: float, height: float) -> list[Axes]:
    """Axes for several plots: those given, or those of a new figure with at most two beside each other.

    Args:
        ax: the user's axes, as many as there are panels; None for a new figure.
        panels: how many.
        width: of a panel of a new figure, in inches.
        height: of a panel of a new figure, in inches.

    Raises:
        RequestError: `ax` is something else, or holds another number of axes.
    """
    if ax is None:
        from matplotlib import pyplot as plt

        columns = min(panels, 2)
        rows = -(-panels // columns)
        figure = plt.figure(figsize=own_size() or (columns * width, rows * height), layout="constrained")
        return [figure.add_subplot(rows, columns, at + 1) for at in range(panels)]
    found = list(np.ravel(ax)) if isinstance(ax, np.ndarray | list | tuple) else [ax]
    if len(found) != panels:
        wanted = "one matplotlib Axes" if panels == 1 else f"{panels} axes, one for each metric"
        raise RequestError(f"ax must be {wanted}, got {len(found)}; plt.subplots({panels}) gives them", param="ax")
    return [check_ax(one) for one in found]


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


def lay_out(ax: Axes) -> None:
    """Lay out the figure of the axes, so that sizes and places can be asked for."""
    whole = ax.figure.canvas.figure
    whole.draw_without_rendering()
    if sum(_read_powers(axis) for axes in whole.axes for axis in (axes.xaxis, axes.yaxis)):
        whole.draw_without_rendering()


def _read_powers(axis: Any) -> int:
    """Let the tick labels that matplotlib makes be read as formulas, as 10 to a power is; for how many that is new.

    A tick is made when it is first looked for, with the settings of that moment, and those of `style` read no formulas.
    """
    from matplotlib.ticker import FixedLocator

    new = []
    for ticks, locator in (
        (axis.majorTicks, axis.get_major_locator()), (axis.minorTicks, axis.get_minor_locator())
    ):  # fmt: skip
        if not isinstance(locator, FixedLocator):
            new += [text for tick in ticks for text in (tick.label1, tick.label2) if not text.get_parse_math()]
    for text in new:
        text.set_parse_math(True)
    return len(new)


def slot(ax: Axes) -> Bbox:
    """The place of the axes with everything around them, in pixels: their share of the figure's grid of subplots."""
    from matplotlib.transforms import Bbox

    whole, spec = ax.figure.bbox, ax.get_subplotspec()
    if spec is None:  # axes that were put somewhere have what is around that place up to the figure's ends
        return Bbox.from_extents(whole.x0, whole.y0, whole.x1, whole.y1)
    x, y = (0.0, 1.0), (0.0, 1.0)
    for each in dict.fromkeys((spec.get_topmost_subplotspec(), spec)):
        cells = each.get_gridspec()
        up = range(cells.nrows - each.rowspan.stop, cells.nrows - each.rowspan.start)  # rows count from the top
        wide, high = (np.asarray(ratios, float) for ratios in (cells.get_width_ratios(), cells.get_height_ratios()))
        x, y = _share(wide, each.colspan, x), _share(high[::-1], up, y)
    return Bbox.from_extents(
        whole.x0 + x[0] * whole.width, whole.y0 + y[0] * whole.height,
        whole.x0 + x[1] * whole.width, whole.y0 + y[1] * whole.height,
    )  # fmt: skip


def _share(ratios: np.ndarray, span: range, inside: tuple[float, float]) -> tuple[float, float]:
    """The part of an interval that some of the cells take, which divide it by these ratios."""
    ends = np.concatenate([[0.0], np.cumsum(ratios)])
    low, high = (inside[0] + (inside[1] - inside[0]) * ends[[span.start, span.stop]] / ends[-1]).tolist()
    return low, high


def title(ax: Axes, text: str, **look: Any) -> None:
    """Write a title at the left, as it is: "$x$" is no formula. `look` are matplotlib's options of a text."""
    ax.set_title(text, loc="left", parse_math=False, **look)


def write(ax: Axes, text: str, at: tuple[Any, Any], offset: tuple[float, float] = (0.0, 0.0), **look: Any) -> None:
    """Write a text beside a place in the plot, before all lines; of texts that overlap, the one written first stays.

    Args:
        ax: the axes.
        text: the text, as it is.
        at: the place, in data.
        offset: of the text from the place, in points.
        look: matplotlib's options of a text.
    """
    look = {"fontsize": "small", "color": ink(), **look}
    box = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.4}
    ax.annotate(text, at, offset, textcoords="offset points", bbox=box, zorder=6, annotation_clip=False, **look)


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
        columns: the number of columns, fewer where they would be wider than the axes' place.
        centred: in the middle; otherwise it begins at the left end of the axes.
        marker_scale: the size of markers relative to that in the plot.
        options: more of matplotlib's options of a legend.
    """
    if handles is None or labels is None:
        handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return False
    options = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2, "columnspacing": 1.4, **options}
    place = slot(ax)
    for ncols in range(columns, 0, -1):
        legend = ax.legend(handles, labels, ncols=ncols, markerscale=marker_scale, **options)
        if legend.get_window_extent().width < place.width:
            break
    if (wide := legend.get_window_extent().width) > place.width:
        # A single column is still too wide: its longest lines are wrapped, with room for the handles.
        line = max(int(max(map(len, labels)) * (2 * place.width - wide) / place.width), _SHORTEST)
        legend = ax.legend(handles, [fill(label, line) for label in labels], markerscale=marker_scale, **options)
    ABOVE[legend] = centred
    return True


def legend_beside(ax: Axes, heading: str) -> None:
    """Write the legend on the right of the axes; above them where it would take more than a part of their width."""
    legend = ax.legend(title=heading, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if legend.get_window_extent().width > _BESIDE * slot(ax).width:
        legend_above(ax, columns=4, title=heading, alignment="left")


def line_style(index: int) -> tuple[str, str, str]:
    """Colour, marker and line of the line with this number; they start again after the last of `STYLES`."""
    colour, marker, line = STYLES[index % len(STYLES)]
    return colour or ink(), marker, line


def fineness(ax: Axes, tokens: int) -> float:
    """The factor by which marks and lines shrink where many tokens share the width of a plot.

    It is 1 where there is room and the user has matplotlib's own `lines.markersize`, and follows that setting.
    """
    return thickness() * min(1.0, (72 * inches(ax) / max(tokens, 1) / _PITCH) ** 0.5)


def thickness() -> float:
    """The factor of all marks and lines: the user's `lines.markersize`, or else `font.size`, over matplotlib's own."""
    from matplotlib import rcParams, rcParamsDefault

    name: Any = "lines.markersize"
    name = name if rcParams[name] != rcParamsDefault[name] else "font.size"
    return float(rcParams[name] / rcParamsDefault[name])


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
    """A column as float64; a missing value is NaN."""
    return column.to_numpy(dtype=np.float64, na_value=np.nan)
