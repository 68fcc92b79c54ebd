"""How strongly draws speak against a law, and which other law explains them.

Two tests share a p-value. The first is betting: where L(alternative) / L(honest) is large, the draws are unlikely under
the honest law, because that ratio has mean 1 there, so that 1 / ratio is a p-value by Markov's inequality, however many
draws there are and whenever they stop (Shafer 2021, "Testing by betting"; Wasserman, Ramdas, Balakrishnan 2020,
"Universal inference", for honest laws with an unknown number in them, whose best value is taken). The ratio is that of
the mean over all named alternatives. The second is the G-test, by simulation, which needs no alternative. Over all
tests of an audit Holm's procedure fixes the false-alarm rate (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64

from llmlab.audit.laws import Cell

#: The log-probabilities of a cell's draws [K + 1]; see `laws.sampled`.
Hypothesis: TypeAlias = Callable[[Cell], Float64[np.ndarray, " K+1"]]

#: The share of draws that may come from the neutral law under an honest endpoint: its logits differ a little from one
#: request to the next, so that a token at a filter's edge may fall on either side.
CONTAMINATION = 1e-3
#: How many samples the G-test simulates, and how many draws a cell needs for it.
_SIMULATIONS, _ENOUGH = 2000, 30
_LEAST = 1e-12


class Verdict(NamedTuple):
    """What draws say.

    Attributes:
        p_value: the probability of draws as unlikely, if the endpoint is honest.
        nearest: the name of the alternative that explains them best; None where the honest law does.
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
    """Tests draws against the honest law, of which several forms may be allowed, and names the best alternative.

    Args:
        cells: the draws.
        honest: the forms that an honest law may have.
        alternatives: name -> the forms that the alternative may have.
        rng: simulates the G-test.
    """
    null, at = max((log_likelihood(cells, one, honest=one), -i) for i, one in enumerate(honest))
    best = honest[-at]
    names, values = [], []
    for name, forms in alternatives.items():
        each = [log_likelihood(cells, one, honest=best) for one in forms]
        names.append(name)
        values.append(float(np.logaddexp.reduce(each)) - math.log(len(each)))
    ratio = float(np.logaddexp.reduce(values)) - math.log(len(values)) - null if values else 0.0
    betting = min(1.0, math.exp(-min(ratio, 700.0))) if ratio > 0 else 1.0
    fit = goodness(cells, best, rng=rng) if len(honest) == 1 else 1.0
    p_value = min(1.0, betting if len(honest) > 1 else 2 * min(betting, fit))
    top = int(np.argmax(values)) if values else -1
    if top >= 0 and values[top] > null:
        return Verdict(p_value, names[top], values[top] - null)
    return Verdict(p_value, None, 0.0)


def log_likelihood(cells: Sequence[Cell], hypothesis: Hypothesis, *, honest: Hypothesis) -> float:
    """The log-likelihood of draws. Where the honest law knows nothing of unlisted tokens, draws of them do not count.

    The honest law itself is mixed with `CONTAMINATION` of the neutral one.
    """
    total = 0.0
    for cell in cells:
        law = honest(cell)
        conditional = bool(np.isnan(law[-1]))
        neutral = np.append(cell.law.logprobs, math.log(max(cell.law.rest, _LEAST)))
        found = _whole(law if hypothesis is honest else hypothesis(cell), cell.law.rest)
        neutral -= np.logaddexp.reduce(neutral)
        if conditional:
            found, neutral = (_given_listed(one) for one in (found, neutral))
        share = CONTAMINATION if hypothesis is honest else _LEAST
        mixed = np.logaddexp(found + math.log1p(-share), neutral + math.log(share))
        counts = cell.counts[: len(mixed)]
        total += float((counts * mixed)[counts > 0].sum())
    return total


def goodness(cells: Sequence[Cell], hypothesis: Hypothesis, *, rng: np.random.Generator) -> float:
    """The G-test of draws against a law: a p-value by simulation.

    Below what simulation can show, the bound of Agrawal 2020 ("Finite-sample concentration of the multinomial in
    relative entropy") on n KL(observed || law) takes its place, of the cell where it is smallest.
    """
    found, simulated, bounds = 0.0, np.zeros(_SIMULATIONS), []
    for cell in cells:
        if cell.draws < _ENOUGH:
            continue
        law = hypothesis(cell)
        counts = cell.counts
        if np.isnan(law[-1]):
            law, counts = _given_listed(law), counts[:-1]
        neutral = np.append(cell.law.logprobs, math.log(max(cell.law.rest, _LEAST)))[: len(law)]
        mixed = np.logaddexp(law + math.log1p(-CONTAMINATION), neutral + math.log(CONTAMINATION))
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


def _whole(law: np.ndarray, rest: float) -> np.ndarray:
    """A law with the neutral mass of unlisted tokens where it does not know theirs."""
    if not np.isnan(law[-1]):
        return law
    rest = min(max(rest, _LEAST), 0.999)
    return np.append(law[:-1] + math.log1p(-rest), math.log(rest))


def _given_listed(law: np.ndarray) -> np.ndarray:
    listed = law[:-1]
    return np.asarray(listed - np.logaddexp.reduce(listed))


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
