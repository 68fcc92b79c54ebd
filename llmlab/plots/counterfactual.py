"""Pictures of counterfactuals: divergences, orders, trees, and how sure the model was along a completion.

Each takes a frame (or a `Tree`) that can be looked at by itself, draws on the axes given, and sets no global style.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.display import palette
from llmlab.plots.style import (
    _LINES,
    _finish,
    _p,
    _token_axis,
    _written,
    fineness,
    ink,
    new_axes,
    token_labels,
    turn,
    value_name,
    value_names,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.counterfactuals.tree import Tree


def plot_divergences(frame: pd.DataFrame, *, parameter: str, own: float | None = None, ax: Axes | None = None) -> Axes:
    """The first position that differs against a parameter: a point a choice, and a line through the medians.

    Values that are names stand side by side, with a dash for the median.

    A choice that stays the same throughout is a triangle at its whole length: it did not differ that far. The median
    counts it so.

    Args:
        frame: of `Divergences.frame()`.
        parameter: the column that moved.
        own: the value of the result that the others are compared with; marked.
        ax: where; by default a new figure.
    """
    from matplotlib.ticker import MaxNLocator

    ax = new_axes(ax, width=6.4, height=3.8)
    asked: list[Any] = [
        None if unknown else value for value, unknown in zip(frame[parameter], frame[parameter].isna(), strict=True)
    ]
    # One seed is no larger than another.
    ordered = frame[parameter].dtype in ("Float64", "Int64") and None not in asked and parameter != "seed"
    values = list(dict.fromkeys(asked))
    # Without top_k every token is kept: that is its largest value, and no number.
    has_off = ordered and parameter == "top_k" and 0 in values
    values = sorted(values, key=lambda value: value or math.inf) if has_off else values
    numeric = ordered and not has_off
    place = {value: float(value) if numeric else at for at, value in enumerate(values)}
    x = np.array([place[value] for value in asked])
    position, same = frame["position"].to_numpy(float, na_value=np.nan), frame["same"].to_numpy(bool)
    y = np.where(same, frame["tokens"].to_numpy(float), position)
    if own is not None and (own in place or (numeric and not (parameter == "top_k" and own == 0))):
        at = own if numeric else place[own]
        said = value_name(parameter, own)
        ax.axvline(at, color=palette.GREY, linestyle=":", linewidth=1.4, label=f"as it was: {said}")
    ax.plot(x[~same], y[~same], "o", color=palette.BLUE, alpha=0.55, markersize=5, label="first difference")
    if same.any():
        ax.plot(x[same], y[same], "^", color=palette.GREEN, markersize=7, label="no difference (its length)")
    order = sorted(place.values())
    medians = [float(np.median(y[x == at])) for at in order] if len(x) else []
    if frame["choice"].nunique() > 1:
        # Names have nothing between them that a line could show.
        look = {"linestyle": "-"} if ordered else {"linestyle": "none", "marker": "_", "markersize": 26}
        ax.plot(order, medians, color=palette.VERMILION, linewidth=1.8, label="median over choices", **look)
    ax.set_xlabel(parameter)
    ax.set_ylabel("position (tokens)")
    ax.set_ylim(bottom=-0.02 * max(y.max(initial=1), 1), top=1.06 * max(y.max(initial=1), 1))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if not numeric:
        names = value_names(parameter, values)
        ax.set_xticks(range(len(values)), names, parse_math=False)
        turn(ax.xaxis, names)
        ax.set_xlim(-0.6, len(values) - 0.4)
    _finish(ax, columns=2)
    return ax


def plot_orders(frame: pd.DataFrame, *, choice: int = 0, base: str = "llmlab", ax: Axes | None = None) -> Axes:
    """How far each order's law lies from the base's at each step; a ring where the same noise draws another token.

    Args:
        frame: of `Orders.frame()`.
        choice: whose.
        base: the order that the others are compared with.
        ax: where; by default a new figure.
    """
    own = frame[frame["choice"] == choice]
    tokens = own[own["order"] == base]
    T, written = len(tokens), _written(tokens)
    ax = new_axes(ax, width=min(max(5.6, 0.17 * T + 1.5), 10.0), height=3.9, below=written)
    fine = fineness(T)
    drawn = tokens["drawn_id"].to_numpy(float, na_value=-1)
    ringed = False
    for (order, rows), (colour, marker, dashes) in zip(
        ((name, rows) for name, rows in own.groupby("order", sort=False) if name != base), _LINES, strict=False
    ):
        y = rows["total_variation"].to_numpy(float, na_value=np.nan)
        ax.plot(
            np.arange(T),
            y,
            marker=marker,
            linestyle=dashes,
            color=colour,
            markersize=4 * fine,
            linewidth=1.2 * fine,
            label=str(order),
        )
        other = np.nonzero(rows["drawn_id"].to_numpy(float, na_value=-1) != drawn)[0]
        if len(other):
            ax.plot(
                other, y[other], "o", markersize=10 * fine, markerfacecolor="none", markeredgecolor=ink(),
                markeredgewidth=1.2, label=None if ringed else "draws another token",
            )  # fmt: skip
            ringed = True
    ax.set_ylabel(f"total variation from {base} (0..1)")
    top = own["total_variation"].to_numpy(float, na_value=0).max(initial=0.0)
    ax.set_ylim(-0.03 * max(top, 0.05), 1.1 * max(top, 0.05))
    _token_axis(ax, written, tokens=T)
    _finish(ax, columns=4, fine=fine)
    return ax


def plot_tree(tree: Tree, *, leaves: int = 30, ax: Axes | None = None) -> Axes:
    """A tree of continuations, left to right. A token's two numbers are its probability, raw and in the law drawn from.

    A way's line is the wider the more likely all of it is by the raw law; it is dashed where the law drawn from has no
    such token, and vermilion where the result itself went. Ways beyond the `leaves` most likely ones are counted, not
    drawn.
    """
    shown, hidden = tree.most_likely(leaves)
    height = dict(zip(_ends(tree, shown), range(len(shown)), strict=False))
    depth = max((tree.nodes[at].depth for at in shown), default=1)
    ax = new_axes(ax, width=min(2.1 * depth + 1.6, 14.0), height=max(2.2, 0.32 * len(height) + 1.0))
    y: dict[int, float] = dict(height)
    for at in sorted(shown, key=lambda at: -tree.nodes[at].depth):
        behind = [y[child] for child in tree.children(at) if child in shown]
        y[at] = y[at] if not behind else (min(behind) + max(behind)) / 2
    root = [y[at] for at in tree.children(-1) if at in shown]
    y[-1] = (min(root) + max(root)) / 2 if root else 0.0
    names = token_labels(
        [tree.bytes_of(node.token_id) for node in tree.nodes],
        [node.token_id for node in tree.nodes],
        {node.token_id: tree.name(node.token_id) for node in tree.nodes},
        # Up to the next token's name.
        room=ax.get_window_extent().width / ax.figure.dpi / (depth + 0.8) - 0.05,
        size=9,
    )
    for at in shown:
        node = tree.nodes[at]
        # Under the token's name and on to where the ways behind it part.
        parts = any(child in shown for child in tree.children(at))
        x0, x1, x2 = (
            node.depth - (1 if node.parent < 0 else 0.3),
            float(node.depth),
            node.depth + (0.7 if parts else 0),
        )
        ax.plot(
            [x0, x1 - 0.1, max(x2, x1 - 0.02)], [y[node.parent], y[at], y[at]],
            color=palette.VERMILION if node.taken else palette.BLUE,
            linestyle="--" if math.isinf(node.path_sampling_logprob) else "-",
            linewidth=0.8 + 4.0 * math.exp(node.path_logprob), solid_capstyle="butt", zorder=1,
        )  # fmt: skip
        ax.annotate(
            names[at], (x1, y[at]), (0, 1.5), textcoords="offset points", va="bottom", fontsize=9, parse_math=False,
            fontweight="bold" if node.taken else "normal", annotation_clip=False,
        )  # fmt: skip
        ax.annotate(
            f"{_p(node.logprob)} | {_p(node.sampling_logprob)}", (x1, y[at]), (0, -2), textcoords="offset points",
            va="top", fontsize=7, alpha=0.75, annotation_clip=False,
        )  # fmt: skip
    ax.set_xlim(-0.05, depth + 0.75)
    ax.set_ylim(max(len(height) - 0.4, 0.6), -0.8)
    ax.set_yticks([])
    ax.set_xticks(range(1, depth + 1), [str(tree.position + deep) for deep in range(depth)])
    more = f"; {hidden} less likely tokens are left out" if hidden else ""
    ax.set_xlabel(f"position (tokens){more}")
    ax.set_title("probability: raw | drawn with", fontsize=9, loc="left", alpha=0.75)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def _ends(tree: Tree, shown: set[int], node: int = -1) -> list[int]:
    """The ends of the ways that are shown, from top to bottom."""
    found: list[int] = []
    for child in tree.children(node):
        if child in shown:
            found += _ends(tree, shown, child) or [child]
    return found
