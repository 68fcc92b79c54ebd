"""Metrics: each takes a dataframe and returns one number, and names its source.

    from llmlab import metrics

    metrics.perplexity(result.logprobs_frame())
    lab.sweep("Tell me a story.", temperature=[0.5, 1.0], n=16).summary(metrics={"agreement": metrics.majority_share})

Each docstring says which kind of frame the metric reads:

- a frame of tokens: `Result.logprobs_frame()`, or the rows of one choice. `lab.sweep(metrics=...)` passes the latter.
- a frame of completions: one row per completion with its `text`, as `Sweep.frame()` has.
  `Sweep.summary_frame(metrics=...)` passes the rows of one group.
- a frame of probabilities: one row per token or answer.

Logarithms are natural, entropies in nats. A metric is NaN where the frame cannot tell it: it has no rows, or a value is
NA. A missing column is a `RequestError`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from llmlab.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Metric",
    "distinct_n",
    "entropy",
    "expected_calibration_error",
    "kl_divergence",
    "length_normalised_entropy",
    "majority_share",
    "mean_entropy",
    "mean_logprob",
    "mean_varentropy",
    "perplexity",
    "sample_entropy",
    "self_bleu",
    "total_variation",
    "varentropy",
]

#: A function from a frame to a number.
Metric: TypeAlias = "Callable[[pd.DataFrame], float]"


def mean_logprob(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The mean log-probability per token, in nats. Reads a frame of tokens."""
    return _mean(_numbers(frame, column, "mean_logprob"))


def perplexity(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The perplexity, exp of minus the mean log-probability. Reads a frame of tokens.

    It is the number of equally likely tokens that would be as hard to predict.

    Source: Jelinek, Mercer, Bahl, Baker 1977, "Perplexity: a measure of the difficulty of speech recognition tasks".
    """
    with np.errstate(over="ignore"):
        return float(np.exp(-_mean(_numbers(frame, column, "perplexity"))))


def mean_entropy(frame: pd.DataFrame, *, column: str = "entropy") -> float:
    """The mean entropy of the next-token distributions along the tokens, in nats. Reads a frame of tokens.

    The raw distributions, or with the column `sampling_entropy` those that were sampled from.

    Source: Shannon 1948, "A mathematical theory of communication".
    """
    return _mean(_numbers(frame, column, "mean_entropy"))


def length_normalised_entropy(frame: pd.DataFrame, *, column: str = "sampling_logprob") -> float:
    """The length-normalised entropy of answers: the mean over choices of minus their mean logprob, in nats per token.

    Reads a frame of tokens of one or many choices, told apart by the column `choice` where there is one. Every choice
    has the same weight, however long it is. By default it reads the sampling logprobs, because samples estimate the
    entropy of the distribution that they were sampled from.

    Source: Malinin and Gales 2021, "Uncertainty estimation in autoregressive structured prediction", eq. 12; used as
    a baseline in Kuhn, Gal, Farquhar 2023, "Semantic uncertainty".
    """
    values = _numbers(frame, column, "length_normalised_entropy")
    if "choice" not in frame.columns:
        return 0.0 - _mean(values)  # no -0
    choices = frame["choice"].to_numpy()
    return 0.0 - _mean(np.array([_mean(values[choices == choice]) for choice in dict.fromkeys(choices.tolist())]))


def mean_varentropy(frame: pd.DataFrame) -> float:
    """An unbiased estimate of the mean varentropy of the distributions sampled from, in squared nats.

    Reads a frame of tokens. The surprisal of a sampled token minus the entropy of its distribution has mean zero, and
    its variance is the varentropy, so the mean of its squares estimates that. `varentropy` is exact where the whole
    distribution is known.

    Source: Kontoyiannis and Verdu 2014, "Optimal lossless data compression: non-asymptotics and asymptotics".
    """
    surprisal = -_numbers(frame, "sampling_logprob", "mean_varentropy")
    return _mean((surprisal - _numbers(frame, "sampling_entropy", "mean_varentropy")) ** 2)


def entropy(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The entropy of a distribution in nats.

    Reads a frame with the log-probabilities of a whole distribution: `lab.next_token(...).frame(top=None)`.

    Raises:
        RequestError: the probabilities do not sum to one.

    Source: Shannon 1948, "A mathematical theory of communication".
    """
    prob, surprisal = _distribution(frame, column, "entropy")
    return float(prob @ surprisal) if len(prob) else math.nan


def varentropy(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The varentropy of a distribution: the variance of the surprisal, in squared nats. Reads the frames of `entropy`.

    Raises:
        RequestError: the probabilities do not sum to one.

    Source: Kontoyiannis and Verdu 2014, "Optimal lossless data compression: non-asymptotics and asymptotics".
    """
    prob, surprisal = _distribution(frame, column, "varentropy")
    return float(prob @ (surprisal - prob @ surprisal) ** 2) if len(prob) else math.nan


def distinct_n(frame: pd.DataFrame, *, n: int = 2) -> float:
    """The share of distinct n-grams among all n-grams of token ids, 0 to 1. Reads a frame of tokens.

    An n-gram lies within one choice; all choices are counted together, end tokens included. Tokens without ids, from an
    endpoint, are compared by their bytes. NaN where no choice has `n` tokens.

    Raises:
        RequestError: `n` is below 1.

    Source: Li, Galley, Brockett, Gao, Dolan 2016, "A diversity-promoting objective function for neural conversation
    models".
    """
    _need(frame, "token_id", "distinct_n")
    ids = frame["token_id"]
    tokens: list[Hashable] = ids.tolist() if ids.notna().all() else _bytes(frame)
    if any(token is None for token in tokens):
        return math.nan
    choices = frame["choice"].tolist() if "choice" in frame.columns else [0] * len(tokens)
    parts: dict[Hashable, list[Hashable]] = {}
    for choice, token in zip(choices, tokens, strict=True):
        parts.setdefault(choice, []).append(token)
    return distinct(list(parts.values()), n=n)


def distinct(sequences: Sequence[Sequence[Hashable]], *, n: int) -> float:
    """The share of distinct n-grams among all n-grams of some sequences; see `distinct_n`."""
    if n < 1:
        raise RequestError(f"n must be at least 1, got {n}", param="n")
    grams = [gram for sequence in sequences for gram in _grams(sequence, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def self_bleu(
    frame: pd.DataFrame, *, order: int = 4, column: str = "text", split: Callable[[str], list[str]] = str.split
) -> float:
    """The mean BLEU of each completion against all others, 0 to 1: the higher, the more alike they are.

    Reads a frame of completions. Precisions of clipped n-grams up to `order`, for n above 1 smoothed by adding one to
    both counts; a text shorter than `order` words goes up to its own length. The brevity penalty takes the closest
    length, and of two the shorter. An empty text has 1 where all others are empty, otherwise 0. NaN with fewer than two
    completions.

    Args:
        frame: one row per completion.
        order: the longest n-grams.
        column: the column of the texts.
        split: the function from a text to its words.

    Sources: Zhu, Lu, Zheng, Guo, Zhang, Wang, Yu 2018, "Texygen: a benchmarking platform for text generation models";
    for the smoothing Lin and Och 2004, "ORANGE: a method for evaluating automatic evaluation metrics for machine
    translation".
    """
    _need(frame, column, "self_bleu")
    texts = [split(text) for text in frame[column]]
    if len(texts) < 2:
        return math.nan
    matched = [_matched([Counter(_grams(text, n)) for text in texts]) for n in range(1, order + 1)]
    return _mean(np.array([_bleu(texts, [by[at] for by in matched], at) for at in range(len(texts))]))


def majority_share(frame: pd.DataFrame, *, column: str = "text") -> float:
    """The share of completions that give the most common answer, 0 to 1; white space around a text does not count.

    Reads a frame of completions.

    Source: Wang, Wei, Schuurmans, Le, Chi, Narang, Chowdhery, Zhou 2023, "Self-consistency improves
    chain of thought reasoning in language models".
    """
    counts = _answers(frame, column, "majority_share")
    return max(counts) / sum(counts) if counts else math.nan


def sample_entropy(frame: pd.DataFrame, *, column: str = "text", corrected: bool = False) -> float:
    """The entropy of the answers among n sampled completions, in nats; white space around a text does not count.

    Reads a frame of completions. It is the plug-in estimate, at most log n; `corrected` adds (K - 1) / 2n for K
    different answers.

    Sources: Kuhn, Gal, Farquhar 2023, "Semantic uncertainty" (with each text a meaning of its own);
    Miller 1955, "Note on the bias of information estimates".
    """
    counts = np.array(_answers(frame, column, "sample_entropy"), np.float64)
    if not len(counts):
        return math.nan
    share = counts / counts.sum()
    return float(-share @ np.log(share) + (0.5 * (len(counts) - 1) / counts.sum() if corrected else 0.0)) + 0.0


def expected_calibration_error(
    frame: pd.DataFrame, *, confidence: str = "confidence", correct: str = "correct", bins: int = 10
) -> float:
    """The mean distance between confidence and accuracy over equal bins of confidence, weighted by their size, 0 to 1.

    Reads a frame with one row per prediction. A bin includes its upper edge. NaN for an empty frame.

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
    said = _numbers(frame, confidence, "expected_calibration_error")
    right = _numbers(frame, correct, "expected_calibration_error")
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


def kl_divergence(frame: pd.DataFrame, *, p: str = "p", q: str = "q") -> float:
    """KL(p || q) of two columns of probabilities, in nats; infinite where q is 0 and p is not.

    Reads a frame with one row per outcome; q may have probability left for outcomes that are not listed.

    Source: Kullback and Leibler 1951, "On information and sufficiency".
    """
    one, other = _numbers(frame, p, "kl_divergence"), _numbers(frame, q, "kl_divergence")
    if not len(one) or np.isnan(one).any() or np.isnan(other).any():
        return math.nan
    with np.errstate(divide="ignore"):
        there = one > 0
        return float((one[there] * (np.log(one[there]) - np.log(other[there]))).sum())


def total_variation(frame: pd.DataFrame, *, p: str = "p", q: str = "q") -> float:
    """The largest difference between the probabilities that two distributions give to any event, 0 to 1.

    Reads the frames of `kl_divergence`. It is half the sum of the absolute differences; probability that a column does
    not list (1 minus its sum) counts as an outcome of its own.

    Source: Levin, Peres, Wilmer 2009, "Markov chains and mixing times", proposition 4.2.
    """
    one, other = _numbers(frame, p, "total_variation"), _numbers(frame, q, "total_variation")
    if not len(one):
        return math.nan
    return float(0.5 * (np.abs(one - other).sum() + abs(one.sum() - other.sum())))


def _matched(counts: Sequence[Counter[tuple[Hashable, ...]]]) -> list[int]:
    """The number of n-grams of each text that the others match: each as often as the text that has it most often.

    An n-gram is matched min(own count, largest count among the others) times. Where the text's own count is the
    largest of all, the largest among the others is the second largest of all; where it is not, its own count is at most
    the second largest. So it is min(own count, second largest count), and two passes over the texts are enough.
    """
    most: dict[tuple[Hashable, ...], int] = {}
    second: dict[tuple[Hashable, ...], int] = {}
    for grams in counts:
        for gram, count in grams.items():
            if gram not in most:
                most[gram] = count
            else:
                second[gram] = max(second.get(gram, 0), min(count, most[gram]))
                most[gram] = max(count, most[gram])
    return [sum(min(count, second[gram]) for gram, count in grams.items() if gram in second) for grams in counts]


def _bleu(texts: Sequence[Sequence[str]], matched: Sequence[int], at: int) -> float:
    """The BLEU of the text `at` against all others; `matched` counts its n-grams that they match, for each n from 1."""
    text, lengths = texts[at], [len(text) for other, text in enumerate(texts) if other != at]
    if not text:
        return float(not any(lengths))
    logs = []
    for n, found in enumerate(matched[: len(text)]):
        extra = 1 if n else 0  # single words are not smoothed: texts without a common word have 0
        if found + extra == 0:
            return 0.0
        logs.append(math.log((found + extra) / (len(text) - n + extra)))
    nearest = min((abs(length - len(text)), length) for length in lengths)[1]
    brevity = min(0.0, 1.0 - nearest / len(text))
    return math.exp(brevity + sum(logs) / len(logs))


def _grams(sequence: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return list(zip(*(sequence[at:] for at in range(n)), strict=False))


def _answers(frame: pd.DataFrame, column: str, metric: str) -> list[int]:
    _need(frame, column, metric)
    return list(Counter(text.strip() for text in frame[column]).values())


def _distribution(frame: pd.DataFrame, column: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities and surprisals of the outcomes with a probability above zero."""
    logprob = _numbers(frame, column, metric)
    prob = np.exp(logprob)
    if len(prob) and not abs(prob.sum() - 1) < 1e-3:
        raise RequestError(
            f"{metric} reads a whole distribution, and {column!r} sums to {prob.sum():.4g}; take frame(top=None)",
            param="frame",
        )
    there = prob > 0
    return prob[there], -logprob[there]


def _bytes(frame: pd.DataFrame) -> list[Hashable]:
    _need(frame, "bytes", "distinct_n")
    return frame["bytes"].tolist()


def _numbers(frame: pd.DataFrame, column: str, metric: str) -> np.ndarray:
    _need(frame, column, metric)
    return frame[column].to_numpy(dtype=np.float64, na_value=np.nan)


def _need(frame: pd.DataFrame, column: str, metric: str) -> None:
    if column not in frame.columns:
        raise RequestError(
            f"{metric} reads the column {column!r}, and the frame has {', '.join(map(str, frame.columns))}",
            param="frame",
        )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
