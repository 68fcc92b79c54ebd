"""Plots of one step's next-token distribution: truncation, temperatures, penalties, and one token after each stage.

Each function draws the data that a method of `NextToken` returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.display import palette
from llmlab.distributions.stages import PenaltyShifts, TemperatureDistributions, TokenStages, TruncationCurve
from llmlab.distributions.trace import parameter_of
from llmlab.plots.given import check_data
from llmlab.plots.labels import length, name_slanted, name_ticks, points, room_below, room_beside, shortened, tick_size
from llmlab.plots.room import drawn
from llmlab.plots.style import (
    NEXT_TOKEN,
    grid,
    inches,
    ink,
    lay_out,
    legend_above,
    new_axes,
    open_frame,
    thickness,
    title,
    write,
)
from llmlab.text.numbers import count, probability, share

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
_MOVES = 0.6  # inches that what moved a token may take in any case
_DIGIT = 0.64  # the width of a digit, in heights
_LINE = 1.35  # the distance between two lines of notes, in heights
#: A truncation curve ends at the rank after which less than this probability is left.
_TAIL = 1e-4
#: What stages are called beside a token, where that is not their own name.
_NAMES = {"logit_bias": "bias"}


@drawn
def plot_truncation(data: TruncationCurve, *, ax: Axes | None = None) -> Axes:
    """Draw the probabilities before top_k, top_p and min_p by rank, on logarithmic axes.

    What each of these removes is hatched in its own style, and the legend says how many tokens and how much probability
    that is. A horizontal line shows the probability below which min_p removes.

    Args:
        data: what `NextToken.truncation` returns.
        ax: the axes to draw on; by default those of a new figure.
    """
    data = check_data(data, TruncationCurve, source="NextToken.truncation(...)")
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
        label=f"kept: {count(data.kept, 'token')}, {share(mass[min(data.kept, n) - 1])} of the mass",
    )  # fmt: skip
    for cut in data.cuts:
        colour, hatch, line = CUT_STYLES.get(cut.name, _OTHER_CUT)
        low, high = min(cut.kept, shown), min(cut.kept + cut.removed, shown)
        label = f"removed by {cut.name} = {cut.value:g}: {count(cut.removed, 'token')}, {share(cut.mass)}"
        ax.stairs(
            data.prob[low:high], borders[low : high + 1], baseline=floor, fill=True, facecolor=ax.get_facecolor(),
            edgecolor=colour, hatch=hatch, linewidth=0, label=label,
        )  # fmt: skip
        if cut.removed:
            ax.axvline(cut.kept + 0.5, color=colour, linestyle=line, linewidth=1.6 * thickness())
    ax.stairs(data.prob[:shown], borders, baseline=None, color=ink(), linewidth=1.0 * thickness())
    if np.isfinite(data.min_p_level):
        colour, _, line = CUT_STYLES["min_p"]
        ax.axhline(data.min_p_level, color=colour, linestyle=line, linewidth=1.6 * thickness())
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


@drawn
def plot_stages(data: TokenStages, *, ax: Axes | None = None) -> Axes:
    """Draw how each stage of the sampler moved the probability of one token, as a waterfall chart from top to bottom.

    Stages that the settings do not ask for are left out. Rises are blue, falls orange and hatched; the stage that
    removed the token says so. Beside each stage stand its setting, and the token's probability and logit after it.

    Args:
        data: what `llmlab.distributions.stages.token_stages` returns; `NextToken.plot_stages` draws it.
        ax: the axes to draw on; by default those of a new figure.
    """
    data = check_data(data, TokenStages, source="llmlab.distributions.stages.token_stages(...)")
    S = len(data.stages)
    ax = new_axes(ax, width=6.4, height=0.36 * S + 1.2)
    at = np.arange(S)
    before = np.concatenate([[0.0], data.prob[:-1]])
    change = data.prob - before
    rise = change >= 0
    colours = [palette.GREY, *(palette.BLUE if up else palette.ORANGE for up in rise[1:])]
    bars = ax.barh(at, np.abs(change), 0.62, left=np.minimum(before, data.prob), color=colours, zorder=2)
    for bar, up in zip(bars, rise, strict=True):
        if not up:
            bar.set(hatch="////", edgecolor="white", linewidth=0)
    for s in range(S - 1):
        ax.plot([data.prob[s]] * 2, [s - 0.31, s + 1.31], color=palette.GREY, linewidth=0.8 * thickness(), zorder=3)
    stages = [f"{stage} {setting}".rstrip() for stage, setting in zip(data.stages, data.settings, strict=True)]
    size, room = tick_size("y"), 1.5 * room_beside(ax)
    name_ticks(ax.yaxis, at, [shortened(stage, room=room, size=size) for stage in stages], fontsize=size)
    ax.set_ylim(S - 0.4, -0.6)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("probability after the stage")
    end = (
        f"removed by {parameter_of(data.removed_by)}"
        if data.removed_by
        else f"can be drawn, p = {probability(data.prob[-1])}"
    )
    title(ax, f"{data.label}: {end}")
    open_frame(ax)
    ends, texts = np.maximum(before, data.prob), []
    for s, logit in enumerate(data.logit):
        first = not np.isfinite(logit) and (s == 0 or np.isfinite(data.logit[s - 1]))
        gone = "removed" if first else ""
        texts.append(f"{probability(data.prob[s])} (logit {logit:.2f})" if np.isfinite(logit) else gone)
    lay_out(ax)
    top = max(float(data.prob.max()), 1e-9)
    wide = max(length(text, size="small") for text in texts) + 0.1
    ax.set_xlim(0, top * max(inches(ax) / max(inches(ax) - wide, 0.5), 1.0))
    for s, text in enumerate(texts):
        look = {"color": palette.VERMILION, "fontweight": "bold"} if text == "removed" else {}
        write(ax, text, (float(ends[s]), s), (3, 0), va="center", **look)
    return ax


@drawn
def plot_penalties(data: PenaltyShifts, *, ax: Axes | None = None) -> Axes:
    """Draw each token's probability before (ring) and after (dot) bias and penalties, and what each adds to its logit.

    Args:
        data: what `NextToken.penalties` returns.
        ax: the axes to draw on; by default those of a new figure.
    """
    from matplotlib.lines import Line2D

    data = check_data(data, PenaltyShifts, source="NextToken.penalties(...)")
    K = len(data.labels)
    ax = new_axes(ax, width=7.0, height=0.3 * K + 1.5)
    at = np.arange(K)
    touched = np.any([shift != 0 for shift in data.shifts.values()], axis=0)
    colours = np.where(touched, np.where(data.after < data.before, palette.ORANGE, palette.BLUE), palette.GREY)
    for row in at:
        ax.plot(
            [data.before[row], data.after[row]], [row, row], color=colours[row], linewidth=2 * thickness(), zorder=1
        )
    ax.scatter(
        data.before,
        at,
        s=38 * thickness() ** 2,
        facecolor=ax.get_facecolor(),
        edgecolor=colours,
        linewidth=1.5 * thickness(),
        zorder=2,
        label="before",
    )
    ax.scatter(data.after, at, s=38 * thickness() ** 2, color=colours, zorder=3, label="after")
    moved = {}
    for row in at[touched]:
        moves = [
            f"{_NAMES.get(name, name)} {shift[row]:+.2f}" for name, shift in data.shifts.items() if shift[row] != 0
        ]
        moved[row] = ", ".join(moves)
    size, room = tick_size("y"), room_beside(ax)
    name_ticks(ax.yaxis, at, [shortened(label, room=room, size=size) for label in data.labels], fontsize=size)
    ax.set_ylim(K - 0.4, -0.6)
    ax.set_xscale("log")
    for row, text in moved.items():
        # Where there is no room for each, they are added up.
        fits = length(text) < 0.8 * room or length(text) < _MOVES
        said = text if fits else f"{sum(float(shift[row]) for shift in data.shifts.values()):+.2f} in all"
        write(ax, said, (1.0, row), (4, 0), xycoords=("axes fraction", "data"), va="center")
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
            handles.append((Line2D([], [], marker="o", color=colour, linewidth=2 * thickness()), label))
    shown, labels = zip(*handles, strict=True)
    legend_above(ax, shown, labels, columns=2)
    return ax


@drawn
def plot_temperatures(data: TemperatureDistributions, *, ax: Axes | None = None) -> Axes:
    """Draw one row of bars per temperature: the distribution before top_k, top_p and min_p.

    The last bar is that of all tokens without one of their own.

    A bar is hatched in the style of the stage that removed its token. Outlines show the distribution that is sampled
    from, renormalised over the tokens that are kept. A vertical line shows where top_k and top_p cut, a horizontal one
    the probability below which min_p removes. The bars of all rows share one scale; the numbers on them are the
    probabilities before truncation.

    Args:
        data: what `NextToken.temperatures` returns.
        ax: the axes to draw on; by default those of a new figure.
    """
    data = check_data(data, TemperatureDistributions, source="NextToken.temperatures(...)")
    T, K = data.prob.shape
    ax = new_axes(ax, width=min(max(0.46 * K + 3.6, 5.6), 11.0), height=1.05 * T + 1.7)
    rest = _rest(data)
    bars = K + bool(rest.any())
    size, room = tick_size("x"), room_below(ax)
    names = [*data.labels, *["all others"] * (bars - K)]
    name_slanted(ax, [shortened(name, room=1.4 * room, size=size) for name in names])
    name_ticks(ax.yaxis, [-row for row in range(T)], [f"{t:.4g}" for t in data.temperatures])
    ax.set_ylabel("temperature")
    ax.set_xlabel(NEXT_TOKEN)
    ax.set_ylim(-T + 0.85, 1.0)
    open_frame(ax)
    _legend(ax, data)
    # How much fits is known once everything around the axes has been laid out.
    lay_out(ax)
    width, height = inches(ax), ax.get_window_extent().height / ax.figure.dpi
    notes = [_notes(data, row) for row in range(T)]
    wide = min(max(length(note, size="x-small") for each in notes for note in each) + 0.1, 0.5 * width)
    lines = max(int(height / (T + 0.15) / (_LINE * points("x-small") / 72)), 1)
    across = bars + 0.3 + (bars + 0.3) * wide / (width - wide)
    ax.set_xlim(-0.7, across - 0.7)
    scale = _ROW / max(data.prob.max(initial=0), data.final.max(initial=0), rest.max(initial=0), 1e-9)
    for row in range(T):
        _draw_row(ax, data, row, rest=rest[row], scale=scale, room=width / across)
        shown = "\n".join(notes[row][:lines])
        write(ax, shown, (bars - 0.3, -row + _ROW / 2), va="center", fontsize="x-small", linespacing=1.25)
    if "top_k" in data.settings and data.settings["top_k"] < K:
        colour, _, line = CUT_STYLES["top_k"]
        ax.axvline(data.settings["top_k"] - 0.5, color=colour, linestyle=line, linewidth=1.4 * thickness())
    return ax


def _rest(data: TemperatureDistributions) -> np.ndarray:
    """What the tokens that have bars leave to all others, before and after truncation: [T, 2]."""
    rest = 1 - np.stack([data.prob.sum(-1), data.final.sum(-1)], axis=-1)
    return np.where(rest < 1e-9, 0.0, rest)


def _notes(data: TemperatureDistributions, row: int) -> list[str]:
    """How many tokens truncation keeps and removes at one temperature."""
    return [f"keeps {data.kept[row]:,}"] + [
        f"{cut} removes {data.removed[cut][row]:,} ({share(data.removed_mass[cut][row])})" for cut in data.settings
    ]


def _draw_row(
    ax: Axes, data: TemperatureDistributions, row: int, *, rest: np.ndarray, scale: float, room: float
) -> None:
    """Draw the bars of one temperature, with that of all other tokens.

    Args:
        ax: the axes.
        data: the distributions.
        row: which of them.
        rest: what is left to the other tokens, before and after truncation.
        scale: the height of a probability of 1.
        room: the inches from one bar to the next.
    """
    base, K = -float(row), len(data.labels)
    wide, edge = 0.74, 0.8 * thickness()
    for k, (p, cut) in enumerate(zip(data.prob[row], data.removed_by[row], strict=True)):
        ax.bar(k, p * scale, wide, bottom=base, zorder=2, **_look(ax, cut, edge))
    ends = np.maximum(data.prob[row], data.final[row])
    kept = np.nonzero(data.final[row])[0].tolist()
    outlines = [(k, float(data.final[row][k])) for k in kept]
    texts = [(k, float(p), float(end)) for k, (p, end) in enumerate(zip(data.prob[row], ends, strict=True))]
    if rest.any():
        # The bar of all others is made up of what each stage removed of them, above what is kept.
        low = 0.0
        parts = {
            cut: float(mass[row]) - sum(
                float(p) for p, by in zip(data.prob[row], data.removed_by[row], strict=True) if by == cut
            )
            for cut, mass in data.removed_mass.items()
        }  # fmt: skip
        for cut, part in {"": float(rest[0]) - sum(parts.values()), **parts}.items():
            if part > 1e-12:
                ax.bar(K, part * scale, wide, bottom=base + low * scale, zorder=2, **_look(ax, cut, edge))
                low += part
        outlines += [(K, float(rest[1]))] * bool(rest[1] > 0)
        texts.append((K, float(rest[0]), float(rest.max())))
    for k, p in outlines:
        ax.bar(k, p * scale, wide, bottom=base, fill=False, edgecolor=ink(), linewidth=thickness(), zorder=3)
    digit = _DIGIT * points("x-small") / 72
    for k, p, end in texts:
        text = f"{p:.2f}".removeprefix("0") if p >= 0.005 else "0" if p == 0 else "<.01"
        if len(text) * digit <= room:  # otherwise it would overlap with its neighbour's
            write(ax, text, (k, base + scale * end), (0, 2), ha="center", va="bottom", fontsize="x-small")
    ax.plot([-0.5, K + 0.5], [base, base], color="0.6", linewidth=0.6 * thickness(), zorder=1)
    _draw_cuts(ax, data, row, base=base, scale=scale)


def _look(ax: Axes, cut: str, edge: float) -> dict[str, Any]:
    """How a bar is drawn whose token is kept (""), or was removed by a stage."""
    if not cut:
        return {"color": palette.BLUE}
    colour, hatch, _ = CUT_STYLES.get(cut, _OTHER_CUT)
    return {"facecolor": ax.get_facecolor(), "edgecolor": colour, "hatch": hatch, "linewidth": edge}


def _draw_cuts(ax: Axes, data: TemperatureDistributions, row: int, *, base: float, scale: float) -> None:
    K = len(data.labels)
    if "top_p" in data.settings:
        # top_p keeps the most likely of the tokens that top_k left: the line stands after the last one it keeps.
        gone = [k for k, cut in enumerate(data.removed_by[row]) if cut == "top_p"]
        if gone and gone[0] < K:
            colour, _, line = CUT_STYLES["top_p"]
            ax.plot(
                [gone[0] - 0.5] * 2,
                [base, base + _ROW],
                color=colour,
                linestyle=line,
                linewidth=1.8 * thickness(),
                zorder=4,
            )
    if np.isfinite(data.min_p_level[row]):
        colour, _, line = CUT_STYLES["min_p"]
        level = base + scale * data.min_p_level[row]
        ax.plot([-0.5, K - 0.5], [level] * 2, color=colour, linestyle=line, linewidth=1.6 * thickness(), zorder=4)


def _legend(ax: Axes, data: TemperatureDistributions) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist | tuple[Artist, ...]] = [
        Patch(color=palette.BLUE),
        Patch(facecolor="none", edgecolor=ink()),
    ]
    labels = ["kept, before truncation", "after truncation"]
    for cut in data.settings:
        colour, hatch, line = CUT_STYLES.get(cut, _OTHER_CUT)
        bar = Patch(facecolor=ax.get_facecolor(), edgecolor=colour, hatch=hatch)
        handles.append((bar, Line2D([], [], color=colour, ls=line, linewidth=1.6 * thickness())))
        labels.append(f"removed by {cut} = {data.settings[cut]:g}")
    legend_above(
        ax, handles, labels, columns=2, handlelength=3.2,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.4)},
    )  # fmt: skip
