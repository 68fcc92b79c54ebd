"""How far a distribution made by masks, step by step, is from the model's own among the answers that fit: with bounds.

A grammar that masks every step draws an answer x with q(x). The model's own distribution given that the answer fits is
p(x) / Z, where Z is the probability that it fits. Both are known for the answers that a search has found; of the others
only how much probability they have at most (Park et al. 2024, "Grammar-Aligned Decoding", arXiv:2405.21047).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

__all__ = ["Bounds", "Distance", "distance"]


class Bounds(NamedTuple):
    """Two numbers between which a value lies for certain."""

    low: float
    high: float


class Distance(NamedTuple):
    """How far q is from p given that the answer fits.

    Attributes:
        fits: the probability under p that an answer fits.
        total_variation: half the sum of |q - p / Z| over all answers.
        kl: the sum of (p / Z) log(p / (Z q)), in nats.
    """

    fits: Bounds
    total_variation: Bounds
    kl: Bounds


def distance(
    q: Float64[np.ndarray, " A"], p: Float64[np.ndarray, " A"], *, q_left: float, p_left: float, renormalised: bool
) -> Distance:
    """Returns the distance between q and p / Z, from A answers and what is left of each.

    Args:
        q: probabilities of the answers that the masks allow.
        p: those that the model gives them by itself; 0 where an answer does not fit, such as one that was cut off.
        q_left: the probability under q of all other answers.
        p_left: the most that the other answers that fit can have under p.
        renormalised: whether q is p with the probabilities of each step divided by their sum over what is allowed. Then
            p(x) <= q(x) everywhere, and there is an upper bound of the divergence; else it is infinite while anything
            is left.
    """
    low = float(p.sum())
    fits = Bounds(low, min(1.0, low + p_left))
    if low <= 0.0:
        return Distance(fits, Bounds(0.0, 1.0), Bounds(0.0, np.inf))
    return Distance(fits, _total_variation(q, p, q_left, fits), _kl(q, p, q_left, fits, renormalised))


def _total_variation(q: Float64[np.ndarray, " A"], p: Float64[np.ndarray, " A"], q_left: float, fits: Bounds) -> Bounds:
    """The extremes over Z. With u = 1 / Z both bounds are convex and piecewise linear in u."""
    first, last = 1 / fits.high, 1 / fits.low
    some = p > 0
    turns = np.concatenate([q[some] / p[some], [(1 - q_left) / fits.low, first, last]])
    turns = np.unique(np.clip(turns, first, last))
    # The sum of |q - p u| at every turn, from running sums over the answers in the order of their turns.
    ratio = q[some] / p[some]
    order = np.argsort(ratio)
    qs, ps = (np.concatenate([[0.0], np.cumsum(x[some][order])]) for x in (q, p))
    below = np.searchsorted(ratio[order], turns, side="right")
    known = turns * ps[below] - qs[below] + (qs[-1] - qs[below]) - turns * (ps[-1] - ps[below]) + q[~some].sum()
    rest = 1 - fits.low * turns  # what is left of p / Z
    lows, highs = known + np.abs(q_left - rest), known + q_left + rest
    return Bounds(float(np.clip(lows.min() / 2, 0.0, 1.0)), float(np.clip(highs.max() / 2, 0.0, 1.0)))


def _kl(
    q: Float64[np.ndarray, " A"], p: Float64[np.ndarray, " A"], q_left: float, fits: Bounds, renormalised: bool
) -> Bounds:
    some = p > 0
    if (q[some] <= 0).any():
        return Bounds(np.inf, np.inf)
    known = float((p[some] * np.log(p[some] / q[some])).sum())
    left = fits.high - fits.low

    def at(more: float) -> float:
        """The least divergence where the other answers have `more` under p (log-sum inequality)."""
        rest = more * np.log(more / q_left) if more > 0 and q_left > 0 else 0.0
        return float((known + rest) / (fits.low + more) - np.log(fits.low + more))

    # The derivative by `more` has the sign of log(more / q_left) - known / low.
    low = at(min(left, q_left * float(np.exp(known / fits.low))))
    if left == 0.0:
        return Bounds(max(0.0, low), max(0.0, low))
    if not renormalised:
        return Bounds(max(0.0, low), np.inf)
    # p <= q for the others: known / Z - log Z at most, whose largest value is at Z = -known.
    Z = min(max(-known, fits.low), fits.high)
    return Bounds(max(0.0, low), max(0.0, known / Z - float(np.log(Z))))
