"""How far importance weights can be trusted: their tail as a generalized Pareto distribution, and smoothed weights.

Source: Vehtari, Simpson, Gelman, Yao, Gabry 2024, "Pareto smoothed importance sampling", JMLR 25(72), arXiv:1507.02646;
the fit is that of Zhang and Stephens 2009, "A new and efficient estimation method for the generalized Pareto
distribution", Technometrics 51(3), with the weak prior of the former's appendix.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

__all__ = ["Smoothed", "effective_size", "smoothed", "trusted_shape"]

#: The fewest weights of a tail that can be fitted.
_FEWEST = 5
#: The weight of the prior in the fit, in observations, and its mean.
_PRIOR, _MEAN = 10, 0.5


class Smoothed(NamedTuple):
    """Weights whose largest ones are replaced, and the shape of the tail that they were taken from."""

    weights: Float64[np.ndarray, " N"]  #: not normalized
    shape: (
        float  #: of the tail, k; the weights have 1 / k finite moments. -inf where all are alike, inf: too few to say
    )


def smoothed(log_weights: Float64[np.ndarray, " N"]) -> Smoothed:
    """Pareto smoothed importance weights.

    The largest min(N / 5, 3 sqrt(N)) weights are replaced by the expected order statistics of the generalized Pareto
    distribution that fits them, and none is larger than the largest weight was.

    Args:
        log_weights: logarithms of the ratios of the two distributions; -inf for a weight of 0.
    """
    most = log_weights.max(initial=-np.inf)
    if not np.isfinite(most):
        return Smoothed(np.zeros(len(log_weights)), np.inf)
    weights = np.exp(log_weights - most)
    if np.ptp(weights) < 1e-9:
        return Smoothed(weights, -np.inf)
    size = int(np.ceil(min(len(weights) / 5, 3 * np.sqrt(len(weights)))))
    order = np.argsort(weights, kind="stable")
    tail = order[len(weights) - size :]
    if size < _FEWEST:
        return Smoothed(weights, np.inf)
    cutoff = float(weights[order[len(weights) - size - 1]])
    above = weights[tail] - cutoff
    if above[-1] < 1e-12 or above[_FEWEST // 2] <= 0 or np.ptp(above) < 1e-12:
        return Smoothed(weights, -np.inf)  # the largest weights are all alike: bounded
    scale, shape = _fit(above)
    p = (np.arange(size) + 0.5) / size
    spread = -np.log1p(-p) if abs(shape) < 1e-12 else np.expm1(-shape * np.log1p(-p)) / shape
    out = weights.copy()
    out[tail] = np.minimum(cutoff + scale * spread, 1.0)
    return Smoothed(out, shape)


def trusted_shape(count: int) -> float:
    """The largest shape with which an estimate from so many weights can be trusted."""
    return min(1 - 1 / np.log10(count), 0.7) if count > 10 else 0.0


def effective_size(weights: Float64[np.ndarray, " N"]) -> float:
    """How many equal weights would give as exact an estimate: the square of the sum over the sum of squares (Kish)."""
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _fit(x: Float64[np.ndarray, " M"]) -> tuple[float, float]:
    """The scale and the shape of the generalized Pareto distribution of some values above 0, which rise.

    A mean over candidates for b = -k / scale, each weighted by its profile likelihood.
    """
    M = len(x)
    count = 30 + int(np.sqrt(M))
    quartile = x[int(M / 4 + 0.5) - 1]
    quartile = quartile if quartile > 0 else x[x > 0][0]
    b = 1 / x[-1] + (1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))) / (3 * quartile)
    shapes = np.log1p(-b[:, None] * x).mean(axis=1)
    likelihood = M * (np.log(-b / shapes) - shapes - 1)
    probability = np.exp(likelihood - likelihood.max())
    mean = float((b * probability).sum() / probability.sum())
    shape = float(np.log1p(-mean * x).mean())
    scale = -shape / mean
    return scale, (M * shape + _PRIOR * _MEAN) / (M + _PRIOR)
