"""Metrics of a frame of completions: how much the answers agree, and how much they differ.

An answer is a completion's text together with its tool calls, if the frame has a column `tool_calls`: as JSON, as a
sweep writes it, or as a list, as the API returns it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.metrics.columns import mean, need
from llmlab.metrics.equivalence import Equivalence, classes_of
from llmlab.metrics.ngrams import bleu, grams, matched_by_others, pair_bleu

if TYPE_CHECKING:
    import pandas as pd


def pairwise_bleu(
    frame: pd.DataFrame, *, order: int = 4, column: str = "text", split: Callable[[str], list[str]] = str.split
) -> float:
    """The mean BLEU of a completion against one other, over all pairs, 0 to 1: the higher, the more alike they are.

    Reads a frame of completions. Its expectation does not depend on the number of completions, so that samples of
    different sizes can be compared. Precisions, smoothing and the brevity penalty are those of `self_bleu`. NaN with
    fewer than two completions.

    Args:
        frame: one row per completion.
        order: the longest n-grams.
        column: the column of the texts.
        split: the function from a text to its words.

    Source: Shen, Ott, Auli, Ranzato 2019, "Mixture models for diverse machine translation: tricks of the trade".
    """
    found = answers_of(frame, column, "pairwise_bleu")
    if found is None or len(found) < 2:
        return math.nan
    # Equal answers are counted, not compared again.
    counts = Counter(found)
    total = 0.0
    for one, times in counts.items():
        for other, again in counts.items():
            pairs = times * (again - (one == other))
            total += pairs * pair_bleu(one, other, order, split) if pairs else 0.0
    return total / (len(found) * (len(found) - 1))


def self_bleu(
    frame: pd.DataFrame, *, order: int = 4, column: str = "text", split: Callable[[str], list[str]] = str.split
) -> float:
    """The mean BLEU of each completion against all others, 0 to 1: the higher, the more alike they are.

    It depends on the number of completions: among more of them, each n-gram is more likely to be found again, so that
    the same distribution looks the less diverse the more is sampled from it. Compare samples of one size only, or take
    `pairwise_bleu`.

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
    found = answers_of(frame, column, "self_bleu")
    if found is None or len(found) < 2:
        return math.nan
    texts = [split(text) for text in found]
    lengths = [len(text) for text in texts]
    matched = [matched_by_others([Counter(grams(text, n)) for text in texts]) for n in range(1, order + 1)]
    each = [
        bleu(length, lengths[:at] + lengths[at + 1 :], [by[at] for by in matched]) for at, length in enumerate(lengths)
    ]
    return mean(np.array(each))


def majority_share(frame: pd.DataFrame, *, column: str = "text", equivalence: Equivalence = "exact") -> float:
    """The share of completions that give the most common answer, 0 to 1: self-consistency as a confidence.

    Reads a frame of completions. As an estimate of the probability of the likeliest answer it is too large, by the more
    the fewer completions there are, because the answer that happened to be sampled most often is the one counted.
    `pairwise_agreement` has no such bias.

    Args:
        frame: one row per completion.
        column: the column of the texts.
        equivalence: which texts are the same answer, as in `semantic_entropy`.

    Source: Wang, Wei, Schuurmans, Le, Chi, Narang, Chowdhery, Zhou 2023, "Self-consistency improves
    chain of thought reasoning in language models".
    """
    counts = _counts(frame, column, "majority_share", equivalence)
    return max(counts) / sum(counts) if counts else math.nan


def pairwise_agreement(frame: pd.DataFrame, *, column: str = "text", equivalence: Equivalence = "exact") -> float:
    """The share of pairs of completions that give the same answer, 0 to 1.

    Reads a frame of completions. It estimates, without bias at any number of completions, the probability that two
    completions agree: the sum of the squared probabilities of the answers. NaN with fewer than two completions.

    Args:
        frame: one row per completion.
        column: the column of the texts.
        equivalence: which texts are the same answer, as in `semantic_entropy`.

    Source: Simpson 1949, "Measurement of diversity".
    """
    counts = np.array(_counts(frame, column, "pairwise_agreement", equivalence), np.float64)
    n = counts.sum()
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n > 1 else math.nan


def sample_entropy(
    frame: pd.DataFrame, *, column: str = "text", corrected: bool = False, equivalence: Equivalence = "exact"
) -> float:
    """The entropy of the answers among n sampled completions, in nats: discrete semantic entropy.

    Reads a frame of completions. It is the plug-in estimate, which depends on n: it is at most log n, and on average
    below the entropy of the distribution. `corrected` adds (K - 1) / 2n for K different answers, which removes the
    first order of that bias and not all of it: with fewer completions than answers, both are far too small.

    Args:
        frame: one row per completion.
        column: the column of the texts.
        corrected: add the first-order correction of the bias.
        equivalence: which texts are the same answer, as in `semantic_entropy`.

    Sources: Farquhar, Kossen, Kuhn, Gal 2024, "Detecting hallucinations in large language models using semantic
    entropy" (the discrete estimate); Miller 1955, "Note on the bias of information estimates".
    """
    counts = np.array(_counts(frame, column, "sample_entropy", equivalence), np.float64)
    if not len(counts):
        return math.nan
    share = counts / counts.sum()
    return float(-share @ np.log(share) + (0.5 * (len(counts) - 1) / counts.sum() if corrected else 0.0)) + 0.0


def _counts(frame: pd.DataFrame, column: str, metric: str, equivalence: Equivalence) -> list[int]:
    """How many completions give each answer; empty if an answer is not known."""
    found = answers_of(frame, column, metric)
    return list(Counter(classes_of(found or [], equivalence).tolist()).values())


def answers_of(frame: pd.DataFrame, column: str, metric: str) -> list[str] | None:
    """The answer of each completion as text, with its tool calls if it has any; None if one of them is not known."""
    need(frame, column, metric)
    texts = frame[column].tolist()
    calls = frame["tool_calls"].tolist() if column == "text" and "tool_calls" in frame else [None] * len(texts)
    found = []
    for text, called in zip(texts, map(_spelled, calls), strict=True):
        if not isinstance(text, str) and not called:
            return None
        found.append("\n".join(part for part in (text if isinstance(text, str) else "", called) if part))
    return found


def _spelled(calls: Any) -> str:
    """Tool calls as text: equal for calls of the same functions with the same arguments, whatever their ids."""
    if isinstance(calls, str):
        calls = _loaded(calls)
    if isinstance(calls, float) or not calls:  # NaN, None or an empty list
        return ""
    if isinstance(calls, list):
        calls = [_call(call) if isinstance(call, dict) else call for call in calls]
    return json.dumps(calls, sort_keys=True, ensure_ascii=False, default=str)


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    return {"name": function.get("name"), "arguments": _loaded(function.get("arguments"))}


def _loaded(text: Any) -> Any:
    """The value that a text spells as JSON; the text itself where it is cut, or no JSON."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
