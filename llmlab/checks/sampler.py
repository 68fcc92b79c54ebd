"""Tests whether the sampler draws from the exact next-token distribution: Pearson's chi-square test of many draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmlab.display.html import Markup, fragment
from llmlab.distributions.draws import Noise
from llmlab.frames.schema import build
from llmlab.protocol.arguments import whole
from llmlab.protocol.backend import Backend
from llmlab.results.next_token import NextToken

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: The least expected count of a cell; tokens that are rarer are pooled in one cell (Cochran 1954).
LEAST_EXPECTED = 5.0
#: The draws do not fit if a statistic as large has a probability below this.
SIGNIFICANCE = 0.001
#: How many draws of the engine are compared with the sampler's, token by token.
ENGINE_DRAWS = 32
#: If the two best perturbed logits are closer than this, the engine may draw either token, because of rounding.
_TIE = 1e-3

CHECK_COLUMNS: dict[str, str] = {
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "tokens": "index",
    "probability": "number",
    "expected": "number",
    "observed": "index",
    "residual": "number",
}


@dataclass(frozen=True, eq=False)
class SamplerCheck:
    """How well many draws fit the distribution that they should come from.

    Attributes:
        cells: see `frame`.
        draws: the number of draws.
        statistic: Pearson's chi-square statistic; NaN if there is only one cell, so that nothing can be tested.
        degrees: the degrees of freedom.
        p_value: the probability of a statistic at least as large if the draws do come from the distribution; NaN if
            nothing can be tested.
        impossible: the number of draws of tokens whose probability is zero.
        engine_draws: the number of tokens that the engine was asked to draw.
        engine_agrees: how many of them are the tokens that the same noise gives here (or tie with them).
    """

    cells: pd.DataFrame
    draws: int
    statistic: float
    degrees: int
    p_value: float
    impossible: int
    engine_draws: int
    engine_agrees: int

    @property
    def fits(self) -> bool:
        """Whether the draws are consistent with the distribution, and with the engine's."""
        unlikely = not math.isnan(self.p_value) and self.p_value < SIGNIFICANCE
        return not self.impossible and not unlikely and self.engine_agrees == self.engine_draws

    @property
    def verdict(self) -> str:
        """The outcome in words, in one to three sentences."""
        if math.isnan(self.p_value):
            said = f"{self.draws:,} draws from a distribution with a single cell: there is nothing to test."
        else:
            fit = "fit" if self.p_value >= SIGNIFICANCE else "do not fit"
            said = (
                f"{self.draws:,} draws {fit} the exact distribution: chi-square {self.statistic:.1f} on {self.degrees} "
                f"degrees of freedom, p = {self.p_value:.2g}."
            )
        if self.impossible:
            said += f" {self.impossible:,} draws are of tokens that cannot be drawn."
        if self.engine_draws:
            said += f" The engine drew the same token {self.engine_agrees} times of {self.engine_draws}."
        return said

    def frame(self) -> pd.DataFrame:
        """One row per cell, the most likely first. The last cell may hold all rarer tokens together.

        Columns: token, token_id (NaN for the rarer tokens), bytes, tokens (how many the cell holds), probability,
        expected, observed (both are numbers of draws), residual (the difference, in standard deviations).
        """
        return self.cells.copy()

    def plot(self, *, top: int = 24, ax: Axes | None = None) -> Axes:
        """Plots the exact distribution and the observed shares; see `llmlab.plots.check.plot_check`."""
        from llmlab.plots.check import plot_check

        heading = "fits the distribution" if self.fits else "does not fit the distribution"
        if not math.isnan(self.p_value):
            heading += f": χ² {self.statistic:.1f}, {self.degrees} df, p = {self.p_value:.2g}"
        return plot_check(self.frame(), draws=self.draws, heading=heading, top=top, ax=ax)

    def __repr__(self) -> str:
        return f"SamplerCheck: {self.verdict}"

    def _repr_html_(self) -> str:
        return str(fragment("<div>{}</div>{}", self.verdict, Markup(self.cells.head(10).to_html())))


def check_sampler(step: NextToken, backend: Backend, *, draws: int, seed: int) -> SamplerCheck:
    """Draw the next token many times, and test the draws; see `Lab.check_sampler`.

    Args:
        step: the next-token distribution, with its request and its order of the sampler's stages.
        backend: the model; it draws the first `ENGINE_DRAWS` tokens as well.
        draws: the number of draws.
        seed: the first seed; there is one seed for each draw.

    Raises:
        RequestError: `draws` or `seed` is not an integer in range.
    """
    draws, seed = whole("draws", draws, least=1), whole("seed", seed)
    logprobs = step.sampling_logprobs()
    # Consecutive seeds, as people choose them: the draws must be independent all the same.
    observed = np.bincount(step.sample(_seeds(seed, draws)), minlength=len(logprobs))
    agrees = _count_agreeing(step, backend, logprobs, seed=seed)
    return goodness_of_fit(observed, np.exp(logprobs), step=step, engine_draws=ENGINE_DRAWS, engine_agrees=agrees)


def goodness_of_fit(
    observed: np.ndarray, prob: np.ndarray, *, step: NextToken, engine_draws: int = 0, engine_agrees: int = 0
) -> SamplerCheck:
    """Pearson's chi-square test of counts [V] against probabilities [V]; rare tokens are pooled in one cell.

    Sources: Pearson 1900, "On the criterion that a given system of deviations ..."; Cochran 1954, "Some methods for
    strengthening the common chi-square tests" (the least expected count).
    """
    from scipy.stats import chi2

    draws = int(observed.sum())
    ranked = np.argsort(-prob, kind="stable")
    ranked = ranked[prob[ranked] > 0]
    frequent = ranked[prob[ranked] * draws >= LEAST_EXPECTED]
    rest = ranked[len(frequent) :]
    # The cell of the rare tokens takes in frequent ones until it is itself frequent enough.
    while len(rest) and len(frequent) and prob[rest].sum() * draws < LEAST_EXPECTED:
        frequent, rest = frequent[:-1], np.concatenate([frequent[-1:], rest])
    groups = [np.array([token]) for token in frequent] + ([rest] if len(rest) else [])
    p = np.array([prob[group].sum() for group in groups])
    seen = np.array([int(observed[group].sum()) for group in groups])
    expected = p * draws
    degrees = len(groups) - 1
    statistic = float(((seen - expected) ** 2 / expected).sum()) if degrees else math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = np.where(p < 1, (seen - expected) / np.sqrt(expected * (1 - p)), np.nan)
    spelled = step.token_names.columns(frequent.tolist())
    pooled = [f"{len(rest):,} other tokens"] * bool(len(rest))
    cells = build(
        {
            "token": [*spelled["token"], *pooled],
            "token_id": [*frequent.tolist(), *[-1] * len(pooled)],
            "bytes": [*spelled["bytes"], *[None] * len(pooled)],
            "tokens": [len(group) for group in groups],
            "probability": p,
            "expected": expected,
            "observed": seen,
            "residual": residual,
        },
        CHECK_COLUMNS,
    )
    return SamplerCheck(
        cells=cells,
        draws=draws,
        statistic=statistic,
        degrees=degrees,
        p_value=float(chi2.sf(statistic, degrees)) if degrees else math.nan,
        impossible=int(observed[prob == 0].sum()),
        engine_draws=engine_draws,
        engine_agrees=engine_agrees,
    )


def _count_agreeing(step: NextToken, backend: Backend, logprobs: np.ndarray, *, seed: int) -> int:
    """How many tokens that the engine draws are those with the largest perturbed logprob under the same noise."""
    one = {"max_tokens": 1, "max_completion_tokens": None, "min_tokens": min(step.request.min_tokens, 1)}
    request = step.request.replace(n=ENGINE_DRAWS, seed=seed, **one)
    agrees = 0
    for choice in backend.complete(request, order=step.order).choices:
        values = Noise(seed, choice.index, 0).values(len(logprobs))
        perturbed = logprobs if values is None or (logprobs > -np.inf).sum() == 1 else logprobs + values
        agrees += bool(perturbed[choice.tokens.ids[0]] >= perturbed.max() - _TIE)
    return agrees


def _seeds(first: int, count: int) -> list[int]:
    """Consecutive seeds from the first one on, wrapped into the range of signed 64-bit integers."""
    return [(first + at + 2**63) % 2**64 - 2**63 for at in range(count)]
