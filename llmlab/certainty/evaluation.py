"""Scores of certainty beside the truth: which of them tell right answers from wrong ones, and which are calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llmlab import metrics
from llmlab.certainty.scores import Kind, exact_interval, scores_of
from llmlab.display.html import Markup, fragment
from llmlab.errors import RequestError, short
from llmlab.frames.schema import build
from llmlab.metrics.judged import aurocs, conformal_threshold, ranks, rejection, rejection_ratios
from llmlab.protocol.arguments import listed, number, whole
from llmlab.text.numbers import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVALUATION_COLUMNS: dict[str, str] = {
    "score": "text",
    "kind": "text",
    "metric": "text",
    "questions": "index",
    "right": "index",
    "value": "number",
    "low": "number",
    "high": "number",
}
REJECTION_COLUMNS: dict[str, str] = {
    "score": "text",
    "rejected": "number",
    "answered": "index",
    "accuracy": "number",
    "low": "number",
    "high": "number",
    "random": "number",
    "oracle": "number",
}
RELIABILITY_COLUMNS: dict[str, str] = {
    "score": "text",
    "bin_low": "number",
    "bin_high": "number",
    "questions": "index",
    "confidence": "number",
    "accuracy": "number",
    "low": "number",
    "high": "number",
}
#: The most values that one batch of resamples holds, to bound its memory.
_AT_ONCE = 1_000_000


class Evaluation:
    """Scores of certainty, compared with whether the answers were right; see `evaluate`.

    Args:
        judged: one row per question.
        correct: the column that says whether the answer was right.
        scores: column of a score -> what it is.
        confidence: the level of the intervals.
        resamples: the number of bootstrap resamples.
        seed: of the resamples.
    """

    def __init__(
        self,
        judged: pd.DataFrame,
        *,
        correct: str,
        scores: Mapping[str, Kind],
        confidence: float,
        resamples: int,
        seed: int,
    ) -> None:
        self._judged, self._correct, self._scores = judged.reset_index(drop=True), correct, dict(scores)
        self._level, self._resamples, self._seed = confidence, resamples, seed

    @property
    def scores(self) -> list[str]:
        """The names of the scores."""
        return list(self._scores)

    def frame(self, *, bins: int = 10) -> pd.DataFrame:
        """One row per score and metric, with a confidence interval.

        Columns: score, kind (uncertainty, confidence or probability), metric, questions (that have the score), right
        (how many of them were answered rightly), value, low, high.

        The metrics are auroc and prr (prediction-rejection ratio), for a probability also ece (expected calibration
        error) and brier; see `llmlab.metrics`. The intervals are percentile intervals of the bootstrap over questions.
        That of the ece lies too high: resamples of a calibrated score are less calibrated than it is. An interval is
        NaN where fewer than half of the resamples have both right and wrong answers.

        Args:
            bins: the number of bins of the ece.

        Source: for the intervals Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
        """
        bins = whole("bins", bins, least=1)
        rows: dict[str, list[Any]] = {name: [] for name in EVALUATION_COLUMNS}
        for score, kind in self._scores.items():
            said, right = self._known(score)
            rank = ranks(said if kind == "uncertainty" else -said)
            found: dict[str, tuple[float, float, float]] = {"auroc": (math.nan,) * 3, "prr": (math.nan,) * 3}
            if len(right):
                found["auroc"] = self._interval(lambda at, rank=rank, right=right: aurocs(rank[at], right[at]), right)
                found["prr"] = self._interval(
                    lambda at, rank=rank, right=right: rejection_ratios(rank[at], right[at]), right
                )
            if kind == "probability":
                found |= self._calibration(said, right, bins=bins)
            for metric, values in found.items():
                own = (score, kind, metric, len(right), int(right.sum()), *values)
                for column, value in zip(rows.values(), own, strict=True):
                    column.append(value)
        return build(rows, EVALUATION_COLUMNS)

    def reliability_frame(self, score: str | None = None, *, bins: int = 10) -> pd.DataFrame:
        """One row per bin of a probability that holds questions: is an answer right as often as the score says?

        Columns: score, bin_low, bin_high (the ends of the bin, of which the upper one belongs to it), questions,
        confidence (the mean of the score), accuracy (the share of right answers), low, high (its exact interval).

        Args:
            score: one of the scores that are probabilities; by default all of them.
            bins: the number of bins of equal width.

        Raises:
            RequestError: the score is not there, or no probability.

        Sources: DeGroot and Fienberg 1983, "The comparison and evaluation of forecasters"; for the intervals Clopper
        and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".
        """
        bins = whole("bins", bins, least=1)
        known = [name for name, kind in self._scores.items() if kind == "probability"]
        rows: dict[str, list[Any]] = {name: [] for name in RELIABILITY_COLUMNS}
        for name in self._chosen(score, known):
            said, right = self._known(name)
            which = metrics.calibration_bins(said, bins=bins)
            for at in np.unique(which):
                own = right[which == at]
                low, high = exact_interval(int(own.sum()), len(own), confidence=self._level)
                values = (name, at / bins, (at + 1) / bins, len(own), said[which == at].mean(), own.mean(), low, high)
                for column, value in zip(rows.values(), values, strict=True):
                    column.append(value)
        return build(rows, RELIABILITY_COLUMNS)

    def rejection_frame(self, score: str | None = None) -> pd.DataFrame:
        """One row per score and number of answers that are kept: how many of them are right?

        Columns: score, rejected (the share of questions, the least certain ones first), answered (how many are left),
        accuracy (of those), low, high (percentile interval of the bootstrap over questions), random (the accuracy in a
        random order), oracle (the accuracy where wrong answers are rejected first). Equal scores are rejected in a
        random order, whose expectation is shown.

        Args:
            score: one of the scores; by default all of them.

        Raises:
            RequestError: the score is not there.
        """
        parts = []
        for name in self._chosen(score, self.scores):
            said, right = self._known(name)
            N = len(right)
            if not N:
                continue
            rank = ranks(said if self._scores[name] == "uncertainty" else -said)
            drawn = [rejection(rank[at], right[at]) for at in self._draws(N)]
            low, high = np.quantile(np.concatenate(drawn), [(1 - self._level) / 2, (1 + self._level) / 2], axis=0)
            kept = np.arange(N, 0, -1)
            columns = {
                "score": [name] * N,
                "rejected": 1 - kept / N,
                "answered": kept,
                "accuracy": rejection(rank[None], right[None])[0][::-1],
                "low": low[::-1],
                "high": high[::-1],
                "random": np.full(N, right.mean()),
                "oracle": (-np.sort(-right)).cumsum()[::-1] / kept,
            }
            parts.append(build(columns, REJECTION_COLUMNS))
        return (
            pd.concat(parts, ignore_index=True)
            if parts
            else build({n: [] for n in REJECTION_COLUMNS}, REJECTION_COLUMNS)
        )

    def threshold(self, score: str, *, keep: float = 0.9) -> float:
        """The score at which to abstain, so that a right answer is kept with a probability of at least `keep`.

        Answer where an uncertainty is at most this, or a confidence at least this. It is split conformal prediction on
        the right answers; these questions are the calibration set. The probability is over calibration sets and new
        questions of the same kind whose answer is right. Infinite, so that every answer is kept, where there are too
        few right answers; `rejection_frame` shows the accuracy of the answers that are left.

        Args:
            score: one of the scores.
            keep: the probability, between 0 and 1.

        Raises:
            RequestError: the score is not there, or `keep` is out of range.

        Source: Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world" (class-conditional).
        """
        (name,) = self._chosen(score, self.scores)
        said, right = self._known(name)
        sign = 1.0 if self._scores[name] == "uncertainty" else -1.0
        keep = number("keep", keep, 0, 1)
        if keep in (0, 1):
            raise RequestError(f"keep must lie between 0 and 1, got {keep:g}", param="keep")
        return sign * conformal_threshold(sign * said[right == 1], coverage=keep)

    def plot_reliability(self, score: str | None = None, *, bins: int = 10, ax: Axes | None = None) -> Axes:
        """Plots accuracy against confidence; see `llmlab.plots.certainty.plot_reliability`.

        Args:
            score: as in `reliability_frame`.
            bins: as in `reliability_frame`.
            ax: where to draw; by default a new figure.
        """
        from llmlab.plots.certainty import plot_reliability

        return plot_reliability(self.reliability_frame(score, bins=bins), ax=ax)

    def plot_rejection(self, score: str | Sequence[str] | None = None, *, ax: Axes | None = None) -> Axes:
        """Plots the accuracy of the answers that are kept; see `llmlab.plots.certainty.plot_rejection`.

        Args:
            score: a score, or several of them; by default those with the highest prr, at most three.
            ax: where to draw; by default a new figure.
        """
        from llmlab.plots.certainty import plot_rejection

        if score is None:
            found = self.frame()
            best = found[found["metric"] == "prr"].sort_values("value", ascending=False, kind="stable")
            score = best["score"].head(3).tolist()
        names = [score] if isinstance(score, str) else listed("score", score, of="scores")
        parts = [self.rejection_frame(name) for name in names]
        if not parts:
            raise RequestError("score must name at least one score", param="score")
        return plot_rejection(pd.concat(parts, ignore_index=True), ax=ax)

    # --- arithmetic ---

    def _known(self, score: str) -> tuple[np.ndarray, np.ndarray]:
        """The values of a score, and the truth, of the questions that have it."""
        said = self._judged[score].to_numpy(dtype=np.float64, na_value=np.nan)
        right = self._judged[self._correct].to_numpy(dtype=np.float64, na_value=np.nan)
        there = ~np.isnan(said)
        return said[there], right[there]

    def _draws(self, N: int) -> Any:
        """Resamples of N questions, in batches [R, N]: the same for every score."""
        rng = np.random.default_rng(self._seed)
        step = max(1, _AT_ONCE // N)
        for at in range(0, self._resamples, step):
            yield rng.integers(0, N, (min(step, self._resamples - at), N))

    def _interval(self, metric: Any, right: np.ndarray) -> tuple[float, float, float]:
        """The value of a metric of resamples [R, N] -> [R], and its percentile interval."""
        N = len(right)
        value = float(metric(np.arange(N)[None])[0])
        drawn = np.concatenate([metric(at) for at in self._draws(N)])
        known = drawn[~np.isnan(drawn)]
        if math.isnan(value) or 2 * len(known) < len(drawn) or N < 2:
            return value, math.nan, math.nan
        low, high = np.quantile(known, [(1 - self._level) / 2, (1 + self._level) / 2])
        return value, float(low), float(high)

    def _calibration(self, said: np.ndarray, right: np.ndarray, *, bins: int) -> dict[str, tuple[float, float, float]]:
        if not len(right):
            return {"ece": (math.nan,) * 3, "brier": (math.nan,) * 3}
        which, gap = metrics.calibration_bins(said, bins=bins), said - right

        def ece(at: np.ndarray) -> np.ndarray:
            sums = np.zeros((len(at), bins))
            np.add.at(sums, (np.arange(len(at))[:, None], which[at]), gap[at])
            found: np.ndarray = np.abs(sums).sum(1) / len(said)
            return found

        def brier(at: np.ndarray) -> np.ndarray:
            found: np.ndarray = np.square(gap)[at].mean(1)
            return found

        return {"ece": self._interval(ece, right), "brier": self._interval(brier, right)}

    def _chosen(self, score: str | None, known: Sequence[str]) -> list[str]:
        if score is None:
            return list(known)
        if not isinstance(score, str) or score not in known:
            raise RequestError(
                f"score: there is no {short(score)} here; there are {', '.join(known) or 'none'}", param="score"
            )
        return [score]

    def __repr__(self) -> str:
        right = self._judged[self._correct].to_numpy(dtype=np.float64)
        found = self.frame()
        best = found[found["metric"] == "auroc"].sort_values("value", ascending=False, kind="stable").head(1)
        said = "".join(
            f" · highest AUROC: {row.score} {row.value:.3f} ({row.low:.3f} to {row.high:.3f})"
            for row in best.itertuples()
            if row.value == row.value
        )
        size = f"{int(right.sum())} of {count(len(right), 'answer')} right, {count(len(self._scores), 'score')}"
        return f"Evaluation: {size}{said}"

    def _repr_html_(self) -> str:
        return str(fragment("<div>{}</div>{}", repr(self), Markup(self.frame().to_html(index=False))))


def evaluate(
    frame: pd.DataFrame,
    *,
    correct: str = "correct",
    uncertainty: Sequence[str] = (),
    certainty: Sequence[str] = (),
    probability: Sequence[str] = (),
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Evaluation:
    """Compares scores of certainty with whether the answers were right.

        llmlab.certainty.evaluate(frame.assign(correct=..., mine=...), uncertainty=["mine"]).frame()

    Args:
        frame: one row per question, such as `Certainty.frame()` with a column that says whether the answer was right.
        correct: that column: True and False, or 1 and 0.
        uncertainty: further columns that are scores, higher for less certain answers. Columns of `Certainty.frame()`
            and `p_true` are known by their names.
        certainty: further columns that are higher for more certain answers.
        probability: further columns that claim to be the probability that the answer is right, from 0 to 1.
        confidence: the confidence level of the intervals, between 0 and 1.
        resamples: the number of bootstrap resamples.
        seed: of the resamples; the same seed gives the same intervals.

    Raises:
        RequestError: a column is missing or named twice; `correct` is not 0 or 1 everywhere; an argument is out of
            range.
    """
    if not isinstance(frame, pd.DataFrame):
        raise RequestError(f"frame must be a dataframe such as Certainty.frame(), got {short(frame)}", param="frame")
    confidence = number("confidence", confidence, 0, 1)
    if confidence in (0, 1):
        raise RequestError(f"confidence must lie between 0 and 1, got {confidence:g}", param="confidence")
    resamples, seed = whole("resamples", resamples, least=1, most=1_000_000), whole("seed", seed, least=0)
    scores = scores_of(frame, correct, uncertainty=uncertainty, certainty=certainty, probability=probability)
    right = frame[correct].to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isin(right, (0, 1)).all():
        raise RequestError(f"{correct} must hold True and False, or 1 and 0, for every question", param="correct")
    return Evaluation(frame, correct=correct, scores=scores, confidence=confidence, resamples=resamples, seed=seed)
