"""How two models' next-token distributions differ at the same positions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from llmlab.distributions.probabilities import log_softmax

__all__ = ["Divergences", "divergences"]


class Divergences(NamedTuple):
    """Differences of distributions p and q at T positions. The divergences are in nats."""

    kl: Float64[np.ndarray, " T"]  #: KL(p || q) = sum of p log(p / q); Kullback and Leibler 1951
    reverse_kl: Float64[np.ndarray, " T"]  #: KL(q || p)
    jensen_shannon: Float64[np.ndarray, " T"]  #: the mean KL of p and q from their mixture, at most log 2; Lin 1991
    total_variation: Float64[
        np.ndarray, " T"
    ]  #: half of the sum of |p - q|: the most that an event's probability differs
    entropy: Float64[np.ndarray, " T"]  #: of p
    other_entropy: Float64[np.ndarray, " T"]  #: of q
    top: Int64[np.ndarray, " T"]  #: the most likely token of p, ties to the lower id
    other_top: Int64[np.ndarray, " T"]  #: that of q
    logprob: Float64[np.ndarray, " T"]  #: of the given token, in p
    other_logprob: Float64[np.ndarray, " T"]  #: in q
    rank: Int64[np.ndarray, " T"]  #: of the given token in p, from 1; of equal logits the lower id comes first
    other_rank: Int64[np.ndarray, " T"]  #: in q


def divergences(
    logits: Float32[np.ndarray, "T V"], other: Float32[np.ndarray, "T W"], ids: Int64[np.ndarray, " T"]
) -> Divergences:
    """The differences of the softmax of two models' logits, in float64.

    Args:
        logits: of the first model, p.
        other: of the second model, q, over the same tokens.
        ids: the token at each position.

    Raises:
        ValueError: the logits differ in shape.
    """
    if logits.shape != other.shape:
        raise ValueError(f"the logits are {logits.shape} and {other.shape}")
    # A position at a time: in float64, all of them would be the largest arrays of the program.
    rows = [_position(a, b, int(token)) for a, b, token in zip(logits, other, ids, strict=True)]
    columns = list(zip(*rows, strict=True)) or [()] * len(Divergences._fields)
    whole = {"top", "other_top", "rank", "other_rank"}
    return Divergences(
        *(
            np.array(column, np.int64 if name in whole else np.float64)
            for name, column in zip(Divergences._fields, columns, strict=True)
        )
    )


def _position(a: np.ndarray, b: np.ndarray, token: int) -> tuple[float, ...]:
    p_log, q_log = log_softmax(a), log_softmax(b)
    p, q = np.exp(p_log), np.exp(q_log)
    mixed = np.log((p + q) / 2, out=np.zeros_like(p), where=p + q > 0)
    return (
        _mean(p, p_log, q_log),
        _mean(q, q_log, p_log),
        (_mean(p, p_log, mixed) + _mean(q, q_log, mixed)) / 2,
        float(np.abs(p - q).sum() / 2),
        _mean(p, np.zeros_like(p), p_log),
        _mean(q, np.zeros_like(q), q_log),
        int(p_log.argmax()),
        int(q_log.argmax()),
        float(p_log[token]),
        float(q_log[token]),
        _rank(a, token),
        _rank(b, token),
    )


def _mean(p: np.ndarray, log: np.ndarray, other: np.ndarray) -> float:
    """The expectation of log - other under p; a token without probability adds nothing. Rounding goes to 0."""
    some = p > 0
    return max(float((p[some] * (log[some] - other[some])).sum()), 0.0)


def _rank(logits: np.ndarray, token: int) -> int:
    """From 1: one more than there are tokens that are more likely, or as likely with a lower id."""
    own = logits[token]
    return 1 + int((logits > own).sum() + (logits[:token] == own).sum())
