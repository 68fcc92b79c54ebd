"""The next-token law under several temperatures, and what top_k, top_p and min_p cut from each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmlab.display import palette
from llmlab.distributions.stages import TemperatureLaws
from llmlab.plots.labels import name_slanted, points
from llmlab.plots.style import NEXT_TOKEN, inches, ink, legend_above, new_axes, open_frame, style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

#: How each cut is drawn: colour, hatch, line.
CUT_STYLES = {
    "top_k": (palette.ORANGE, "///", "-"),
    "top_p": (palette.PURPLE, "\\\\\\", "--"),
    "min_p": (palette.GREEN, "...", ":"),
}
_ROW = 0.78  # how much of the space between two rows the tallest bar takes
_NOTE_INCHES = 1.45
_DIGIT = 0.64  # the width of a digit, in heights
_LINE = 1.35  # the distance between two lines of notes, in heights
_LEGEND_INCHES = 4.8  # the legend's two columns


@style()
def plot_temperatures(data: TemperatureLaws, *, ax: Axes | None = None) -> Axes:
    """A row of bars a temperature: the law before the cuts, each bar hatched by the cut that removed it.

    Outlines show the law drawn from, renormalised over what is kept. A vertical line stands where top_k and top_p cut,
    a level line where min_p does. The bars of all rows share one scale; their figures are those of the law before
    the cuts.
    """
    T, K = data.prob.shape
    ax = new_axes(ax, width=min(max(0.46 * K + 3.0, 5.6), 11.0), height=1.05 * T + 1.7)
    at = np.arange(K)
    scale = _ROW / max(data.prob.max(initial=0), data.final.max(initial=0), 1e-9)
    name_slanted(ax, data.labels)
    ax.set_yticks([-row for row in range(T)], [f"{t:.4g}" for t in data.temperatures])
    ax.set_ylabel("temperature")
    ax.set_xlabel(NEXT_TOKEN)
    ax.set_ylim(-T + 0.85, 1.0)
    _legend(ax, data)
    # What fits is known when all around the axes has its place.
    ax.figure.canvas.figure.draw_without_rendering()
    width, height = inches(ax), ax.get_window_extent().height / ax.figure.dpi
    room = max(width - _NOTE_INCHES, 1.0) / K
    lines = max(int(height / (T + 0.15) / (_LINE * points("x-small") / 72)), 1)
    for row in range(T):
        _draw_row(ax, data, row, at=at, scale=scale, room=room, lines=lines)
    if "top_k" in data.settings and data.settings["top_k"] < K:
        colour, _, line = CUT_STYLES["top_k"]
        ax.axvline(data.settings["top_k"] - 0.5, color=colour, linestyle=line, linewidth=1.4)
    ax.set_xlim(-0.7, K - 0.4 + K * _NOTE_INCHES / max(width - _NOTE_INCHES, 1.0))
    open_frame(ax)
    return ax


def _draw_row(
    ax: Axes, data: TemperatureLaws, row: int, *, at: np.ndarray, scale: float, room: float, lines: int
) -> None:
    base = -float(row)
    bars = ax.bar(at, data.prob[row] * scale, 0.74, bottom=base, color=palette.BLUE, zorder=2)
    for bar, cut in zip(bars, data.removed_by[row], strict=True):
        if cut:
            colour, hatch, _ = CUT_STYLES[cut]
            bar.set(facecolor=ax.get_facecolor(), edgecolor=colour, hatch=hatch, linewidth=0.8)
    kept = data.final[row] > 0
    ax.bar(
        at[kept], data.final[row][kept] * scale, 0.74, bottom=base, fill=False, edgecolor=ink(), linewidth=1,
        zorder=3,
    )  # fmt: skip
    digit = _DIGIT * points("x-small") / 72
    for k, p in enumerate(data.prob[row]):
        top = base + scale * max(p, data.final[row][k])
        text = f"{p:.2f}".removeprefix("0") if p >= 0.005 else "0" if p == 0 else "<.01"
        if len(text) * digit > room:
            continue  # it would lie on its neighbour's
        ax.annotate(
            text, (k, top), (0, 2), textcoords="offset points", ha="center", va="bottom",
            fontsize="x-small", zorder=5,
            bbox={"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.3, "alpha": 0.75},
        )  # fmt: skip
    ax.axhline(base, color="0.6", linewidth=0.6, zorder=1)
    _draw_cuts(ax, data, row, base=base, scale=scale)
    notes = [f"keeps {data.kept[row]:,}"]
    for cut in data.settings:
        notes.append(f"{cut} cuts {data.removed[cut][row]:,} ({data.removed_mass[cut][row]:.2%})")
    shown = "\n".join(notes[:lines])
    ax.text(len(at) - 0.3, base + _ROW / 2, shown, fontsize="x-small", va="center", linespacing=1.25)


def _draw_cuts(ax: Axes, data: TemperatureLaws, row: int, *, base: float, scale: float) -> None:
    K = len(data.labels)
    if "top_p" in data.settings:
        # Whatever top_k left, top_p keeps a head of it: the line stands after the last token it did not remove.
        gone = [k for k, cut in enumerate(data.removed_by[row]) if cut == "top_p"]
        if gone and gone[0] < K:
            colour, _, line = CUT_STYLES["top_p"]
            ax.plot([gone[0] - 0.5] * 2, [base, base + _ROW], color=colour, linestyle=line, linewidth=1.8, zorder=4)
    if np.isfinite(data.min_p_level[row]):
        colour, _, line = CUT_STYLES["min_p"]
        level = base + scale * data.min_p_level[row]
        ax.plot([-0.5, K - 0.5], [level] * 2, color=colour, linestyle=line, linewidth=1.6, zorder=4)


def _legend(ax: Axes, data: TemperatureLaws) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist | tuple[Artist, ...]] = [
        Patch(color=palette.BLUE),
        Patch(facecolor="none", edgecolor=ink()),
    ]
    labels = ["kept: probability before the cuts", "after them, renormalised"]
    for cut in data.settings:
        colour, hatch, line = CUT_STYLES[cut]
        bar = Patch(facecolor=ax.get_facecolor(), edgecolor=colour, hatch=hatch)
        handles.append((bar, Line2D([], [], color=colour, ls=line, linewidth=1.6)))
        labels.append(f"cut by {cut} = {data.settings[cut]:g}")
    legend_above(
        ax, handles, labels, columns=2 if inches(ax) > _LEGEND_INCHES else 1, handlelength=3.2,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.4)},
    )  # fmt: skip
