"""The next-token law under several temperatures, and what top_k, top_p and min_p cut from each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmlab.display import palette
from llmlab.distributions.stages import TemperatureLaws
from llmlab.plots.style import ink, new_axes, sparse

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
_DIGIT_INCHES = 0.062  # a figure's
_LINE_INCHES = 0.13  # a line of notes, from the one before
_LEGEND_INCHES = 4.8  # the legend's two columns


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
    ax.set_xticks(
        *sparse(ax, data.labels), rotation=45, ha="right", rotation_mode="anchor", parse_math=False, fontsize=9
    )
    ax.set_yticks([-row for row in range(T)], [f"{t:.4g}" for t in data.temperatures])
    ax.set_ylabel("temperature")
    ax.set_xlabel("next token, most likely first")
    ax.set_ylim(-T + 0.85, 1.0)
    _legend(ax, data)
    # What fits is known when all around the axes has its place.
    ax.figure.canvas.figure.draw_without_rendering()
    box = ax.get_window_extent()
    inches = box.width / ax.figure.dpi
    room = max(inches - _NOTE_INCHES, 1.0) / K
    lines = max(int(box.height / ax.figure.dpi / (T + 0.15) / _LINE_INCHES), 1)
    for row in range(T):
        _draw_row(ax, data, row, at=at, scale=scale, room=room, lines=lines)
    if "top_k" in data.settings and data.settings["top_k"] < K:
        colour, _, line = CUT_STYLES["top_k"]
        ax.axvline(data.settings["top_k"] - 0.5, color=colour, linestyle=line, linewidth=1.4)
    ax.set_xlim(-0.7, K - 0.4 + K * _NOTE_INCHES / max(inches - _NOTE_INCHES, 1.0))
    ax.spines[["top", "right"]].set_visible(False)
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
    for k, p in enumerate(data.prob[row]):
        top = base + scale * max(p, data.final[row][k])
        text = f"{p:.2f}".removeprefix("0") if p >= 0.005 else "0" if p == 0 else "<.01"
        if len(text) * _DIGIT_INCHES > room:
            continue  # it would lie on its neighbour's
        ax.annotate(
            text, (k, top), (0, 2), textcoords="offset points", ha="center", va="bottom",
            fontsize=7, zorder=5,
            bbox={"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.3, "alpha": 0.75},
        )  # fmt: skip
    ax.axhline(base, color="0.6", linewidth=0.6, zorder=1)
    _draw_cuts(ax, data, row, base=base, scale=scale)
    notes = [f"keeps {data.kept[row]:,}"]
    for cut in data.settings:
        notes.append(f"{cut} cuts {data.removed[cut][row]:,} ({data.removed_mass[cut][row]:.2%})")
    shown = "\n".join(notes[:lines])
    ax.text(len(at) - 0.3, base + _ROW / 2, shown, fontsize=7.5, va="center", linespacing=1.25)


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
    columns = 2 if ax.get_window_extent().width / ax.figure.dpi > _LEGEND_INCHES else 1
    ax.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, frameon=False, fontsize=8.5,
        borderaxespad=0.2, handlelength=3.2, handler_map={tuple: HandlerTuple(ndivide=None, pad=0.4)},
    )  # fmt: skip
