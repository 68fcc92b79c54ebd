"""Is what the sampler draws distributed as its law? A chi-square test of many draws against the exact probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.distributions.draws import Noise
from llmlab.frames.schema import build
from llmlab.plots.labels import token_labels
from llmlab.protocol.arguments import whole
from llmlab.results.next_token import NextToken

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.lab.lab import Lab

#: A cell is expected to be drawn at least so often; rarer tokens are one cell together (Cochran 1954).
LEAST_EXPECTED = 5.0
#: Below this probability of a difference as large, the draws do not fit.
SIGNIFICANCE = 0.001
#: Draws of the engine itself that are compared with the sampler's, token by token.
ENGINE_DRAWS = 32
#: Where the two best perturbed logits are closer than this, either token may be drawn.
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
    """How well many draws fit the law that they should come from.

    Attributes:
        cells: see `frame`.
        labels: of the cells, for an axis.
        draws: how many.
        statistic: Pearson's chi-square; NaN where a single cell leaves nothing to test.
        degrees: of freedom.
        p_value: the probability of a statistic as large if the draws do come from the law; NaN likewise.
        impossible: draws of tokens whose probability is zero.
        engine_draws: tokens that the engine was asked for,
        engine_agrees: how many of them are those that the same noise gives here (or tie with them).
    """

    cells: pd.DataFrame
    labels: tuple[str, ...]
    draws: int
    statistic: float
    degrees: int
    p_value: float
    impossible: int
    engine_draws: int
    engine_agrees: int

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against the law."""
        unlikely = not math.isnan(self.p_value) and self.p_value < SIGNIFICANCE
        return not self.impossible and not unlikely and self.engine_agrees == self.engine_draws

    @property
    def verdict(self) -> str:
        """The outcome in a sentence or two."""
        if math.isnan(self.p_value):
            said = f"{self.draws:,} draws of a law that leaves a single cell: there is nothing to test."
        else:
            fit = "fit" if self.p_value >= SIGNIFICANCE else "do not fit"
            said = (
                f"{self.draws:,} draws {fit} the exact law: chi-square {self.statistic:.1f} on {self.degrees} degrees "
                f"of freedom, p = {self.p_value:.2g}."
            )
        if self.impossible:
            said += f" {self.impossible:,} draws are of tokens that cannot be drawn."
        if self.engine_draws:
            said += f" The engine drew the same token {self.engine_agrees} times of {self.engine_draws}."
        return said

    def frame(self) -> pd.DataFrame:
        """One row a cell, the likeliest first; the last may stand for all rarer tokens together.

        Columns: token, token_id (NA for the rarer ones), bytes, tokens (how many the cell holds), probability,
        expected, observed (counts of draws), residual (the difference in standard deviations).
        """
        return self.cells.copy()

    def plot(self, *, top: int = 24, ax: Axes | None = None) -> Axes:
        """The exact law with the observed shares on it; see `llmlab.plots.check.plot_check`."""
        from llmlab.plots.check import plot_check

        return plot_check(self, top=top, ax=ax)

    def __repr__(self) -> str:
        return f"SamplerCheck: {self.verdict}"

    def _repr_html_(self) -> str:
        return f"<div>{escape(self.verdict)}</div>{self.cells.head(10).to_html()}"


def check_sampler(
    lab: Lab, messages: Any, *, draws: int, seed: int, order: str, fields: Mapping[str, Any]
) -> SamplerCheck:
    """What `Lab.check_sampler` does."""
    draws, seed = whole("draws", draws, least=1), whole("seed", seed)
    law = lab.next_token(messages, order=order, **fields)
    final = law.sampling_logprobs()
    prob = np.exp(final)
    # One seed after the other, as people choose them: what the noise is made of must not let that show.
    tokens = law.sample(_seeds(seed, draws))
    observed = np.bincount(tokens, minlength=len(prob))
    agrees = _ask_engine(lab, law, final, seed=seed, order=order)
    return goodness_of_fit(observed, prob, law=law, engine_draws=ENGINE_DRAWS, engine_agrees=agrees)


def goodness_of_fit(
    observed: np.ndarray, prob: np.ndarray, *, law: NextToken, engine_draws: int = 0, engine_agrees: int = 0
) -> SamplerCheck:
    """Pearson's chi-square test of counts [V] against probabilities [V], rare tokens pooled.

    Sources: Pearson 1900, "On the criterion that a given system of deviations ..."; Cochran 1954, "Some methods for
    strengthening the common chi-square tests" (the least expected count).
    """
    draws = int(observed.sum())
    ranked = np.argsort(-prob, kind="stable")
    ranked = ranked[prob[ranked] > 0]
    frequent = ranked[prob[ranked] * draws >= LEAST_EXPECTED]
    rest = ranked[len(frequent) :]
    # What is left over must itself be frequent enough for a cell.
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
    spelled = law.token_names.columns(frequent.tolist())
    pooled = [f"{len(rest):,} other tokens"] * bool(len(rest))
    cells = build(
        {
            "token": [*_list(spelled["token"]), *pooled],
            "token_id": [*frequent.tolist(), *[-1] * len(pooled)],
            "bytes": [*_list(spelled["bytes"]), *[None] * len(pooled)],
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
        labels=(*token_labels(spelled["bytes"], frequent.tolist(), law.token_names.names), *pooled),
        draws=draws,
        statistic=statistic,
        degrees=degrees,
        p_value=chi_square_tail(statistic, degrees) if degrees else math.nan,
        impossible=int(observed[prob == 0].sum()),
        engine_draws=engine_draws,
        engine_agrees=engine_agrees,
    )


def chi_square_tail(statistic: float, degrees: int) -> float:
    """The probability that a chi-square variable with so many degrees of freedom is at least as large.

    The regularised upper incomplete gamma function Q(degrees / 2, statistic / 2) in float64: its series below the
    mean, its continued fraction (by Lentz's method) above. Source: DLMF 8.11.4 and 8.9.2.
    """
    a, x = degrees / 2, statistic / 2
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        k = a
        while abs(term) > abs(total) * 1e-16:
            k += 1
            term *= x / k
            total += term
        return max(0.0, 1.0 - scale * total)
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    value = d
    for i in range(1, 10_000):
        numerator = -i * (i - a)
        b += 2
        d = numerator * d + b
        c = b + numerator / c
        d = 1 / (d if abs(d) > tiny else tiny)
        c = c if abs(c) > tiny else tiny
        value *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return scale * value


def _ask_engine(lab: Lab, law: NextToken, final: np.ndarray, *, seed: int, order: str) -> int:
    """How often the engine draws, for the same noise, the token that is the best here."""
    one = {"max_tokens": 1, "max_completion_tokens": None, "min_tokens": min(law.request.min_tokens, 1)}
    request = law.request.replace(n=ENGINE_DRAWS, seed=seed, **one)
    agrees = 0
    for choice in lab.backend.complete(request, order=order).choices:
        values = Noise(seed, choice.index, 0).values(len(final))
        perturbed = final if values is None or (final > -np.inf).sum() == 1 else final + values
        agrees += bool(perturbed[choice.tokens.ids[0]] >= perturbed.max() - _TIE)
    return agrees


def _seeds(first: int, count: int) -> list[int]:
    """Seeds from the first one on, wrapped into the signed 64 bits that a seed has."""
    return [(first + at + 2**63) % 2**64 - 2**63 for at in range(count)]


def _list(column: Any) -> list[Any]:
    return list(column)
