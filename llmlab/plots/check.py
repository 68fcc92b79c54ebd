"""Pictures of two checks: the sampler's draws against their law, and a model's probabilities against the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmlab.checks.sampler import SamplerCheck
from llmlab.display import palette
from llmlab.plots.labels import name_slanted
from llmlab.plots.style import NEXT_TOKEN, grid, ink, legend_above, new_axes, open_frame, style, title
from llmlab.protocol.arguments import whole
from llmlab.text.numbers import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmlab.checks.calibration import Calibration

#: The residual beyond which a cell is marked: three standard deviations.
_FAR = 3.0


@style()
def plot_check(check: SamplerCheck, *, top: int = 24, ax: Axes | None = None) -> Axes:
    """The exact law as bars, the observed shares as points with their 95% intervals, for the `top` likeliest cells.

    The axis of probabilities is logarithmic, so that rare tokens show as well. Cells that are off by more than three
    standard deviations are ringed; the title has the verdict.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    cells, top = check.cells, whole("top", top, least=2)
    shown = cells.iloc[:top]
    labels = list(check.labels[:top])
    if len(cells) > top:  # the pooled cell is shown whatever the number
        shown, labels = cells.iloc[[*range(top - 1), len(cells) - 1]], [*check.labels[: top - 1], check.labels[-1]]
    prob = shown["probability"].to_numpy(np.float64)
    share = shown["observed"].to_numpy(np.float64) / check.draws
    ax = new_axes(ax, width=min(max(0.36 * len(shown) + 2.2, 5.0), 10.5), height=4.4)
    at = np.arange(len(shown))
    ax.bar(at, prob, 0.75, color=palette.SKY, label="exact law")
    # The interval is that of the law: where a share should lie.
    reach = 1.96 * np.sqrt(prob * (1 - prob).clip(min=0) / check.draws)
    bottom = 0.35 * min(prob.min(), share[share > 0].min(initial=1.0), 1 / check.draws if (share == 0).any() else 1.0)
    ax.errorbar(
        at, prob, yerr=[np.minimum(reach, prob - bottom), reach], fmt="none", ecolor=palette.BLUE, elinewidth=1.2,
        capsize=2.5, label="95% of shares",
    )  # fmt: skip
    ax.plot(at, np.maximum(share, bottom), "o", color=ink(), markersize=4, label=count(check.draws, "draw"))
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
    p = "" if np.isnan(check.p_value) else f": χ² {check.statistic:.1f}, {check.degrees} df, p = {check.p_value:.2g}"
    title(ax, f"{'fits' if check.fits else 'does not fit'} the law{p}", pad=24)
    legend_above(ax, columns=4)
    open_frame(ax)
    return ax


@style()
def plot_calibration(report: Calibration, *, bins: int = 10, ax: Axes | None = None) -> Axes:
    """Each answer at (the model's probability, the truth's), and the mean of each bin; the diagonal is calibration.

    Above it the model says too little, below it too much.
    """
    frame = report.frame()
    model, truth = (frame[name].to_numpy(np.float64) for name in ("model", "truth"))
    binned = report.reliability(bins=bins)
    ax = new_axes(ax, width=5.4, height=5.2)
    ax.plot([0, 1], [0, 1], color=palette.GREY, linewidth=1.2, linestyle="--", label="calibrated")
    ax.plot(
        model, truth, "o", color=palette.SKY, markersize=4, alpha=0.45, markeredgewidth=0, label="answer of a prompt"
    )
    ax.plot(
        binned["model"].to_numpy(np.float64), binned["truth"].to_numpy(np.float64), "s", color=palette.VERMILION,
        markersize=6, label=f"mean of a bin ({bins} bins)",
    )  # fmt: skip
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_aspect("equal")
    ax.set_xlabel("model's probability of the whole answer")
    ax.set_ylabel("true probability")
    ax.text(
        0.98, 0.03,
        f"KL {report.kl:.4f} nats\ntotal variation {report.total_variation:.3f}\n"
        f"calibration error {report.ece(bins=bins):.3f}, every answer {report.classwise_ece(bins=bins):.3f}",
        transform=ax.transAxes, ha="right", va="bottom", fontsize="small", linespacing=1.4,
    )  # fmt: skip
    title(ax, f"{report.model}: {report.size}")
    ax.legend(loc="upper left")
    grid(ax, "both")
    open_frame(ax)
    return ax
