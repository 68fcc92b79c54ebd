"""Plots of one step's next-token distribution: truncation, temperatures, penalties, and one token after each stage.

Each function draws the data that a method of `NextToken` returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmlab.display import palette
from llmlab.distributions.stages import PenaltyShifts, TemperatureDistributions, TokenStages, TruncationCurve
from llmlab.distributions.trace import parameter_of
from llmlab.plots.labels import TOKEN_SIZE, length, longest, name_slanted, name_ticks, points
from llmlab.plots.style import NEXT_TOKEN, grid, inches, ink, legend_above, new_axes, open_frame, style, title
from llmlab.text.numbers import count, probability

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

#: Colour, hatch and line style of each stage that truncates.
CUT_STYLES = {
    "top_k": (palette.ORANGE, "///", "-"),
    "top_p": (palette.PURPLE, "\\\\\\", "--"),
    "min_p": (palette.GREEN, "...", ":"),
}
#: The same of a stage that has no style of its own.
_OTHER_CUT = (palette.VERMILION, "xxx", "-.")
_ROW = 0.78  # how much of the space between two rows the tallest bar takes
_NOTE_INCHES = 1.45
_DIGIT = 0.64  # the width of a digit, in heights
_LINE = 1.35  # the distance between two lines of notes, in heights
_LEGEND_INCHES = 4.8  # the legend's two columns
#: A truncation curve ends at the rank after which less than this probability is left.
_TAIL = 1e-4
#: What stages are called beside a token, where that is not their own name.
_NAMES = {"logit_bias": "bias"}


@style()
def plot_truncation(data: TruncationCurve, *, ax: Axes | None = None) -> Axes:
    """Draw the probabilities before top_k, top_p and min_p by rank, on logarithmic axes.

    What each of these removes is hatched in its own style, and the legend says how many tokens and how much probability
    that is. A horizontal line shows the probability below which min_p removes.

    Args:
        data: what `NextToken.truncation` returns.
        ax: the axes to draw on; by default those of a new figure.
    """
    ax = new_axes(ax, width=6.4, height=4.0)
    n = len(data.prob)
    mass = np.cumsum(data.prob)
    far = int(np.searchsorted(mass, 1 - _TAIL)) + 1
    edges = [cut.kept for cut in data.cuts if cut.kept < n]
    shown = min(n, max(far, *(2 * edge for edge in edges), 10))
    rank = np.arange(1, shown + 1)
    floor = min(max(float(data.prob[shown - 1]) / 2, 1e-12), float(data.prob[0]) / 1000)
    # One step per token; steps meet half-way between two ranks.
    borders = np.append(rank - 0.5, shown + 0.5)
    kept = min(data.kept, shown)
    ax.stairs(
        data.prob[:kept], borders[: kept + 1], baseline=floor, fill=True, color=palette.BLUE, alpha=0.8,
        label=f"kept: {count(data.kept, 'token')}, {mass[min(data.kept, n) - 1]:.2%} of the mass",
    )  # fmt: skip
    for cut in data.cuts:
        colour, hatch, line = CUT_STYLES.get(cut.name, _OTHER_CUT)
        low, high = min(cut.kept, shown), min(cut.kept + cut.removed, shown)
        label = f"removed by {cut.name} = {cut.value:g}: {count(cut.removed, 'token')}, {cut.mass:.2%}"
        ax.stairs(
            data.prob[low:high], borders[low : high + 1], baseline=floor, fill=True, facecolor=ax.get_facecolor(),
            edgecolor=colour, hatch=hatch, linewidth=0, label=label,
        )  # fmt: skip
        if cut.removed:
            ax.axvline(cut.kept + 0.5, color=colour, linestyle=line, linewidth=1.6)
    ax.stairs(data.prob[:shown], borders, baseline=None, color=ink(), linewidth=1.0)
    if np.isfinite(data.min_p_level):
        colour, _, line = CUT_STYLES["min_p"]
        ax.axhline(data.min_p_level, color=colour, linestyle=line, linewidth=1.6)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlim(0.5, max(shown, 10) + 0.5)
    ax.set_ylim(floor, min(1.0, 2 * float(data.prob[0])) * 1.05)
    ax.set_xlabel("rank of the token, before truncation")
    ax.set_ylabel("probability before truncation")
    open_frame(ax)
    legend_above(ax)
    return ax


@style()
def plot_stages(data: TokenStages, *, ax: Axes | None = None) -> Axes:
    """Draw how each stage of the sampler moved the probability of one token, as a waterfall chart.

    Stages that the settings do not ask for are left out. Rises are blue, falls orange and hatched; the stage that
    removed the token says so. Below each stage stand its setting and the token's logit after it.

    Args:
        data: what `llmlab.distributions.stages.token_stages` returns; `NextToken.plot_stages` draws it.
        ax: the axes to draw on; by default those of a new figure.
    """
    S = len(data.stages)
    logits = ["out" if not np.isfinite(x) else f"logit {x:.2f}" for x in data.logit]
    lines = list(zip(data.stages, data.settings, logits, strict=True))
    # The labels of two stages must not overlap, whatever the user's font.
    stage = max(1.05, longest(line for each in lines for line in each) + 0.1)
    ax = new_axes(ax, width=min(max(stage * S + 1.6, 4.5), 12.0), height=3.8)
    at = np.arange(S)
    before = np.concatenate([[0.0], data.prob[:-1]])
    change = data.prob - before
    rise = change >= 0
    colours = [palette.GREY, *(palette.BLUE if up else palette.ORANGE for up in rise[1:])]
    bars = ax.bar(at, np.abs(change), 0.62, bottom=np.minimum(before, data.prob), color=colours, zorder=2)
    for bar, up in zip(bars, rise, strict=True):
        if not up:
            bar.set(hatch="////", edgecolor="white", linewidth=0)
    for s in range(S - 1):
        ax.plot([s - 0.31, s + 1.31], [data.prob[s]] * 2, color=palette.GREY, linewidth=0.8, zorder=3)
    top = max(float(data.prob.max()), 1e-9)
    for s in range(S):
        gone = not np.isfinite(data.logit[s])
        here = gone and (s == 0 or np.isfinite(data.logit[s - 1]))
        text = "removed" if here else "" if gone else probability(data.prob[s])
        high = max(before[s], data.prob[s])
        ax.annotate(
            text, (s, high), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize="small",
            color=palette.VERMILION if here else ink(), fontweight="bold" if here else "normal",
        )  # fmt: skip
    name_ticks(ax.xaxis, at, ["\n".join(each) for each in lines], fontsize=TOKEN_SIZE)
    ax.set_ylim(0, 1.15 * top)
    ax.set_xlim(-0.6, S - 0.4)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_ylabel("probability after the stage")
    end = (
        f"removed by {parameter_of(data.removed_by)}"
        if data.removed_by
        else f"can be drawn, p = {probability(data.prob[-1])}"
    )
    # A long token has a line of its own.
    wide = length(f"{data.label}: {end}", size="medium") > 0.85 * inches(ax)
    gap = "\n" if wide else " "
    title(ax, f"{data.label}:{gap}{end}")
    open_frame(ax)
    return ax


@style()
def plot_penalties(data: PenaltyShifts, *, ax: Axes | None = None) -> Axes:
    """Draw each token's probability before (ring) and after (dot) bias and penalties, and what each adds to its logit.

    Args:
        data: what `NextToken.penalties` returns.
        ax: the axes to draw on; by default those of a new figure.
    """
    from matplotlib.lines import Line2D

    K = len(data.labels)
    ax = new_axes(ax, width=7.0, height=0.3 * K + 1.5)
    at = np.arange(K)
    touched = np.any([shift != 0 for shift in data.shifts.values()], axis=0)
    colours = np.where(touched, np.where(data.after < data.before, palette.ORANGE, palette.BLUE), palette.GREY)
    for row in at:
        ax.plot([data.before[row], data.after[row]], [row, row], color=colours[row], linewidth=2, zorder=1)
    ax.scatter(
        data.before, at, s=38, facecolor=ax.get_facecolor(), edgecolor=colours, linewidth=1.5, zorder=2, label="before"
    )
    ax.scatter(data.after, at, s=38, color=colours, zorder=3, label="after")
    for row in at[touched]:
        moves = [
            f"{_NAMES.get(name, name)} {shift[row]:+.2f}" for name, shift in data.shifts.items() if shift[row] != 0
        ]
        ax.annotate(
            ", ".join(moves), (1.0, row), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", fontsize="small",
        )  # fmt: skip
    name_ticks(ax.yaxis, at, data.labels)
    ax.set_ylim(K - 0.4, -0.6)
    ax.set_xscale("log")
    ax.set_xlabel("probability at temperature 1, before truncation")
    grid(ax, "x")
    open_frame(ax)
    ring = Line2D(
        [], [], marker="o", linestyle="none", markerfacecolor=ax.get_facecolor(), markeredgecolor=palette.GREY
    )
    handles = [(ring, "before")]
    for colour, label in (
        (palette.ORANGE, "after: moved down"),
        (palette.BLUE, "after: moved up"),
        (palette.GREY, "after: only the others moved"),
    ):
        if colour in colours:
            handles.append((Line2D([], [], marker="o", color=colour, linewidth=2), label))
    shown, labels = zip(*handles, strict=True)
    legend_above(ax, shown, labels, columns=2)
    return ax


@style()
def plot_temperatures(data: TemperatureDistributions, *, ax: Axes | None = None) -> Axes:
    """Draw one row of bars per temperature: the distribution before top_k, top_p and min_p.

    A bar is hatched in the style of the stage that removed its token. Outlines show the distribution that is sampled
    from, renormalised over the tokens that are kept. A vertical line shows where top_k and top_p cut, a horizontal one
    the probability below which min_p removes. The bars of all rows share one scale; the numbers on them are the
    probabilities before truncation.

    Args:
        data: what `NextToken.temperatures` returns.
        ax: the axes to draw on; by default those of a new figure.
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
    # How much fits is known once everything around the axes has been laid out.
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
    ax: Axes, data: TemperatureDistributions, row: int, *, at: np.ndarray, scale: float, room: float, lines: int
) -> None:
    base = -float(row)
    bars = ax.bar(at, data.prob[row] * scale, 0.74, bottom=base, color=palette.BLUE, zorder=2)
    for bar, cut in zip(bars, data.removed_by[row], strict=True):
        if cut:
            colour, hatch, _ = CUT_STYLES.get(cut, _OTHER_CUT)
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
            continue  # it would overlap with its neighbour's
        ax.annotate(
            text, (k, top), (0, 2), textcoords="offset points", ha="center", va="bottom",
            fontsize="x-small", zorder=5,
            bbox={"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.3, "alpha": 0.75},
        )  # fmt: skip
    ax.axhline(base, color="0.6", linewidth=0.6, zorder=1)
    _draw_cuts(ax, data, row, base=base, scale=scale)
    notes = [f"keeps {data.kept[row]:,}"]
    for cut in data.settings:
        notes.append(f"{cut} removes {data.removed[cut][row]:,} ({data.removed_mass[cut][row]:.2%})")
    shown = "\n".join(notes[:lines])
    ax.text(len(at) - 0.3, base + _ROW / 2, shown, fontsize="x-small", va="center", linespacing=1.25)


def _draw_cuts(ax: Axes, data: TemperatureDistributions, row: int, *, base: float, scale: float) -> None:
    K = len(data.labels)
    if "top_p" in data.settings:
        # top_p keeps the most likely of the tokens that top_k left: the line stands after the last one it keeps.
        gone = [k for k, cut in enumerate(data.removed_by[row]) if cut == "top_p"]
        if gone and gone[0] < K:
            colour, _, line = CUT_STYLES["top_p"]
            ax.plot([gone[0] - 0.5] * 2, [base, base + _ROW], color=colour, linestyle=line, linewidth=1.8, zorder=4)
    if np.isfinite(data.min_p_level[row]):
        colour, _, line = CUT_STYLES["min_p"]
        level = base + scale * data.min_p_level[row]
        ax.plot([-0.5, K - 0.5], [level] * 2, color=colour, linestyle=line, linewidth=1.6, zorder=4)


def _legend(ax: Axes, data: TemperatureDistributions) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist | tuple[Artist, ...]] = [
        Patch(color=palette.BLUE),
        Patch(facecolor="none", edgecolor=ink()),
    ]
    labels = ["kept: probability before truncation", "after truncation, renormalised"]
    for cut in data.settings:
        colour, hatch, line = CUT_STYLES.get(cut, _OTHER_CUT)
        bar = Patch(facecolor=ax.get_facecolor(), edgecolor=colour, hatch=hatch)
        handles.append((bar, Line2D([], [], color=colour, ls=line, linewidth=1.6)))
        labels.append(f"removed by {cut} = {data.settings[cut]:g}")
    legend_above(
        ax, handles, labels, columns=2 if inches(ax) > _LEGEND_INCHES else 1, handlelength=3.2,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.4)},
    )  # fmt: skip
