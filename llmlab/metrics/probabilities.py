"""Metrics of a frame of probabilities: of one distribution, of two, and of predictions with an outcome."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from llmlab.errors import RequestError
from llmlab.metrics.columns import numbers

if TYPE_CHECKING:
    import pandas as pd


def entropy(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The entropy of a distribution in nats.

    Reads a frame with the log-probabilities of a whole distribution: `lab.next_token(...).frame(top=None)`.

    Raises:
        RequestError: the probabilities do not sum to one.

    Source: Shannon 1948, "A mathematical theory of communication".
    """
    found = _distribution(frame, column, "entropy")
    if found is None:
        return math.nan
    prob, surprisal = found
    return float(prob @ surprisal)


def varentropy(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The varentropy of a distribution: the variance of the surprisal, in squared nats. Reads the frames of `entropy`.

    Raises:
        RequestError: the probabilities do not sum to one.

    Source: Kontoyiannis and Verdu 2014, "Optimal lossless data compression: non-asymptotics and asymptotics".
    """
    found = _distribution(frame, column, "varentropy")
    if found is None:
        return math.nan
    prob, surprisal = found
    return float(prob @ (surprisal - prob @ surprisal) ** 2)


def kl_divergence(frame: pd.DataFrame, *, p: str = "p", q: str = "q") -> float:
    """KL(p || q) of two columns of probabilities, in nats; infinite where q is 0 and p is not.

    Reads a frame with one row per outcome; q may have probability left for outcomes that are not listed. Frequencies of
    n samples in place of probabilities make it larger, by about (outcomes - 1) / 2n where p is sampled.

    Source: Kullback and Leibler 1951, "On information and sufficiency".
    """
    one, other = numbers(frame, p, "kl_divergence"), numbers(frame, q, "kl_divergence")
    if not len(one) or np.isnan(one).any() or np.isnan(other).any():
        return math.nan
    with np.errstate(divide="ignore"):
        there = one > 0
        return float((one[there] * (np.log(one[there]) - np.log(other[there]))).sum())


def total_variation(frame: pd.DataFrame, *, p: str = "p", q: str = "q") -> float:
    """The largest difference between the probabilities that two distributions give to any event, 0 to 1.

    Reads the frames of `kl_divergence`. It is half the sum of the absolute differences; probability that a column does
    not list (1 minus its sum) counts as an outcome of its own. Frequencies of few samples in place of probabilities
    make it larger.

    Source: Levin, Peres, Wilmer 2009, "Markov chains and mixing times", proposition 4.2.
    """
    one, other = numbers(frame, p, "total_variation"), numbers(frame, q, "total_variation")
    if not len(one):
        return math.nan
    return float(0.5 * (np.abs(one - other).sum() + abs(one.sum() - other.sum())))


def expected_calibration_error(
    frame: pd.DataFrame, *, confidence: str = "confidence", correct: str = "correct", bins: int = 10
) -> float:
    """The mean distance between confidence and accuracy over equal bins of confidence, weighted by their size, 0 to 1.

    Reads a frame with one row per prediction. A bin includes its upper edge. NaN for an empty frame.

    It depends on the number of predictions: predictions that are right exactly as often as they say have an error above
    0 too, by chance, which falls with the square root of their number. Compare it with such predictions, simulated, or
    with errors of as many predictions.

    Args:
        frame: one row per prediction.
        confidence: the column of the predictions' confidences in [0, 1].
        correct: the column that says whether each prediction was right, or the probability that it is.
        bins: the number of bins.

    Raises:
        RequestError: a confidence is outside [0, 1], or `bins` is below 1.

    Sources: Naeini, Cooper, Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning"; Guo,
    Pleiss, Sun, Weinberger 2017, "On calibration of modern neural networks".
    """
    said = numbers(frame, confidence, "expected_calibration_error")
    right = numbers(frame, correct, "expected_calibration_error")
    if not len(said) or np.isnan(said).any() or np.isnan(right).any():
        return math.nan
    which = calibration_bins(said, bins=bins)
    gaps = np.bincount(which, said - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(said))


def calibration_bins(confidence: np.ndarray, *, bins: int) -> np.ndarray:
    """The number, from 0, of the bin of [0, 1] that each confidence lies in; a bin includes its upper edge.

    Raises:
        RequestError: a confidence is outside [0, 1], or `bins` is below 1.
    """
    if bins < 1:
        raise RequestError(f"bins must be at least 1, got {bins}", param="bins")
    if len(confidence) and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-6):
        raise RequestError(
            f"a confidence lies between 0 and 1, got {confidence.min():g} to {confidence.max():g}", param="confidence"
        )
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def _distribution(frame: pd.DataFrame, column: str, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The probabilities and surprisals of the outcomes with a probability above zero; None where one is not known."""
    logprob = numbers(frame, column, metric)
    if not len(logprob) or np.isnan(logprob).any():
        return None
    prob = np.exp(logprob)
    if not abs(prob.sum() - 1) < 1e-3:
        raise RequestError(
            f"{metric} reads a whole distribution, and {column!r} sums to {prob.sum():.4g}; take frame(top=None)",
            param="frame",
        )
    there = prob > 0
    return prob[there], -logprob[there]
