"""Metrics of several samples of one answer: how certain the model is, from what it says and how likely it says it.

A frame of samples has one row per sampled answer: `text`, `sampling_logprob` (the log-probability of the whole answer
in the distribution that it was drawn from, in nats) and `tokens` (its number of tokens). `result.samples_frame()` is
one, and so is the frame of `lab.arithmetic_sample`. The answers are to one prompt under one setting.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.metrics.answers import answers_of, sample_entropy
from llmlab.metrics.columns import mean, numbers
from llmlab.metrics.equivalence import Equivalence, classes_of
from llmlab.metrics.similarity import Similarity, similarity_matrix

if TYPE_CHECKING:
    import pandas as pd

ESTIMATES = ("monte_carlo", "weighted", "discrete")


def semantic_entropy(
    frame: pd.DataFrame,
    *,
    equivalence: Equivalence = "exact",
    estimate: Literal["monte_carlo", "weighted", "discrete"] = "monte_carlo",
    distinct: bool = True,
    length_normalised: bool = False,
    column: str = "text",
    logprob: str = "sampling_logprob",
) -> float:
    """The entropy of the meanings of the answers, in nats: a meaning is a class of equivalent texts.

    Reads a frame of samples. The estimates:

    - "monte_carlo": the mean over samples of minus the log-probability of the sample's class, which is the sum of the
      probabilities of its texts that were sampled. It is an upper bound on average, since other texts of the class are
      missing from the sum.
    - "weighted": the entropy of the classes' probabilities, divided by their sum so that they add up to 1.
    - "discrete": the entropy of the classes' shares of the samples, which needs no probabilities; it is
      `sample_entropy`, whose bias it has.

    Args:
        frame: one row per sampled answer.
        equivalence: which texts have the same meaning: "exact", "normalised", a function of two texts, or
            `cosine(embed, threshold=...)`; see `llmlab.metrics.equivalence.classes_of`.
        estimate: one of the above.
        distinct: whether a text that was sampled several times counts once in its class's probability. lm-polygraph's
            `SemanticEntropy` counts it each time unless `use_unique_responses` is set, and may be negative then.
        length_normalised: whether an answer's log-probability is divided by its number of tokens, as in the code of
            both papers; the sums are not probabilities then.
        column: the column of the texts.
        logprob: the column of the log-probabilities.

    Returns:
        NaN where a text or a log-probability is not known.

    Raises:
        RequestError: an argument is wrong, or a column is missing.

    Sources: Kuhn, Gal, Farquhar 2023, "Semantic uncertainty: linguistic invariances for uncertainty estimation in
    natural language generation", arXiv:2302.09664; Farquhar, Kossen, Kuhn, Gal 2024, "Detecting hallucinations in large
    language models using semantic entropy", Nature 630, for "weighted" and "discrete".
    """
    if estimate not in ESTIMATES:
        raise RequestError(f"estimate must be one of {', '.join(ESTIMATES)}, got {short(estimate)}", param="estimate")
    if estimate == "discrete":
        return sample_entropy(frame, column=column, equivalence=equivalence)
    texts = answers_of(frame, column, "semantic_entropy")
    values = sample_logprobs(frame, logprob, "semantic_entropy", length_normalised=length_normalised)
    if not texts or np.isnan(values).any():
        return math.nan
    classes = classes_of(texts, equivalence)
    each = class_logprobs(texts, values, classes, distinct=distinct)
    if estimate == "monte_carlo":
        return 0.0 - mean(each[classes])
    share = each - np.logaddexp.reduce(each)
    return float(-np.exp(share) @ np.where(np.isfinite(share), share, 0.0)) + 0.0


def class_logprobs(texts: list[str], logprobs: np.ndarray, classes: np.ndarray, *, distinct: bool) -> np.ndarray:
    """The log of the sum of the probabilities of the sampled texts of each class, in nats [classes].

    Args:
        texts: the answers.
        logprobs: their log-probabilities [n].
        classes: the class of each [n].
        distinct: whether a text counts once however often it was sampled; the first log-probability is its own.
    """
    counted = np.ones(len(texts), bool)
    if distinct:
        counted[:] = False
        counted[list({text: at for at, text in reversed(list(enumerate(texts)))}.values())] = True
    return np.array([np.logaddexp.reduce(logprobs[counted & (classes == one)]) for one in range(classes.max() + 1)])


def predictive_entropy(
    frame: pd.DataFrame, *, length_normalised: bool = False, logprob: str = "sampling_logprob"
) -> float:
    """The entropy of the answer distribution, in nats: the mean over samples of minus their log-probability.

    Reads a frame of samples. It is without bias, whatever the number of samples; each token sequence counts as an
    answer of its own. The length-normalised one divides by the number of tokens first, in nats per token; answers
    without tokens are left out of it. `length_normalised_entropy` reads a frame of tokens instead.

    Source: Malinin and Gales 2021, "Uncertainty estimation in autoregressive structured prediction".
    """
    values = sample_logprobs(frame, logprob, "predictive_entropy", length_normalised=length_normalised)
    if length_normalised:
        values = values[numbers(frame, "tokens", "predictive_entropy") != 0]
    return 0.0 - mean(values)


def lexical_similarity(frame: pd.DataFrame, *, similarity: Similarity = "rouge_l", column: str = "text") -> float:
    """The mean similarity of two samples over all pairs, 0 to 1: the higher, the more certain.

    Reads a frame of samples; of it the texts only. lm-polygraph's `LexicalSimilarity` is minus this. NaN with fewer
    than two samples.

    Args:
        frame: one row per sampled answer.
        similarity: "rouge_l", "token_f1", "jaccard", or a function of two texts to a number from 0 to 1.
        column: the column of the texts.

    Source: Fomicheva et al. 2020, "Unsupervised quality estimation for neural machine translation"; as a baseline Kuhn,
    Gal, Farquhar 2023.
    """
    texts = answers_of(frame, column, "lexical_similarity")
    if texts is None or len(texts) < 2:
        return math.nan
    return float(similarity_matrix(texts, similarity)[np.triu_indices(len(texts), 1)].mean())


def eigenvalue_laplacian(frame: pd.DataFrame, *, similarity: Similarity = "jaccard", column: str = "text") -> float:
    """The sum of max(0, 1 - eigenvalue) of the samples' graph Laplacian: a continuous number of meanings, from 1 to n.

    Reads a frame of samples; of it the texts only. The higher, the less certain. lm-polygraph calls it
    `EigValLaplacian`. The similarity of two texts is the mean of both directions.

    Args:
        frame: one row per sampled answer.
        similarity: as in `lexical_similarity`; a text's similarity to itself must be above 0.
        column: the column of the texts.

    Source: Lin, Trivedi, Sun 2023, "Generating with confidence: uncertainty quantification for black-box large language
    models", arXiv:2305.19187.
    """
    texts = answers_of(frame, column, "eigenvalue_laplacian")
    if not texts:
        return math.nan
    W = _both_ways(texts, similarity)
    degree = W.sum(axis=1)
    if not degree.all():
        raise RequestError("similarity must give a text a similarity above 0 with itself", param="similarity")
    # The eigenvalues of the Laplacian are 1 minus those of the normalised similarities.
    kept = np.linalg.eigvalsh(W / np.sqrt(np.outer(degree, degree)))
    return float(kept.clip(min=0).sum())


def degree_uncertainty(frame: pd.DataFrame, *, similarity: Similarity = "jaccard", column: str = "text") -> float:
    """One minus the mean similarity of two samples, a sample with itself included, 0 to 1.

    Reads a frame of samples; of it the texts only. The higher, the less certain. lm-polygraph calls it `DegMat`.

    Args:
        frame: one row per sampled answer.
        similarity: as in `lexical_similarity`.
        column: the column of the texts.

    Source: Lin, Trivedi, Sun 2023, arXiv:2305.19187.
    """
    texts = answers_of(frame, column, "degree_uncertainty")
    return 1.0 - float(_both_ways(texts, similarity).mean()) if texts else math.nan


def sample_logprobs(frame: pd.DataFrame, logprob: str, metric: str, *, length_normalised: bool) -> np.ndarray:
    """The log-probability of each sample, in nats or in nats per token."""
    values = numbers(frame, logprob, metric)
    if not length_normalised:
        return values
    tokens = numbers(frame, "tokens", metric)
    return np.divide(values, tokens, out=np.full(len(values), np.nan), where=tokens > 0)


def _both_ways(texts: list[str], similarity: Similarity) -> np.ndarray:
    found = similarity_matrix(texts, similarity)
    return (found + found.T) / 2
