"""Plots of two models compared over the same tokens: where, and how much, their distributions differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.display import palette
from llmlab.errors import RequestError
from llmlab.plots.given import check_frame, one_text
from llmlab.plots.labels import axis_labels, longest, room_below, token_axis
from llmlab.plots.room import drawn
from llmlab.plots.style import grid, legend_above, new_axes, numbers, say, thickness, title
from llmlab.protocol.arguments import listed, whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FRAME = "Comparison.frame()"
#: Smaller divergences are rounding of float32 logits; on a logarithmic axis they would take most of it.
_LEAST = 1e-12
#: The least entropy that is told apart, for the same reason.
_LEAST_ENTROPY = 1e-4


@drawn
def plot_comparison(frame: pd.DataFrame, *, names: Sequence[str] = ("", "the other"), ax: Axes | None = None) -> Axes:
    """Plot KL(p || q) of each token against the entropy of p; what the two most likely tokens are gives the mark.

    Args:
        frame: `Comparison.frame()`.
        names: of the two models.
        ax: where to draw; by default a new figure.
    """
    frame = check_frame(frame, ["entropy", "kl", "same_top"], source=_FRAME)
    names = _two(names)
    ax = new_axes(ax, width=6.4, height=4.2)
    if not len(frame):
        say(ax, "no tokens")
        return ax
    same = frame["same_top"].to_numpy(bool)
    x, y = np.maximum(numbers(frame["entropy"]), _LEAST_ENTROPY), np.maximum(numbers(frame["kl"]), _LEAST)
    for own, colour, marker, name in (
        (same, palette.BLUE, "o", "same most likely token"),
        (~same, palette.VERMILION, "X", "another most likely token"),
    ):
        if own.any():
            ax.plot(
                x[own], y[own], marker, color=colour, markersize=4.5 * thickness(), alpha=0.75, markeredgewidth=0,
                label=f"{name} ({own.sum():,})", zorder=3,
            )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(f"entropy{_of(names[0])} (nats, log scale)")
    ax.set_ylabel("KL divergence (nats, log scale)")
    title(ax, _heading(names))
    grid(ax, "both")
    legend_above(ax, *ax.get_legend_handles_labels(), columns=2)
    return ax


@drawn
def plot_comparison_tokens(
    frame: pd.DataFrame,
    *,
    names: Sequence[str] = ("", "the other"),
    text: int = 0,
    choice: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Plot KL(p || q) along the tokens of one text; the places where the seed draws another token are marked.

    Args:
        frame: `Comparison.frame()`.
        names: of the two models.
        text: the index of the text.
        choice: the index of the choice.
        ax: where to draw; by default a new figure.

    Raises:
        RequestError: there is no such text or choice.
    """
    columns = ["text", "choice", "kl", "same_draw", "token", "token_id", "bytes"]
    frame = check_frame(frame, columns, source=_FRAME)
    names, text, choice = _two(names), whole("text", text, least=0), whole("choice", choice, least=0)
    own = frame[(frame["text"] == text) & (frame["choice"] == choice)].reset_index(drop=True)
    if not len(own):
        there = sorted(set(zip(frame["text"].tolist(), frame["choice"].tolist(), strict=True)))
        raise RequestError(f"there is no choice {choice} of text {text}, only {there[:6]}", param="text")
    T = len(own)
    ax = new_axes(ax, width=min(max(5.6, 0.17 * T + 1.8), 10.0), height=4.0, below=longest(axis_labels(own)))
    at, kl = np.arange(T), numbers(own["kl"])
    ax.bar(at, kl, 0.8, color=palette.BLUE, label="KL divergence", zorder=2)
    other = np.array([one is False for one in own["same_draw"].tolist()])
    if other.any():
        ax.plot(
            at[other], kl[other], "X", color=palette.VERMILION, markersize=6 * thickness(), clip_on=False,
            label="the seed draws another token", zorder=3,
        )  # fmt: skip
    ax.set_ylabel("KL divergence (nats)")
    ax.set_ylim(bottom=0)
    title(ax, _heading(names))
    token_axis(ax, axis_labels(own, room=room_below(ax)), tokens=T)
    grid(ax)
    legend_above(ax, *ax.get_legend_handles_labels(), columns=2)
    return ax


def _two(names: Any) -> tuple[str, str]:
    found = listed("names", names, of="two names")
    if len(found) != 2:
        raise RequestError(f"names must be a list of two names, got {len(found)}", param="names")
    return one_text("names", found[0]), one_text("names", found[1])


def _heading(names: Sequence[str]) -> str:
    return f"{names[0]} and {names[1]}" if names[0] else ""


def _of(name: str) -> str:
    return f" of {name}" if name else ""
