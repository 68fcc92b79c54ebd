"""Plots of the two checks: the sampler's draws against their distribution, a model's answers against the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmlab.display import palette
from llmlab.plots.labels import frame_labels, name_slanted
from llmlab.plots.style import NEXT_TOKEN, grid, ink, legend_above, new_axes, open_frame, style, title
from llmlab.protocol.arguments import whole
from llmlab.text.numbers import count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: The residual beyond which a cell is marked: three standard deviations.
_FAR = 3.0


@style()
def plot_check(
    frame: pd.DataFrame, *, draws: int | None = None, heading: str = "", top: int = 24, ax: Axes | None = None
) -> Axes:
    """The exact distribution as bars, with the observed shares as points and the 95% intervals of a share.

    The axis of probabilities is logarithmic, so that rare tokens are visible as well. Cells that differ by more than
    three standard deviations are ringed.

    Args:
        frame: one row per cell, as `SamplerCheck.frame()` returns them.
        draws: the number of draws; by default the sum of the cells.
        heading: the title.
        top: how many cells are shown: the most likely ones, and the last, which may hold all rarer tokens.
        ax: where to draw; by default on a new figure.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    top = whole("top", top, least=2)
    draws = int(frame["observed"].sum()) if draws is None else draws
    shown = frame if len(frame) <= top else frame.iloc[[*range(top - 1), len(frame) - 1]]
    pooled = shown["token_id"].isna()
    labels = [
        str(token) if many else label
        for token, many, label in zip(shown["token"], pooled, frame_labels(shown), strict=True)
    ]
    prob = shown["probability"].to_numpy(np.float64)
    share = shown["observed"].to_numpy(np.float64) / draws
    ax = new_axes(ax, width=min(max(0.36 * len(shown) + 2.2, 5.0), 10.5), height=4.4)
    at = np.arange(len(shown))
    ax.bar(at, prob, 0.75, color=palette.SKY, label="exact distribution")
    # The interval is around the exact probability: a share should lie in it.
    reach = 1.96 * np.sqrt(prob * (1 - prob).clip(min=0) / draws)
    bottom = 0.35 * min(prob.min(), share[share > 0].min(initial=1.0), 1 / draws if (share == 0).any() else 1.0)
    ax.errorbar(
        at, prob, yerr=[np.minimum(reach, prob - bottom), reach], fmt="none", ecolor=palette.BLUE, elinewidth=1.2,
        capsize=2.5, label="95% of shares",
    )  # fmt: skip
    ax.plot(at, np.maximum(share, bottom), "o", color=ink(), markersize=4, label=count(draws, "draw"))
    far = np.abs(np.nan_to_num(shown["residual"].to_numpy(np.float64, na_value=np.nan))) > _FAR
    if far.any():
        ax.plot(
            at[far], np.maximum(share, bottom)[far], "o", markersize=11, markerfacecolor="none",
            markeredgecolor=palette.VERMILION, markeredgewidth=1.6, label=f"off by > {_FAR:g} sd",
        )  # fmt: skip
    ax.set_yscale("log")
    # 0.05 reads better than five times ten to the minus two.
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(bottom, min(3 * prob.max(), 1.6))
    ax.set_xlim(-0.8, len(shown) - 0.2)
    name_slanted(ax, labels)
    ax.set_xlabel(NEXT_TOKEN)
    ax.set_ylabel("probability (log scale)")
    title(ax, heading, pad=24)
    legend_above(ax, columns=4)
    open_frame(ax)
    return ax


@style()
def plot_calibration(
    frame: pd.DataFrame, reliability: pd.DataFrame, *, heading: str = "", note: str = "", ax: Axes | None = None
) -> Axes:
    """Each answer at (the model's probability, the true probability), and the means of bins.

    A calibrated model is on the diagonal; above it, the model's probability is too low, below it, too high.

    Args:
        frame: one row per answer, as `Calibration.frame()` returns them.
        reliability: one row per bin, as `Calibration.reliability_frame()` returns them.
        heading: the title.
        note: text in the lower right corner.
        ax: where to draw; by default on a new figure.
    """
    model, truth = (frame[name].to_numpy(np.float64) for name in ("model", "truth"))
    means = [reliability[name].to_numpy(np.float64) for name in ("model", "truth")]
    width = (reliability["high"] - reliability["low"]).to_numpy(np.float64)
    bins = "" if not len(width) else f" ({round(1 / width[0])} bins)"
    ax = new_axes(ax, width=5.4, height=5.2)
    ax.plot([0, 1], [0, 1], color=palette.GREY, linewidth=1.2, linestyle="--", label="calibrated")
    ax.plot(
        model, truth, "o", color=palette.SKY, markersize=4, alpha=0.45, markeredgewidth=0, label="answer of a prompt"
    )
    ax.plot(
        *means, "s", color=palette.VERMILION, markersize=6, label=f"mean of a bin{bins}",
    )  # fmt: skip
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_aspect("equal")
    ax.set_xlabel("model's probability of the whole answer")
    ax.set_ylabel("true probability")
    ax.text(
        0.98, 0.03, note, transform=ax.transAxes, ha="right", va="bottom", fontsize="small", linespacing=1.4,
        parse_math=False,
    )  # fmt: skip
    title(ax, heading)
    ax.legend(loc="upper left")
    grid(ax, "both")
    open_frame(ax)
    return ax
