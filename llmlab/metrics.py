"""Numbers of a frame: each metric is a function frame -> number, with the source that it is from.

Three kinds of frame go in, and each function says which one it reads:

- tokens: `Result.logprobs_frame()`, or the part of it that is one choice: what `lab.sweep(metrics=...)` takes.
- completions: a row a completion with its `text`, as `lab.sweep(...).frame()` has: what
  `Sweep.summary_frame(metrics=...)` takes.
- laws and outcomes: a row a token or an answer, with columns of probabilities.

Natural logs, entropies in nats. A number that the frame cannot tell (nothing in it, or a figure that is NA) is NaN.
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

#: What a metric is.
Metric: TypeAlias = "Callable[[pd.DataFrame], float]"


def mean_logprob(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The mean log-probability of a token, in nats. Reads tokens."""
    return _mean(_numbers(frame, column, "mean_logprob"))


def perplexity(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """exp of minus the mean log-probability: how many equally likely tokens would surprise as much. Reads tokens.

    Source: Jelinek, Mercer, Bahl, Baker 1977, "Perplexity: a measure of the difficulty of speech recognition tasks".
    """
    with np.errstate(over="ignore"):
        return float(np.exp(-_mean(_numbers(frame, column, "perplexity"))))


def mean_entropy(frame: pd.DataFrame, *, column: str = "entropy") -> float:
    """The mean entropy of the laws that the tokens came from, in nats; `sampling_entropy` for the processed laws.

    Reads tokens. Source: Shannon 1948, "A mathematical theory of communication".
    """
    return _mean(_numbers(frame, column, "mean_entropy"))


def length_normalised_entropy(frame: pd.DataFrame, *, column: str = "sampling_logprob") -> float:
    """An estimate of the entropy of whole answers per token: the mean over choices of minus their mean logprob, nats.

    Reads tokens of one or many choices (told apart by the column `choice`, where there is one); every choice counts
    alike, however long it is. The law that was drawn from is the one whose entropy samples tell, hence the column.

    Source: Malinin and Gales 2021, "Uncertainty estimation in autoregressive structured prediction", eq. 12; used as
    a baseline in Kuhn, Gal, Farquhar 2023, "Semantic uncertainty".
    """
    values = _numbers(frame, column, "length_normalised_entropy")
    if "choice" not in frame.columns:
        return 0.0 - _mean(values)  # no -0
    choices = frame["choice"].to_numpy()
    return 0.0 - _mean(np.array([_mean(values[choices == choice]) for choice in dict.fromkeys(choices.tolist())]))


def mean_varentropy(frame: pd.DataFrame) -> float:
    """An unbiased estimate of the mean varentropy of the laws that were drawn from, in squared nats. Reads tokens.

    A drawn token's surprisal less its law's entropy has mean zero and the law's varentropy as its variance, so the mean
    of its squares estimates it; `varentropy` is exact where the whole law is at hand.
    """
    surprisal = -_numbers(frame, "sampling_logprob", "mean_varentropy")
    return _mean((surprisal - _numbers(frame, "sampling_entropy", "mean_varentropy")) ** 2)


def entropy(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The entropy of a law in nats. Reads a law by its log-probabilities: `lab.next_token(...).frame(top=None)`.

    Source: Shannon 1948.
    """
    prob, surprisal = _law(frame, column, "entropy")
    return float(prob @ surprisal) if len(prob) else math.nan


def varentropy(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The variance of a law's surprisal, in squared nats. Reads what `entropy` reads.

    Source: Kontoyiannis and Verdu 2014, "Optimal lossless data compression: non-asymptotics and asymptotics".
    """
    prob, surprisal = _law(frame, column, "varentropy")
    return float(prob @ (surprisal - prob @ surprisal) ** 2) if len(prob) else math.nan


def distinct_n(frame: pd.DataFrame, *, n: int = 2) -> float:
    """Distinct n-grams of token ids per n-gram, over all tokens of the frame, end tokens included. Reads tokens.

    n-grams lie within one choice and are counted over all of them. Tokens without ids (an endpoint's) count by their
    bytes. NaN where no choice has n tokens.

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
    """Distinct n-grams per n-gram of some sequences; what `distinct_n` counts."""
    if n < 1:
        raise RequestError(f"n must be at least 1, got {n}", param="n")
    grams = [gram for sequence in sequences for gram in _grams(sequence, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def self_bleu(
    frame: pd.DataFrame, *, order: int = 4, column: str = "text", split: Callable[[str], list[str]] = str.split
) -> float:
    """The mean BLEU of each completion against all others, 0 to 1: the higher, the more alike they are.

    Reads completions. Clipped n-gram precisions up to `order`, those above 1 smoothed by adding one to both counts
    (Lin and Och 2004, "ORANGE: a method for evaluating automatic evaluation metrics for machine translation"); a text
    shorter than `order` words goes up to its own length; the brevity penalty takes the closest length, ties to the
    shorter. An empty text has 1 where all others are empty, else 0. NaN with fewer than two completions.

    Source: Zhu, Lu, Zheng, Guo, Zhang, Wang, Yu 2018, "Texygen: a benchmarking platform for text generation models".
    """
    _need(frame, column, "self_bleu")
    texts = [split(text) for text in frame[column]]
    if len(texts) < 2:
        return math.nan
    matched = [_matched([Counter(_grams(text, n)) for text in texts]) for n in range(1, order + 1)]
    return _mean(np.array([_bleu(texts, [by[at] for by in matched], at) for at in range(len(texts))]))


def majority_share(frame: pd.DataFrame, *, column: str = "text") -> float:
    """The share of completions that give the commonest answer (texts compared without white space around them).

    Reads completions. Source: Wang, Wei, Schuurmans, Le, Chi, Narang, Chowdhery, Zhou 2023, "Self-consistency improves
    chain of thought reasoning in language models".
    """
    counts = _answers(frame, column, "majority_share")
    return max(counts) / sum(counts) if counts else math.nan


def sample_entropy(frame: pd.DataFrame, *, column: str = "text", corrected: bool = False) -> float:
    """The entropy in nats of the answers among n samples, an answer being a text without white space around it.

    Reads completions. It is the plug-in estimate, at most log n; `corrected` adds (K - 1) / 2n for K different answers.

    Sources: Kuhn, Gal, Farquhar 2023, "Semantic uncertainty" (with one meaning a text); Miller 1955, "Note on the bias
    of information estimates".
    """
    counts = np.array(_answers(frame, column, "sample_entropy"), np.float64)
    if not len(counts):
        return math.nan
    share = counts / counts.sum()
    return float(-share @ np.log(share) + (0.5 * (len(counts) - 1) / counts.sum() if corrected else 0.0)) + 0.0


def expected_calibration_error(
    frame: pd.DataFrame, *, confidence: str = "confidence", correct: str = "correct", bins: int = 10
) -> float:
    """The mean distance between confidence and accuracy over `bins` equal bins of confidence, weighted by their size.

    Reads outcomes: a row a prediction, with its confidence in [0, 1] and whether it was right (or the probability that
    it is, where that is known). A bin holds its upper edge. NaN for an empty frame.

    Source: Naeini, Cooper, Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning"; Guo,
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
    """Which of `bins` equal parts of [0, 1] each confidence lies in, from 0; an upper edge belongs to its part."""
    if bins < 1:
        raise RequestError(f"bins must be at least 1, got {bins}", param="bins")
    if len(confidence) and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-6):
        raise RequestError(
            f"a confidence lies between 0 and 1, got {confidence.min():g} to {confidence.max():g}", param="confidence"
        )
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def kl_divergence(frame: pd.DataFrame, *, p: str = "p", q: str = "q") -> float:
    """KL(p || q) in nats of two columns of probabilities; infinite where q is 0 and p is not.

    Reads laws: a row an outcome; q may keep mass for outcomes that are not listed. Source: Kullback and Leibler 1951,
    "On information and sufficiency".
    """
    one, other = _numbers(frame, p, "kl_divergence"), _numbers(frame, q, "kl_divergence")
    if not len(one) or np.isnan(one).any() or np.isnan(other).any():
        return math.nan
    with np.errstate(divide="ignore"):
        there = one > 0
        return float((one[there] * (np.log(one[there]) - np.log(other[there]))).sum())


def total_variation(frame: pd.DataFrame, *, p: str = "p", q: str = "q") -> float:
    """The largest difference in probability that two laws give any event, 0 to 1. Reads what `kl_divergence` reads.

    Half the sum of the absolute differences; mass that a column does not list (1 less its sum) counts as an outcome of
    its own. Source: Levin, Peres, Wilmer 2009, "Markov chains and mixing times", proposition 4.2.
    """
    one, other = _numbers(frame, p, "total_variation"), _numbers(frame, q, "total_variation")
    if not len(one):
        return math.nan
    return float(0.5 * (np.abs(one - other).sum() + abs(one.sum() - other.sum())))


def _matched(counts: Sequence[Counter[tuple[Hashable, ...]]]) -> list[int]:
    """How many n-grams of each text are matched by the others together, a gram as often as the one that has it most.

    That is the sum of min(own count, second largest count of all), since the largest is either not the text's own, and
    then no other is below it, or the second largest is the most that the others have. So each text is gone through
    twice, however many others there are.
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
    """BLEU of the text `at` against all others; `matched` are its n-grams that they have, for each n from 1."""
    text, lengths = texts[at], [len(text) for other, text in enumerate(texts) if other != at]
    if not text:
        return float(not any(lengths))
    logs = []
    for n, found in enumerate(matched[: len(text)]):
        extra = 1 if n else 0  # the first precision is not smoothed: nothing in common is 0
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


def _law(frame: pd.DataFrame, column: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and surprisals of what can happen at all."""
    logprob = _numbers(frame, column, metric)
    prob = np.exp(logprob)
    if len(prob) and not abs(prob.sum() - 1) < 1e-3:
        raise RequestError(
            f"{metric} reads a whole law, and {column!r} sums to {prob.sum():.4g}; take frame(top=None)", param="frame"
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
