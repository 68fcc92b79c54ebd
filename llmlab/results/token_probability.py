"""Tokens with their probabilities, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from llmlab.text.token_names import TokenNames

__all__ = ["TokenProbability", "token_probabilities"]


class TokenProbability(NamedTuple):
    """A token and its probability in a next-token distribution."""

    token: str
    token_id: int
    prob: float  #: in the raw distribution
    sampling_prob: float  #: in the distribution that is sampled from; 0 where the token is removed


def token_probabilities(
    ids: Sequence[int], names: TokenNames, *, raw: Float64[np.ndarray, " V"], sampling: Float64[np.ndarray, " V"]
) -> list[TokenProbability]:
    """The probabilities of some tokens.

    Args:
        ids: the tokens.
        names: what they are called.
        raw: log-probabilities of the raw distribution, in nats.
        sampling: those of the distribution that is sampled from.
    """
    return [TokenProbability(names.text(i), i, float(np.exp(raw[i])), float(np.exp(sampling[i]))) for i in ids]
