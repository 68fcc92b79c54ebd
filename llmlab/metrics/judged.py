"""Metrics of scores beside the truth: does a score tell right answers from wrong ones, and is it a probability?

A frame of judged answers has one row per question: a score, and `correct`, which says whether the answer was right
(True or False, or 1 and 0). A score is a `confidence` (the higher, the more certain) or an `uncertainty` (the higher,
the less certain).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.metrics.columns import need, numbers

if TYPE_CHECKING:
    import pandas as pd

#: How far apart two scores are that differ by rounding, relative to their size where that is above 1.
_ROUNDING = 1e-9


def auroc(
    frame: pd.DataFrame, *, confidence: str | None = None, uncertainty: str | None = None, correct: str = "correct"
) -> float:
    """The probability that a right answer has a higher confidence than a wrong one, 0 to 1; a tie counts half.

    Reads a frame of judged answers. 0.5 is no better than chance. NaN where all answers are right, or all wrong, or a
    value is missing.

    Args:
        frame: one row per question.
        confidence: the column of a score that is higher for more certain answers.
        uncertainty: in its place the column of one that is higher for less certain ones.
        correct: the column that says whether each answer was right.

    Raises:
        RequestError: not exactly one of `confidence` and `uncertainty`; `correct` has other values than 0 and 1.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic curve".
    """
    found = judged(frame, confidence, uncertainty, correct, "auroc", flags=True)
    return math.nan if found is None else float(aurocs(*found)[0])


def prediction_rejection_ratio(
    frame: pd.DataFrame,
    *,
    confidence: str | None = None,
    uncertainty: str | None = None,
    correct: str = "correct",
    max_rejection: float = 1.0,
) -> float:
    """How much of the best possible gain the rejection of uncertain answers brings: 1 is perfect, 0 chance.

    Reads a frame of judged answers, whose `correct` may be any quality. The area under the rejection curve (the mean
    quality of the answers that are kept, over all numbers of rejected ones) of the score, less that of a random order,
    over the same of an order by the quality itself. Negative for a score that is worse than chance. Answers with equal
    scores are rejected in a random order, whose expectation is taken. NaN where all qualities are equal.

    Args:
        frame: one row per question.
        confidence: as in `auroc`.
        uncertainty: as in `auroc`.
        correct: the column of the answers' qualities.
        max_rejection: the largest share of answers that is rejected, above 0 and at most 1.

    Raises:
        RequestError: as in `auroc`; `max_rejection` is out of range, or rejects none of so few.

    Sources: Malinin and Gales 2021, "Uncertainty estimation in autoregressive structured prediction"; as
    lm-polygraph computes it Vashurin et al. 2025, "Benchmarking uncertainty quantification methods for large language
    models with LM-Polygraph", arXiv:2406.15627.
    """
    if not (isinstance(max_rejection, int | float) and 0 < max_rejection <= 1):
        raise RequestError(
            f"max_rejection must be above 0 and at most 1, got {short(max_rejection)}", param="max_rejection"
        )
    found = judged(frame, confidence, uncertainty, correct, "prediction_rejection_ratio")
    if found is None:
        return math.nan
    if not int(max_rejection * len(frame)):
        raise RequestError(
            f"max_rejection = {max_rejection:g} rejects none of {len(frame)} answers", param="max_rejection"
        )
    return float(rejection_ratios(*found, max_rejection=max_rejection)[0])


def brier_score(frame: pd.DataFrame, *, confidence: str = "confidence", correct: str = "correct") -> float:
    """The mean squared distance between a confidence and the truth, 0 to 1; the lower, the better.

    Reads a frame of judged answers whose score is a probability of being right.

    Raises:
        RequestError: a confidence is outside [0, 1]; a column is missing.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    said, right = numbers(frame, confidence, "brier_score"), numbers(frame, correct, "brier_score")
    if not len(said) or np.isnan(said).any() or np.isnan(right).any():
        return math.nan
    if not (said.min() >= 0 and said.max() <= 1 + 1e-6):
        raise RequestError(
            f"a confidence lies between 0 and 1, got {said.min():g} to {said.max():g}", param="confidence"
        )
    return float(np.square(said - right).mean())


def conformal_threshold(scores: np.ndarray, *, coverage: float) -> float:
    """The score that a new one exceeds with a probability of at most 1 - `coverage`; infinite where there are too few.

    It is the ceil((n + 1) * coverage)-th smallest of n scores. If the new score is exchangeable with them, it is at
    most this with a probability of at least `coverage`, and of at most coverage + 1 / (n + 1) where no two are equal,
    whatever their distribution. The probability is over the scores too: of one set of scores it may be less.

    Args:
        scores: the scores of a calibration set [n], none of them NaN.
        coverage: the probability, between 0 and 1.

    Raises:
        RequestError: an argument is out of range.

    Source: Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world"; Angelopoulos and Bates 2021, "A
    gentle introduction to conformal prediction and distribution-free uncertainty quantification", arXiv:2107.07511.
    """
    if not (isinstance(coverage, int | float) and 0 < coverage < 1):
        raise RequestError(f"coverage must lie between 0 and 1, got {short(coverage)}", param="coverage")
    scores = np.sort(np.asarray(scores, np.float64))
    if np.isnan(scores).any():
        raise RequestError("scores must not be NaN: leave out the questions without a score", param="scores")
    # Rounding must not take 0.9 * 10 over 9.
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


# --- the same on arrays, for many resamples at once ---


def judged(
    frame: pd.DataFrame,
    confidence: str | None,
    uncertainty: str | None,
    correct: str,
    metric: str,
    *,
    flags: bool = False,
) -> tuple[np.ndarray, np.ndarray] | None:
    """The ranks of the scores, 0 for the most certain, and the truth, each [1, N]; None where a value is missing.

    Raises:
        RequestError: not exactly one score; with `flags`, the truth has other values than 0 and 1.
    """
    if (confidence is None) == (uncertainty is None):
        raise RequestError(f"{metric} reads one score: give confidence= or uncertainty=, a column", param="confidence")
    name = confidence if confidence is not None else str(uncertainty)
    need(frame, name, metric)
    scores, right = numbers(frame, name, metric), numbers(frame, correct, metric)
    if not len(scores) or np.isnan(scores).any() or np.isnan(right).any():
        return None
    if flags and not np.isin(right, (0, 1)).all():
        raise RequestError(f"{correct} must hold True and False, or 1 and 0", param="correct")
    return ranks(scores if uncertainty is not None else -scores)[None], right[None]


def ranks(uncertainty: np.ndarray) -> np.ndarray:
    """The rank of each value among the different values, 0 for the least; equal values share one.

    Values that differ by rounding alone are equal: the entropy of the shares 0.3 and 0.7 is that of 0.7 and 0.3.
    """
    order = np.argsort(uncertainty, kind="stable")
    ordered = uncertainty[order]
    before, after = ordered[:-1], ordered[1:]
    with np.errstate(invalid="ignore"):  # infinity less infinity
        near = after - before <= _ROUNDING * np.maximum(1, np.minimum(np.abs(before), np.abs(after)))
    found = np.zeros(len(ordered), np.int64)
    found[order[1:]] = np.cumsum((before != after) & ~near)
    return found


def aurocs(rank: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The AUROC of each row [R]; NaN where all of a row are right, or all wrong.

    Args:
        rank: the rank of each answer, 0 for the most certain [R, N].
        right: 1 for a right answer, 0 for a wrong one [R, N].
    """
    good, bad = (_by_rank(rank, ones) for ones in (right, 1 - right))
    # The wrong answers that are less certain than each rank, and half of those that tie.
    after = bad.sum(1, keepdims=True) - bad.cumsum(1) + bad / 2
    with np.errstate(invalid="ignore"):
        found: np.ndarray = (good * after).sum(1) / (good.sum(1) * bad.sum(1))
    return found


def rejection(rank: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The mean quality of the k most certain answers, for k = 1 to N [R, N]; ties in their expectation."""
    count, total = _by_rank(rank, np.ones(right.shape)), _by_rank(rank, right)
    expected = np.divide(total, count, out=np.zeros(total.shape), where=count > 0)
    ordered = np.take_along_axis(expected, np.sort(rank, axis=1), axis=1)
    found: np.ndarray = ordered.cumsum(1) / np.arange(1, right.shape[1] + 1)
    return found


def rejection_ratios(rank: np.ndarray, right: np.ndarray, *, max_rejection: float = 1.0) -> np.ndarray:
    """The prediction-rejection ratio of each row [R]; NaN where all qualities of a row are equal."""
    N = right.shape[1]
    most = int(max_rejection * N)
    best = np.cumsum(-np.sort(-right, axis=1), axis=1) / np.arange(1, N + 1)
    score, oracle, chance = rejection(rank, right)[:, -most:].mean(1), best[:, -most:].mean(1), right.mean(1)
    varies = np.ptp(right, axis=1) > 0
    return np.divide(score - chance, oracle - chance, out=np.full(len(right), np.nan), where=varies)


def _by_rank(rank: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sum of the values of each rank [R, ranks]."""
    R, G = len(rank), int(rank.max()) + 1
    at = rank + G * np.arange(R)[:, None]
    return np.bincount(at.ravel(), np.broadcast_to(values, rank.shape).ravel(), minlength=R * G).reshape(R, G)
