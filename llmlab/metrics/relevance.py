"""SAR: entropies in which relevant tokens, and answers that other answers agree with, count more.

Source of all of them: Duan, Cheng, Wang, Zavalny, Wang, Xu, Kailkhura, Xu 2023, "Shifting attention to relevance:
towards the predictive uncertainty quantification of free-form large language models", arXiv:2307.01379.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.metrics.answers import answers_of
from llmlab.metrics.columns import mean, need, numbers
from llmlab.metrics.similarity import Similarity, similar, similarity_matrix, similarity_named

if TYPE_CHECKING:
    import pandas as pd


def sentence_sar(
    frame: pd.DataFrame,
    *,
    similarity: Similarity = "rouge_l",
    temperature: float = 0.001,
    column: str = "text",
    logprob: str = "sampling_logprob",
) -> float:
    """sentenceSAR: the predictive entropy with the probability of similar samples added to each sample's, in nats.

    Reads a frame of samples. The probability of the others is weighted by their similarity and divided by
    `temperature`, so that it is no entropy of a distribution and may be negative. The higher, the less certain.

    Args:
        frame: one row per sampled answer.
        similarity: "rouge_l", "token_f1", "jaccard", or a function of two texts to a number from 0 to 1. The paper's is
            a cross-encoder.
        temperature: what the similar samples' probability is divided by; the less, the more they count.
        column: the column of the texts.
        logprob: the column of the log-probabilities of whole answers.

    Raises:
        RequestError: an argument is wrong, or a column is missing.

    Source: Duan et al. 2023, "Shifting attention to relevance".
    """
    texts, values = answers_of(frame, column, "sentence_sar"), numbers(frame, logprob, "sentence_sar")
    if not texts or np.isnan(values).any():
        return math.nan
    return mean(shifted(values, similarity_matrix(texts, similarity), temperature=temperature))


def token_sar(
    frame: pd.DataFrame,
    *,
    similarity: Similarity = "rouge_l",
    prompt: str = "",
    column: str = "sampling_logprob",
) -> float:
    """tokenSAR: minus the mean log-probability of the tokens, weighted by how relevant each is, in nats per token.

    Reads a frame of tokens; of several choices it is the mean. A token's relevance is 1 minus the similarity of the
    answer and the answer without it. Control tokens have none. Where no token is relevant, all count alike.

    Args:
        frame: the tokens of one or many choices, told apart by the column `choice` where there is one.
        similarity: as in `sentence_sar`. It is asked once per token.
        prompt: the question, which is put before both texts.
        column: the column of the tokens' log-probabilities.

    Raises:
        RequestError: an argument is wrong, or a column is missing.

    Source: Duan et al. 2023, "Shifting attention to relevance".
    """
    return mean(
        np.array([value for _, value in token_sars(frame, similarity=similarity, prompt=prompt, column=column)])
    )


def sar(
    frame: pd.DataFrame,
    *,
    similarity: Similarity = "rouge_l",
    relevance: Similarity | None = None,
    temperature: float = 0.001,
    prompt: str = "",
    column: str = "sampling_logprob",
) -> float:
    """SAR: sentenceSAR with exp of minus each sample's tokenSAR in place of its probability, in nats.

    Reads a frame of the tokens of all samples, told apart by the column `choice`.

    Args:
        frame: the tokens of the samples.
        similarity: how alike two samples are, as in `sentence_sar`.
        relevance: the similarity that tells how relevant a token is, as in `token_sar`; by default `similarity`.
        temperature: as in `sentence_sar`.
        prompt: as in `token_sar`.
        column: the column of the tokens' log-probabilities.

    Raises:
        RequestError: an argument is wrong, or a column is missing.

    Source: Duan et al. 2023, "Shifting attention to relevance".
    """
    own = similarity if relevance is None else relevance
    found = token_sars(frame, similarity=own, prompt=prompt, column=column)
    values = np.array([value for _, value in found])
    if not len(values) or np.isnan(values).any():
        return math.nan
    return mean(shifted(-values, similarity_matrix([text for text, _ in found], similarity), temperature=temperature))


def shifted(logprobs: np.ndarray, similarity: np.ndarray, *, temperature: float) -> np.ndarray:
    """Minus the log of each sample's probability and the others', weighted by similarity, over the temperature [n].

    In log space, because the probability of a long answer is below the least float64.
    """
    if not (isinstance(temperature, int | float) and temperature > 0):
        raise RequestError(f"temperature must be a number above 0, got {short(temperature)}", param="temperature")
    weights = similarity * (1 - np.eye(len(logprobs)))
    with np.errstate(divide="ignore"):
        others = np.logaddexp.reduce(np.log(weights) + logprobs, axis=1) - math.log(temperature)
    found: np.ndarray = 0.0 - np.logaddexp(logprobs, others)
    return found


def token_sars(frame: pd.DataFrame, *, similarity: Similarity, prompt: str, column: str) -> list[tuple[str, float]]:
    """The text and the tokenSAR of each choice, in the order of the choices' first tokens."""
    values = numbers(frame, column, "token_sar")
    need(frame, "bytes", "token_sar")
    pieces: list[bytes | None] = frame["bytes"].tolist()
    choices = frame["choice"].to_numpy() if "choice" in frame.columns else np.zeros(len(frame), np.int64)
    compare = similarity_named(similarity)
    found = []
    for choice in dict.fromkeys(choices.tolist()):
        at = np.flatnonzero(choices == choice)
        own = [pieces[i] for i in at]
        weights = np.array([0.0 if piece is None else 1.0 for piece in own])
        whole = _text(own, prompt)
        if len(own) > 1:
            for i in np.flatnonzero(weights):
                weights[i] = 1.0 - similar(compare, whole, _text(own[:i] + own[i + 1 :], prompt))
        if not weights.any():
            weights[:] = 1.0
        found.append((_text(own, ""), 0.0 - float(values[at] @ weights / weights.sum())))
    return found


def _text(pieces: list[bytes | None], prompt: str) -> str:
    text = b"".join(piece for piece in pieces if piece is not None).decode("utf-8", "replace")
    return f"{prompt} {text}" if prompt else text
