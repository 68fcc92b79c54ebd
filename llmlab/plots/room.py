"""What fits in the room that a plot has: labels that would overlap are thinned, long texts wrapped, legends moved in.

A plot is drawn first and settled then, because how much room there is shows only once everything around the axes has
been laid out. Every plot function is decorated with `@drawn`, which does both with the settings of `style`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from llmlab.plots.style import ABOVE, lay_out, slot, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

_P = ParamSpec("_P")
_R = TypeVar("_R")
#: The distance between the baselines of two labels, in heights of a label.
_APART = 1.15
#: The fewest characters of a line of a wrapped text.
_LINE = 10
#: Points between a legend above the axes and the title.
_PAD = 4.0


def drawn(plot: Callable[_P, _R]) -> Callable[_P, _R]:
    """A plot function that draws with the settings of `style`, and settles what it drew."""

    @wraps(plot)
    def settled(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with style():
            own = set(_texts(_axes(kwargs.get("ax"))))
            found = plot(*args, **kwargs)
            settle(_axes(found), written_before=own)
            return found

    return settled


def settle(axes: Sequence[Axes], *, written_before: set[Text]) -> None:
    """Thin tick labels, wrap titles and names of axes, move legends in, and hide texts that lie on others.

    Args:
        axes: the axes that were drawn on, all of one figure.
        written_before: texts in them that stay as they are.
    """
    named = [(axis, _names(axis)) for ax in axes for axis in (ax.xaxis, ax.yaxis)]
    legends = [legend for ax in axes if (legend := ax.get_legend()) is not None]
    for legend in legends:
        legend.set_in_layout(False)
    for _ in range(3):
        lay_out(axes[0])
        for axis, names in named:
            _thin(axis, names)
        for ax in axes:
            _wrap(ax)
            _move_in(ax)
        for legend in legends:
            legend.set_in_layout(True)
    lay_out(axes[0])
    for ax in axes:
        _keep_apart(ax, [text for text in ax.texts if text not in written_before])


def _axes(ax: Any) -> list[Axes]:
    from matplotlib.axes import Axes

    return [one for one in np.ravel(np.array(ax, object)) if isinstance(one, Axes)]


def _texts(axes: Iterable[Axes]) -> list[Text]:
    return [text for ax in axes for text in ax.texts]


def _names(axis: Any) -> list[str] | None:
    """The tick labels of an axis that has fixed ones; None where matplotlib makes them."""
    from matplotlib.ticker import FixedLocator

    fixed = isinstance(axis.get_major_locator(), FixedLocator)
    return [label.get_text() for label in axis.get_ticklabels()] if fixed else None


def _thin(axis: Any, names: Sequence[str] | None) -> None:
    """Leave out tick labels that would lie on each other, but never the first or the last."""
    from matplotlib.ticker import AutoLocator, FixedFormatter, MaxNLocator

    if names is None:
        if isinstance(axis.get_major_locator(), AutoLocator) and _overlap(axis):
            for ticks in range(7, 1, -1):
                axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
                if not _overlap(axis):
                    break
        return
    axis.set_major_formatter(FixedFormatter(list(names)))
    labels = axis.get_ticklabels()
    places = _along(axis)
    if len(places) < 2 or len(places) != len(labels):
        return
    pitch = float(np.diff(np.sort(places)).min())
    step = max(1, int(np.ceil(_needed(axis, labels) / max(pitch, 1e-9) - 0.02)))
    shown = {*range(0, len(names) - step, step), len(names) - 1}
    axis.set_major_formatter(FixedFormatter([name if at in shown else "" for at, name in enumerate(names)]))


def _along(axis: Any) -> np.ndarray:
    """Where the major ticks of an axis lie along it, in pixels."""
    at = np.asarray(axis.get_majorticklocs(), float)
    across = np.stack([at, at], axis=-1)
    return np.asarray(axis.axes.transData.transform(across))[:, 0 if axis.axis_name == "x" else 1]


def _needed(axis: Any, labels: Sequence[Any]) -> float:
    """The distance in pixels that two neighbouring labels need to stay apart."""
    dpi = axis.axes.figure.dpi
    high = _APART * max(label.get_fontsize() for label in labels) * dpi / 72
    if axis.axis_name == "y":
        return high
    turned = np.deg2rad(labels[0].get_rotation())
    if turned:
        return float(high / np.sin(turned))
    return max(label.get_window_extent().width for label in labels) + high / 2


def _overlap(axis: Any) -> bool:
    """Whether neighbouring tick labels of an axis overlap, or nearly."""
    boxes = [
        tick.label1.get_window_extent() for tick in axis.get_major_ticks()
        if tick.label1.get_text() and tick.label1.get_visible()
        and axis.get_view_interval().min() <= tick.get_loc() <= axis.get_view_interval().max()
    ]  # fmt: skip
    near = 0.3 * axis.get_ticklabels()[0].get_fontsize() * axis.axes.figure.dpi / 72 if boxes else 0.0
    if axis.axis_name == "x":
        return any(one.x1 + near > other.x0 for one, other in zip(boxes, boxes[1:], strict=False))
    return any(one.y1 > other.y0 for one, other in zip(boxes, boxes[1:], strict=False))


def _wrap(ax: Axes) -> None:
    """Wrap the title and the names of the axes where they are longer than the room they have."""
    place = slot(ax)
    title = ax.set_title(ax.get_title(loc="left"), loc="left")
    across, up = (ax.bbox.x0 + ax.bbox.x1) / 2, (ax.bbox.y0 + ax.bbox.y1) / 2
    wide, high = (2 * min(place.x1 - across, across - place.x0), 2 * min(place.y1 - up, up - place.y0))
    texts = [(title, place.x1 - ax.bbox.x0, "width"), (ax.xaxis.label, wide, "width")]
    # A colour bar and a second y axis have names of their own.
    texts += [(one.yaxis.label, high, "height") for one in (ax, *_beside(ax))]
    for text, room, side in texts:
        long = float(getattr(text.get_window_extent(), side))
        if long > 0.97 * room:
            lines = text.get_text().split("\n")
            fitting = max(int(0.97 * max(map(len, lines)) * room / long) - 1, _LINE)
            text.set_text("\n".join(textwrap.fill(line, fitting) for line in lines))


def _beside(ax: Axes) -> list[Axes]:
    """The colour bars of the axes, and other axes in the same place."""
    bars = [bar.ax for drawn in ax.collections if (bar := getattr(drawn, "colorbar", None)) is not None]
    return bars + [one for one in ax.figure.axes if one is not ax and one.bbox.bounds == ax.bbox.bounds]


def _move_in(ax: Axes) -> None:
    """Move a legend above the axes inside the axes' place, and the title above the legend."""
    legend = ax.get_legend()
    if legend is None or legend not in ABOVE:
        return
    place, box, axes = slot(ax), legend.get_window_extent(), ax.bbox
    left = axes.x0 + (axes.width - box.width) / 2 if ABOVE[legend] else axes.x0
    # A pixel stays free at either end, and the legend's own distance from its anchor is taken off.
    left = max(min(left, place.x1 - box.width - 1), place.x0 + 1)
    left -= legend.borderaxespad * legend.prop.get_size_in_points() * ax.figure.dpi / 72
    legend.set_loc("lower left")
    legend.set_bbox_to_anchor(((left - axes.x0) / axes.width, 1.0), transform=ax.transAxes)
    if title := ax.get_title(loc="left"):
        ax.set_title(title, loc="left", pad=72 * (box.y1 - axes.y1) / ax.figure.dpi + _PAD)


def _keep_apart(ax: Axes, texts: Sequence[Text]) -> None:
    """Hide each text that would lie on an earlier one, on the legend, or outside the figure."""
    legend = ax.get_legend()
    taken: list[Bbox] = [] if legend is None else [legend.get_window_extent()]
    for text in texts:
        if not (text.get_visible() and text.get_text()):
            continue
        box = text.get_window_extent()
        if _inside(box, ax.figure.bbox) and not any(_on(box, other) for other in taken):
            taken.append(box)
        else:
            text.set_visible(False)


def _inside(box: Bbox, figure: Any) -> bool:
    """Whether a box lies inside the figure; half a pixel is nothing."""
    return bool(min(box.x0 - figure.x0, box.y0 - figure.y0, figure.x1 - box.x1, figure.y1 - box.y1) > -0.5)


def _on(one: Bbox, other: Bbox) -> bool:
    """Whether two boxes overlap by more than a pixel."""
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    up = min(one.y1, other.y1) - max(one.y0, other.y0)
    return bool(across > 1 and up > 1)
