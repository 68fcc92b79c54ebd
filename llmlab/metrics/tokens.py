"""Metrics of a frame of tokens: likelihood, entropy, and how much of it is new."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmlab.errors import RequestError
from llmlab.metrics.columns import mean, need, numbers
from llmlab.metrics.ngrams import grams

if TYPE_CHECKING:
    import pandas as pd


def mean_logprob(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The mean log-probability per token, in nats. Reads a frame of tokens."""
    return mean(numbers(frame, column, "mean_logprob"))


def perplexity(frame: pd.DataFrame, *, column: str = "logprob") -> float:
    """The perplexity, exp of minus the mean log-probability. Reads a frame of tokens.

    It is the number of equally likely tokens that would be as hard to predict. The exponential is convex: the mean of
    the perplexities of many short texts is larger than the perplexity of all their tokens together.

    Source: Jelinek, Mercer, Bahl, Baker 1977, "Perplexity: a measure of the difficulty of speech recognition tasks".
    """
    with np.errstate(over="ignore"):
        return float(np.exp(-mean(numbers(frame, column, "perplexity"))))


def mean_entropy(frame: pd.DataFrame, *, column: str = "entropy") -> float:
    """The mean entropy of the next-token distributions along the tokens, in nats. Reads a frame of tokens.

    The raw distributions, or with the column `sampling_entropy` those that were sampled from.

    Source: Shannon 1948, "A mathematical theory of communication".
    """
    return mean(numbers(frame, column, "mean_entropy"))


def length_normalised_entropy(frame: pd.DataFrame, *, column: str = "sampling_logprob") -> float:
    """The length-normalised entropy of answers: the mean over choices of minus their mean logprob, in nats per token.

    Reads a frame of tokens of one or many choices, told apart by the column `choice` where there is one. Every choice
    has the same weight, however long it is. By default it reads the sampling logprobs, because samples estimate the
    entropy of the distribution that they were sampled from.

    Source: Malinin and Gales 2021, "Uncertainty estimation in autoregressive structured prediction", eq. 12; used as
    a baseline in Kuhn, Gal, Farquhar 2023, "Semantic uncertainty".
    """
    values = numbers(frame, column, "length_normalised_entropy")
    if "choice" not in frame.columns:
        return 0.0 - mean(values)  # no -0
    choices = frame["choice"].to_numpy()
    return 0.0 - mean(np.array([mean(values[choices == choice]) for choice in dict.fromkeys(choices.tolist())]))


def mean_varentropy(frame: pd.DataFrame) -> float:
    """An unbiased estimate of the mean varentropy of the distributions sampled from, in squared nats.

    Reads a frame of tokens. The surprisal of a sampled token minus the entropy of its distribution has mean zero, and
    its variance is the varentropy, so the mean of its squares estimates that. `varentropy` is exact where the whole
    distribution is known.

    Source: Kontoyiannis and Verdu 2014, "Optimal lossless data compression: non-asymptotics and asymptotics".
    """
    surprisal = -numbers(frame, "sampling_logprob", "mean_varentropy")
    return mean((surprisal - numbers(frame, "sampling_entropy", "mean_varentropy")) ** 2)


def distinct_n(frame: pd.DataFrame, *, n: int = 2, among: int | None = None) -> float:
    """The share of distinct n-grams among all n-grams of token ids, 0 to 1. Reads a frame of tokens.

    An n-gram lies within one choice; all choices are counted together, end tokens included. Tokens without ids, from an
    endpoint, are compared by their bytes. NaN where no choice has `n` tokens.

    The share falls as texts get longer, and as more of them are counted together, because n-grams come back. With
    `among`, it is the share that so many of the n-grams have, drawn at random from all of them, on average over the
    draws: texts of different lengths can then be compared. NaN where there are fewer.

    Args:
        frame: the tokens of one or many choices, told apart by the column `choice` where there is one.
        n: the length of the n-grams.
        among: the number of n-grams that the share is about; by default all.

    Raises:
        RequestError: `n` or `among` is below 1.

    Sources: Li, Galley, Brockett, Gao, Dolan 2016, "A diversity-promoting objective function for neural conversation
    models"; for `among` (rarefaction) Hurlbert 1971, "The nonconcept of species diversity: a critique and alternative
    parameters", eq. 14.
    """
    need(frame, "token_id", "distinct_n")
    ids = frame["token_id"]
    known = ids if ids.notna().all() else _bytes(frame)
    if known.isna().any():
        return math.nan
    tokens: list[Hashable] = known.tolist()
    choices = frame["choice"].tolist() if "choice" in frame.columns else [0] * len(tokens)
    parts: dict[Hashable, list[Hashable]] = {}
    for choice, token in zip(choices, tokens, strict=True):
        parts.setdefault(choice, []).append(token)
    return distinct(list(parts.values()), n=n, among=among)


def distinct(sequences: Sequence[Sequence[Hashable]], *, n: int, among: int | None = None) -> float:
    """The share of distinct n-grams among the n-grams of some sequences; see `distinct_n`."""
    for name, value in (("n", n), ("among", among)):
        if value is not None and value < 1:
            raise RequestError(f"{name} must be at least 1, got {value}", param=name)
    counts = Counter(gram for sequence in sequences for gram in grams(sequence, n))
    total = counts.total()
    if not total or (among is not None and among > total):
        return math.nan
    if among is None:
        return len(counts) / total
    # The probability that none of the drawn n-grams is this one, which is there `count` times.
    without = [math.exp(_log_choose(total - count, among) - _log_choose(total, among)) for count in counts.values()]
    return sum(1 - missed for missed in without) / among


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) if k <= n else -math.inf


def _bytes(frame: pd.DataFrame) -> pd.Series:
    need(frame, "bytes", "distinct_n")
    return frame["bytes"]
