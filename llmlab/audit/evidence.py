"""How strongly draws speak against a distribution, and which other distribution explains them.

Two tests share a p-value. The first is betting: where L(alternative) / L(honest) is large, the draws are unlikely under
the honest distribution. That ratio has mean 1 there, so that 1 / ratio is a p-value by Markov's inequality, however
many draws there are and whenever they stop (Shafer 2021, "Testing by betting"; Wasserman, Ramdas, Balakrishnan 2020,
"Universal inference", for honest distributions with an unknown number in them, whose best value is taken). The ratio is
that of the mean over all named alternatives. The second is the G-test, by simulation, which needs no alternative. Over
all tests of an audit Holm's procedure fixes the false-alarm rate (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64

from llmlab.audit.distributions import Cell

#: The log-probabilities of a cell's draws [K + 1]; see `distributions.sampled`.
Hypothesis: TypeAlias = Callable[[Cell], Float64[np.ndarray, " M"]]

#: The share of draws that may come from the neutral distribution under an honest endpoint: its logits differ a little
#: from one request to the next, so that a token at a filter's edge may fall on either side.
CONTAMINATION = 1e-3
#: How many samples the G-test simulates, and how many draws a cell needs for it.
_SIMULATIONS, _ENOUGH = 2000, 30
_LEAST = 1e-12


class Verdict(NamedTuple):
    """What draws say.

    Attributes:
        p_value: the probability of draws as unlikely, if the endpoint is honest.
        nearest: the name of the alternative that explains them best; None where the honest distribution does.
        log_ratio: log L(nearest) / L(honest).
    """

    p_value: float
    nearest: str | None
    log_ratio: float


def weigh(
    cells: Sequence[Cell],
    honest: Sequence[Hypothesis],
    alternatives: Mapping[str, Sequence[Hypothesis]],
    *,
    rng: np.random.Generator,
) -> Verdict:
    """Tests draws against the honest distribution and names the best alternative. Several honest forms may be allowed.

    Args:
        cells: the draws.
        honest: the forms that an honest distribution may have.
        alternatives: name -> the forms that the alternative may have.
        rng: simulates the G-test.
    """
    each = [log_likelihood(cells, one, under=_Honest.all(cells, one), honest=True) for one in honest]
    null, best = max(each), honest[int(np.argmax(each))]
    under = _Honest.all(cells, best)
    names, values = [], []
    for name, forms in alternatives.items():
        each = [log_likelihood(cells, one, under=under) for one in forms]
        names.append(name)
        values.append(_log_sum(np.array(each)) - math.log(len(each)))
    ratio = _log_sum(np.array(values)) - math.log(len(values)) - null if values else 0.0
    betting = min(1.0, math.exp(-min(ratio, 700.0))) if ratio > 0 else 1.0
    fit = goodness(cells, best, rng=rng) if len(honest) == 1 else 1.0
    p_value = min(1.0, betting if len(honest) > 1 else 2 * min(betting, fit))
    top = int(np.argmax(values)) if values else -1
    if top >= 0 and values[top] > null:
        return Verdict(p_value, names[top], values[top] - null)
    return Verdict(p_value, None, 0.0)


class _Honest(NamedTuple):
    """What the honest distribution says about a cell.

    Attributes:
        distribution: its log-probabilities [K + 1].
        neutral: the log-probabilities at neutral settings; [K], given that a listed token was drawn, where the honest
            distribution knows nothing of the others.
        drawn: the places in the list that were drawn, of those that count.
    """

    distribution: np.ndarray
    neutral: np.ndarray
    drawn: np.ndarray

    @classmethod
    def all(cls, cells: Sequence[Cell], honest: Hypothesis) -> list[_Honest]:
        """What it says about each of several cells."""
        found = []
        for cell in cells:
            distribution, neutral = honest(cell), neutral_of(cell)
            if np.isnan(distribution[-1]):
                neutral = _given_listed(neutral)
            found.append(cls(distribution, neutral, np.flatnonzero(cell.counts[: len(neutral)])))
        return found


def neutral_of(cell: Cell) -> np.ndarray:
    """The log-probabilities of a cell at neutral settings [K + 1]."""
    neutral = np.append(cell.distribution.logprobs, math.log(max(cell.distribution.rest, _LEAST)))
    return np.asarray(neutral - _log_sum(neutral))


def log_likelihood(
    cells: Sequence[Cell], hypothesis: Hypothesis, *, under: Sequence[_Honest], honest: bool = False
) -> float:
    """The log-likelihood of draws. Draws of unlisted tokens count only where their honest mass is known.

    The honest distribution itself is mixed with `CONTAMINATION` of the neutral one.
    """
    total, share = 0.0, CONTAMINATION if honest else _LEAST
    for cell, known in zip(cells, under, strict=True):
        if not len(known.drawn):
            continue
        found = _whole(known.distribution if honest else hypothesis(cell), cell.distribution.rest)
        if len(known.neutral) < len(found):
            found = _given_listed(found)
        drawn = known.drawn
        mixed = np.logaddexp(found[drawn] + math.log1p(-share), known.neutral[drawn] + math.log(share))
        total += float(cell.counts[drawn] @ mixed)
    return total


def goodness(cells: Sequence[Cell], hypothesis: Hypothesis, *, rng: np.random.Generator) -> float:
    """The G-test of draws against a distribution: a p-value by simulation.

    Below what simulation can show, the bound of Agrawal 2020 ("Finite-sample concentration of the multinomial in
    relative entropy") on n KL(observed || distribution) takes its place, of the cell where it is smallest.
    """
    found, simulated, bounds = 0.0, np.zeros(_SIMULATIONS), []
    for cell in cells:
        if cell.draws < _ENOUGH:
            continue
        distribution = hypothesis(cell)
        counts = cell.counts
        if np.isnan(distribution[-1]):
            distribution, counts = _given_listed(distribution), counts[:-1]
        neutral = neutral_of(cell)[: len(distribution)]
        mixed = np.logaddexp(distribution + math.log1p(-CONTAMINATION), neutral + math.log(CONTAMINATION))
        p = np.exp(mixed - np.logaddexp.reduce(mixed))
        draws = int(counts.sum())
        if draws < _ENOUGH:
            continue
        nats = _relative_entropy(counts[None], p)[0]
        found += nats
        simulated += _relative_entropy(rng.multinomial(draws, p, _SIMULATIONS), p)
        k = len(p) - 1
        bounds.append(k * math.log(math.e * max(nats, k) / k) - nats if k else 0.0)
    if not bounds:
        return 1.0
    p_value = (1 + float((simulated >= found - 1e-9).sum())) / (1 + _SIMULATIONS)
    if p_value > 1.5 / (1 + _SIMULATIONS):
        return p_value
    return min(p_value, len(bounds) * math.exp(min(0.0, *bounds)))


def _relative_entropy(counts: np.ndarray, p: np.ndarray) -> np.ndarray:
    """n KL(counts / n || p) of each row of counts, in nats."""
    n = counts.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(counts > 0, counts * np.log(counts / (n * p)), 0.0)
    return np.asarray(terms.sum(axis=1))


def _whole(distribution: np.ndarray, rest: float) -> np.ndarray:
    """A distribution with the neutral mass of unlisted tokens where it does not know theirs."""
    if not np.isnan(distribution[-1]):
        return distribution
    rest = min(max(rest, _LEAST), 0.999)
    return np.append(distribution[:-1] + math.log1p(-rest), math.log(rest))


def _given_listed(distribution: np.ndarray) -> np.ndarray:
    return np.asarray(distribution[:-1] - _log_sum(distribution[:-1]))


def _log_sum(x: np.ndarray) -> float:
    """log(sum(exp(x))), without overflow."""
    top = float(x.max())
    return top if math.isinf(top) else top + math.log(float(np.exp(x - top).sum()))


def holm(p_values: Sequence[float], *, rate: float) -> list[bool]:
    """Which of several tests are rejected, so that all false alarms together have at most this probability.

    NaN stands for a test that was not made.
    """
    rejected = [False] * len(p_values)
    ranked = sorted((p, at) for at, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, at) in enumerate(ranked):
        if p > rate / (len(ranked) - rank):
            break
        rejected[at] = True
    return rejected
