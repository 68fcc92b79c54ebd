"""Plots of counterfactuals: two runs compared, first differences along a parameter, orders of stages, trees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.display import palette
from llmlab.plots.given import check_frame, check_single, choice_rows, one_name
from llmlab.plots.labels import (
    axis_labels,
    fitted,
    frame_labels,
    longest,
    name_ticks,
    points,
    room_below,
    token_axis,
    token_labels,
    turn,
    value_name,
    value_names,
)
from llmlab.plots.room import drawn
from llmlab.plots.style import (
    LABELLED,
    POSITION,
    STYLES,
    fineness,
    grid,
    inches,
    ink,
    lay_out,
    legend_above,
    new_axes,
    numbers,
    say_nothing_known,
    slot,
    thickness,
    title,
    write,
)
from llmlab.protocol.arguments import whole
from llmlab.text.numbers import probability

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: The width of a text relative to the same text in bold.
_BOLD = 0.88
#: The distance between two rows of a tree, in heights of a name and its probabilities.
_APART = 1.3
#: The columns of a tree's frame that are drawn.
_TREE = (
    "node", "parent", "depth", "position", "token", "token_id", "bytes", "taken", "logprob", "sampling_logprob",
    "path_logprob", "path_sampling_logprob",
)  # fmt: skip


@drawn
def plot_diff(frame: pd.DataFrame, *, choice: int = 0, ax: Axes | None = None) -> Axes:
    """Plot the raw logprobs of two runs of a request along their aligned tokens.

    A vertical line marks the first difference. A label is the token of both runs, or the run before's, an arrow and the
    run after's; "–" stands for no token. Values that are not known are left out.

    Args:
        frame: `Diff.tokens_frame()`.
        choice: the index of the choice.
        ax: where to draw; by default a new figure.
    """
    columns = {"logprob": "before", "logprob_after": "after"}
    own = choice_rows(
        frame, choice, ["change", "token", "token_after", *columns], source="Diff.tokens_frame()",
        each=("position", "position_after"),
    )  # fmt: skip
    labels = _pair_labels(own)
    T = len(own)
    ax = new_axes(ax, width=min(max(5.6, 0.17 * T + 1.5), 10.0), height=3.9, below=longest(labels))
    fine, at, known = fineness(ax, T), np.arange(T), False
    for (colour, marker, line), (column, name) in zip(STYLES, columns.items(), strict=False):
        values = numbers(own[column])
        if np.isfinite(values).any():
            known = True
            ax.plot(
                at, np.where(np.isfinite(values), values, np.nan), marker=marker, linestyle=line, color=colour,
                markersize=4 * fine, linewidth=1.2 * fine, label=name,
            )  # fmt: skip
    differing = np.nonzero((own["change"] != "same").to_numpy(bool))[0]
    if len(differing):
        ax.axvline(
            differing[0], color=palette.GREY, linestyle=":", linewidth=1.4 * thickness(), label="first difference"
        )
    if not known:
        say_nothing_known(ax, "logprobs", tokens=T)
    ax.set_ylabel("raw logprob (nats)")
    token_axis(ax, _pair_labels(own, room=room_below(ax)), tokens=T)
    grid(ax)
    if known:
        legend_above(ax, columns=3, centred=True, marker_scale=thickness() / fine)
    return ax


def _pair_labels(frame: pd.DataFrame, *, room: float = math.inf) -> tuple[str, ...]:
    """Labels for the rows of a `Diff.tokens_frame()`; none where there are more rows than can be read."""
    if len(frame) > LABELLED:
        return ()

    def written(column: str, space: float) -> tuple[str, ...]:
        tokens = frame[column]
        raw = [
            "–".encode() if missing else str(text).encode() for text, missing in zip(tokens, tokens.isna(), strict=True)
        ]
        return token_labels(raw, [0] * len(raw), None, room=space)

    half = 0.45 * room
    each = zip(
        frame["change"], written("token", room), written("token", half), written("token_after", half), strict=True
    )
    return tuple(whole if change == "same" else f"{one} → {other}" for change, whole, one, other in each)


@drawn
def plot_sensitivity(frame: pd.DataFrame, *, parameter: str, own: float | None = None, ax: Axes | None = None) -> Axes:
    """Plot the first position that differs against a parameter: one point per choice, and the medians.

    Values that are names stand side by side, with a dash for the median. A choice without any difference is a triangle
    at its length, and counts as that in the median.

    Args:
        frame: `Sensitivity.frame()`.
        parameter: the column of the parameter that was changed.
        own: the value of the result that the others are compared with; a vertical line marks it.
        ax: where to draw; by default a new figure.
    """
    from matplotlib.ticker import MaxNLocator

    columns = ["choice", "position", "same", "tokens"]
    frame = check_frame(frame, columns, source="Sensitivity.frame()")
    parameter = one_name("parameter", parameter, [name for name in frame.columns if name not in columns])
    ax = new_axes(ax, width=6.4, height=3.8)
    asked: list[Any] = [
        None if unknown else value for value, unknown in zip(frame[parameter], frame[parameter].isna(), strict=True)
    ]
    # One seed is no larger than another.
    ordered = frame[parameter].dtype.kind in "if" and None not in asked and parameter != "seed"
    values = list(dict.fromkeys(asked))
    # top_k = 0 keeps every token: it comes after the largest number.
    has_off = ordered and parameter == "top_k" and 0 in values
    values = sorted(values, key=lambda value: value or math.inf) if has_off else values
    numeric = ordered and not has_off
    place = {value: float(value) if numeric else at for at, value in enumerate(values)}
    x = np.array([place[value] for value in asked])
    position, same = numbers(frame["position"]), frame["same"].to_numpy(bool)
    y = np.where(same, frame["tokens"].to_numpy(float), position)
    if own is not None and (own in place or (numeric and not (parameter == "top_k" and own == 0))):
        at = own if numeric else place[own]
        said = value_name(parameter, own)
        ax.axvline(at, color=palette.GREY, linestyle=":", linewidth=1.4 * thickness(), label=f"as it was: {said}")
    ax.plot(
        x[~same], y[~same], "o", color=palette.BLUE, alpha=0.55, markersize=5 * thickness(), label="first difference"
    )
    if same.any():
        ax.plot(
            x[same], y[same], "^", color=palette.GREEN, markersize=7 * thickness(), label="no difference (its length)"
        )
    order = sorted(place.values())
    medians = [float(np.median(y[x == at])) for at in order] if len(x) else []
    if frame["choice"].nunique() > 1:
        # There is nothing between two names that a line could show.
        look = {"linestyle": "-"} if ordered else {"linestyle": "none", "marker": "_", "markersize": 26 * thickness()}
        ax.plot(
            order, medians, color=palette.VERMILION, linewidth=1.8 * thickness(), label="median over choices", **look
        )
    ax.set_xlabel(parameter)
    ax.set_ylabel(POSITION)
    ax.set_ylim(bottom=-0.02 * max(y.max(initial=1), 1), top=1.06 * max(y.max(initial=1), 1))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if not numeric:
        names = fitted(value_names(parameter, values), room=1.6 * room_below(ax))
        name_ticks(ax.xaxis, range(len(values)), names)
        turn(ax.xaxis, names)
        ax.set_xlim(-0.6, len(values) - 0.4)
    grid(ax)
    legend_above(ax, columns=2, centred=True)
    return ax


@drawn
def plot_orders(frame: pd.DataFrame, *, choice: int = 0, base: str = "llmlab", ax: Axes | None = None) -> Axes:
    """Plot how far each order's distribution lies from the base's at each position of a choice.

    The distance is the total variation, from 0 to 1. A ring marks a position where the same noise draws another token.

    Args:
        frame: `Orders.frame()`.
        choice: the index of the choice.
        base: the order that the others are compared with.
        ax: where to draw; by default a new figure.
    """
    own = choice_rows(
        frame, choice, ["total_variation", "drawn_id"], source="Orders.frame()", each=("order", "position")
    )
    if len(own):
        base = one_name("base", base, list(dict.fromkeys(own["order"])))
    tokens = own[own["order"] == base]
    T, labels = len(tokens), axis_labels(tokens)
    ax = new_axes(ax, width=min(max(5.6, 0.17 * T + 1.5), 10.0), height=3.9, below=longest(labels))
    fine = fineness(ax, T)
    drawn = tokens["drawn_id"].to_numpy(float, na_value=-1)
    ringed = False
    for (order, rows), (colour, marker, line) in zip(
        ((name, rows) for name, rows in own.groupby("order", sort=False) if name != base), STYLES, strict=False
    ):
        y = numbers(rows["total_variation"])
        ax.plot(
            np.arange(T), y, marker=marker, linestyle=line, color=colour, markersize=4 * fine, linewidth=1.2 * fine,
            label=str(order),
        )  # fmt: skip
        other = np.nonzero(rows["drawn_id"].to_numpy(float, na_value=-1) != drawn)[0]
        if len(other):
            ax.plot(
                other, y[other], "o", markersize=10 * fine, markerfacecolor="none", markeredgecolor=ink(),
                markeredgewidth=1.2 * thickness(), label=None if ringed else "draws another token",
            )  # fmt: skip
            ringed = True
    ax.set_ylabel(f"total variation from {base} (0..1)")
    top = own["total_variation"].to_numpy(float, na_value=0).max(initial=0.0)
    ax.set_ylim(-0.03 * max(top, 0.05), 1.1 * max(top, 0.05))
    token_axis(ax, axis_labels(tokens, room=room_below(ax)), tokens=T)
    grid(ax)
    legend_above(ax, columns=4, centred=True, marker_scale=thickness() / fine)
    return ax


@drawn
def plot_tree(frame: pd.DataFrame, *, leaves: int = 30, ax: Axes | None = None) -> Axes:
    """Plot a tree of continuations from left to right; below each token its raw and sampling probability.

    A path's line is the wider the more probable the whole path is in the raw distribution. It is dashed where the
    sampler cannot draw the path, and vermilion where the result itself went.

    Args:
        frame: `Tree.frame()`: one row per node, parents before their children.
        leaves: the number of leaves to draw, the most probable paths first; the others are counted below the axis.
        ax: where to draw; by default a new figure.
    """
    frame = check_frame(frame, _TREE, source="Tree.frame()")
    check_single(frame, ["node"], param="frame", way_out="give the rows of one Tree.frame()")
    nodes = _Nodes(frame)
    shown = nodes.most_likely(whole("leaves", leaves, least=1))
    depth = max((nodes.depth[at] for at in shown), default=1)
    ends = [at for at in nodes.in_order(shown) if not nodes.children(at, shown)]
    ax = new_axes(ax, width=min(2.1 * depth + 1.6, 14.0), height=max(2.2, 0.32 * len(ends) + 1.0))
    if not shown:
        say_nothing_known(ax, "tree", tokens=0)
        return ax
    line = _APART * (points("small") + points("x-small"))
    fit = int((72 * slot(ax).height / ax.figure.dpi - 6 * points("medium")) / line)
    if len(ends) > fit:  # given axes, or a figure of the user's size
        shown = nodes.most_likely(max(fit, 2))
        ends = [at for at in nodes.in_order(shown) if not nodes.children(at, shown)]
    y: dict[int, float] = {at: float(row) for row, at in enumerate(ends)}
    for at in sorted([*shown, -1], key=lambda at: -nodes.depth.get(at, 0)):
        below = [y[child] for child in nodes.children(at, shown)]
        y[at] = (min(below) + max(below)) / 2 if below else y[at]
    title(ax, "probability: raw | sampling", alpha=0.75)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_yticks([])
    ax.set_xlim(-0.05, depth + 0.75)
    ax.set_ylim(max(len(ends) - 0.4, 0.6), -0.8)
    lay_out(ax)
    # Each name has room up to the next token's, and each line half of the room up to the next row's text.
    names = frame_labels(frame, room=_BOLD * (inches(ax) / (depth + 0.8) - 0.05))
    pitch = 72 * ax.get_window_extent().height / ax.figure.dpi / (len(ends) + 0.4)
    widest = min(4.0, max(0.25 * (pitch - points("small") - points("x-small")), 1.0)) * thickness()
    logprob, sampling, path, sampling_path = (
        numbers(frame[name]) for name in ("logprob", "sampling_logprob", "path_logprob", "path_sampling_logprob")
    )
    taken, width = frame["taken"].to_numpy(bool), 0.8 * thickness() + widest * np.exp(path)
    for at in shown:
        parent, deep = nodes.parent[at], nodes.depth[at]
        # The line runs below the token's name, and on to where the paths after it part.
        left, right = deep - (1 if parent < 0 else 0.3), deep + (0.7 if nodes.children(at, shown) else -0.02)
        ax.plot(
            [left, deep - 0.1, right], [y[parent], y[at], y[at]],
            color=palette.VERMILION if taken[at] else palette.BLUE,
            linestyle="--" if math.isinf(sampling_path[at]) else "-",
            linewidth=width[at], solid_capstyle="butt", zorder=1,
        )  # fmt: skip
    # The names first: where there is no room for both, the probabilities give way.
    for at in shown:
        write(
            ax, names[at], (nodes.depth[at], y[at]), (0, 1 + width[at] / 2), va="bottom",
            fontweight="bold" if taken[at] else "normal",
        )  # fmt: skip
    for at in shown:
        both = " | ".join(probability(math.exp(value), digits=2) for value in (logprob[at], sampling[at]))
        write(ax, both, (nodes.depth[at], y[at]), (0, -1 - width[at] / 2), va="top", fontsize="x-small", alpha=0.75)
    first = int(frame["position"].min())
    name_ticks(ax.xaxis, range(1, depth + 1), [str(first + deep) for deep in range(depth)])
    hidden = len(frame) - len(shown)
    more = f"; {hidden} less likely tokens are left out" if hidden else ""
    ax.set_xlabel(f"{POSITION}{more}")
    return ax


class _Nodes:
    """The shape of a tree: which node follows which. -1 stands for the root, which has no row."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.parent: list[int] = frame["parent"].tolist()
        self.depth: dict[int, int] = dict(enumerate(frame["depth"].tolist()))
        self._path = numbers(frame["path_logprob"])
        self._children: dict[int, list[int]] = {}
        for at, parent in enumerate(self.parent):
            self._children.setdefault(parent, []).append(at)

    def children(self, node: int, shown: set[int]) -> list[int]:
        """The nodes after one that are shown, in the order of the rows."""
        return [at for at in self._children.get(node, ()) if at in shown]

    def most_likely(self, leaves: int) -> set[int]:
        """The nodes on the paths to the most probable leaves."""
        ends = sorted((at for at in self.depth if at not in self._children), key=lambda at: -self._path[at])
        shown: set[int] = set()
        for at in ends[: max(leaves, 1)]:
            while at >= 0:
                shown.add(at)
                at = self.parent[at]
        return shown

    def in_order(self, shown: set[int], node: int = -1) -> list[int]:
        """The nodes that are shown, each one before those after it, from top to bottom."""
        found: list[int] = []
        for child in self.children(node, shown):
            found += [child, *self.in_order(shown, child)]
        return found
