"""The plot of guessed tokens: how many tokens of each choice the passes of the model gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmlab.display import palette
from llmlab.plots.given import check_frame
from llmlab.plots.room import drawn
from llmlab.plots.style import grid, lay_out, legend_above, new_axes, thickness, title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: The most choices that have a line and a name of their own.
_NAMED = 6


@drawn
def plot_draft(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Plot the tokens of each choice against the passes of the model that gave them, beside one token a pass.

    A pass that begins with no right guess gives one token, and the line has the slope of plain decoding there.

    Args:
        frame: `Result.draft_frame()`, or some of its rows.
        ax: where to draw; by default a new figure.
    """
    from matplotlib.ticker import MaxNLocator

    frame = check_frame(frame, ["choice", "guesses", "guessed", "passes"], source="Result.draft_frame()")
    ax = new_axes(ax, width=5.6, height=3.6)
    choices = list(dict.fromkeys(frame["choice"]))
    most = int(frame["passes"].max()) if len(frame) else 1
    ax.plot([0, most], [0, most], ":", color=palette.GREY, linewidth=1.2 * thickness(), label="one token a pass")
    colours = (palette.BLUE, palette.ORANGE, palette.GREEN, palette.VERMILION, palette.PURPLE, palette.SKY)
    for at, choice in enumerate(choices):
        own = frame[frame["choice"] == choice]
        tokens = own.groupby("passes").size().cumsum()
        ax.plot(
            np.append(0, tokens.index), np.append(0, tokens), color=colours[at % len(colours)],
            linewidth=1.3 * thickness(), label=f"choice {choice}" if len(choices) <= _NAMED else None,
        )  # fmt: skip
    guesses, right = int(frame["guesses"].sum()), int(frame["guessed"].sum())
    share = f"{right} of {guesses} guesses right" if guesses else "nothing was guessed"
    title(ax, f"{len(frame)} tokens, {share}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("passes of the model")
    ax.set_ylabel("tokens")
    ax.set_xlim(0, most)
    ax.set_ylim(bottom=0)
    grid(ax)
    legend_above(ax, columns=3)
    lay_out(ax)
    return ax
