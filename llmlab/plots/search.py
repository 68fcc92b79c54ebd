"""The plot of a search: the log-probability of each sequence that it found."""

from __future__ import annotations

from os.path import commonprefix
from typing import TYPE_CHECKING

import numpy as np

from llmlab.display import palette
from llmlab.plots.given import check_frame, check_single, one_text
from llmlab.plots.labels import name_ticks, room_beside, shortened, tick_size
from llmlab.plots.room import drawn
from llmlab.plots.style import grid, legend_above, line_style, new_axes, numbers, open_frame, thickness, title, write
from llmlab.protocol.arguments import whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: The most characters at the beginning of all texts that are written for each of them.
_SAME = 12


@drawn
def plot_search(
    frame: pd.DataFrame,
    *,
    threshold: float | None = None,
    heading: str = "",
    sequences: int = 24,
    ax: Axes | None = None,
) -> Axes:
    """Plot the log-probability of each sequence that a search found, the first one at the top.

    It is the one in the distribution that was searched. Beside the axes stand the scores of beam search, whose groups
    have colours, or the codes of arithmetic sampling; a sample without replacement has its perturbed log-probabilities
    and the threshold that they exceed.

    Args:
        frame: `SearchResult.frame()`.
        threshold: `SearchResult.threshold`.
        heading: the title.
        sequences: how many are drawn, from the top.
        ax: where to draw; by default on a new figure.
    """
    frame = check_frame(frame, ["rank", "text", "sampling_logprob"], source="SearchResult.frame()")
    check_single(frame, ["rank"], param="frame", way_out="give the rows of one SearchResult.frame()")
    heading, shown = one_text("heading", heading), frame.head(whole("sequences", sequences, least=1))
    K = len(shown)
    ax = new_axes(ax, width=7.6, height=max(2.0, 0.32 * K + 1.3))
    at, x = np.arange(K), numbers(shown["sampling_logprob"])
    groups = shown["group"].to_numpy(int) if "group" in shown else np.zeros(K, int)
    for group in dict.fromkeys(groups.tolist()):
        own = groups == group
        colour, marker, _ = line_style(group)
        name = f"group {group}" if len(set(groups.tolist())) > 1 else "log-probability"
        ax.plot(x[own], at[own], marker, color=colour, markersize=6 * thickness(), label=name, zorder=3)
    if "perturbed_logprob" in shown:
        noisy = numbers(shown["perturbed_logprob"])
        colour, marker, _ = line_style(1)
        ax.plot(noisy, at, marker, color=colour, markersize=5 * thickness(), label="with Gumbel noise", zorder=3)
        for row in at:
            ax.plot([x[row], noisy[row]], [row, row], color=palette.GREY, linewidth=1.0 * thickness(), zorder=1)
        if threshold is not None and np.isfinite(threshold):
            ax.axvline(threshold, color=palette.GREY, linestyle="--", linewidth=1.2 * thickness(), label="threshold")
    size, room = tick_size("y"), 1.5 * room_beside(ax)
    texts = _where_they_part([text.replace("\n", " ") for text in shown["text"].astype(str)])
    name_ticks(ax.yaxis, at, [shortened(text, room=room, size=size) for text in texts], fontsize=size)
    ax.set_ylim(K - 0.4, -0.6)
    for column in ("score", "code"):
        if column in shown:
            for row, value in zip(at, numbers(shown[column]), strict=True):
                said = f"{column} {value:.3f}"
                write(ax, said, (1.0, row), (4, 0), xycoords=("axes fraction", "data"), va="center")
    hidden = len(frame) - K
    ax.set_xlabel("log-probability of the sequence (nats)" + (f"; {hidden} more sequences" if hidden else ""))
    title(ax, heading)
    grid(ax, "x")
    open_frame(ax)
    legend_above(ax, columns=4)
    return ax


def _where_they_part(texts: list[str]) -> list[str]:
    """The texts without the words that all of them begin with, where those are many."""
    same = commonprefix(texts) if len(set(texts)) > 1 else ""
    words = same[: same.rfind(" ") + 1]
    return [f"…{text[len(words) :]}" for text in texts] if len(words) > _SAME else texts
