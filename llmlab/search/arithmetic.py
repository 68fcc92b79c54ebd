"""Arithmetic sampling: sequences from codes that lie evenly on the unit interval.

Every sequence is an interval, as wide as it is probable, and a code in [0, 1) is the sequence whose interval it lies
in. One random shift moves all codes. Each code by itself is uniform, so that each sequence is an exact sample; codes
that lie apart give sequences that differ early (Vilnis et al. 2023, "Arithmetic Sampling: Parallel Diverse Decoding for
Large Language Models", arXiv:2210.15458).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from llmlab.search.noise import generator
from llmlab.search.space import Path, Space

__all__ = ["Decoded", "codes_of", "decode"]

#: What random numbers are for: the shift of all codes, and the further digits of one code.
_SHIFT, _DIGITS = 3, 4
#: The distance of two neighbouring codes as 53-bit numbers; further digits are drawn as they are needed.
_GRAIN = 2.0**-53
_BELOW_ONE = 1 - _GRAIN


class Decoded(NamedTuple):
    """The sequence of a code.

    Attributes:
        path: its tokens and their log-probabilities.
        code: its code in [0, 1).
        finish_reason: "stop" after an end token, "length" at the most tokens.
    """

    path: Path
    code: float
    finish_reason: str


def codes_of(n: int, *, seed: int) -> Float64[np.ndarray, " n"]:
    """Returns n codes with the same distance from each to the next, moved by one random shift."""
    return np.mod(np.arange(n) / n + generator(seed, _SHIFT).random(), 1.0)


def decode(
    space: Space,
    codes: Float64[np.ndarray, " K"],
    *,
    first: int = 0,
    max_tokens: int,
    seed: int,
    tell: Callable[[int], None] | None = None,
) -> list[Decoded]:
    """Returns the sequence of each code, in their order. A sequence that has `max_tokens` tokens ends there.

    A code's digits are used up by the tokens that it chooses. Further ones are drawn at every step, so that it has 53
    of them left for each token.

    Args:
        space: the sequences and their probabilities; it gets as many nodes as there are codes.
        codes: the codes.
        first: the number of the first code among those that were shifted together.
        max_tokens: the most tokens of a sequence.
        seed: fixes the further digits.
        tell: is called with the number of each step.
    """
    digits = [generator(seed, _DIGITS, first + at) for at in range(len(codes))]
    paths, reasons, left = [Path()] * len(codes), ["length"] * len(codes), codes.astype(np.float64)
    open_, rows = list(range(len(codes))), [0] * len(codes)
    logprobs = space.start()[None]
    for length in range(1, max_tokens + 1):
        going: list[int] = []
        bounds = {row: _bounds(logprobs[row]) for row in dict.fromkeys(rows)}
        for at, row in zip(open_, rows, strict=True):
            upper = bounds[row]
            if not upper[-1] > 0:  # the text is complete: no token can follow
                reasons[at] = "stop"
                continue
            token = int(np.searchsorted(upper, left[at], side="right"))
            low = upper[token - 1] if token else 0.0
            share = upper[token] - low
            left[at] = min((left[at] - low + _GRAIN * digits[at].random()) / share, _BELOW_ONE)
            paths[at] = paths[at].then(token, logprobs[row, token])
            if token in space.ends:
                reasons[at] = "stop"
            elif length < max_tokens:
                going.append(at)
        if tell is not None:
            tell(length)
        if not going:
            break
        number = dict(zip(open_, rows, strict=True))
        logprobs = space.advance(
            np.array([number[at] for at in going]), np.array([paths[at].tokens[-1] for at in going])
        )
        open_, rows = going, list(range(len(going)))
    return [Decoded(*each) for each in zip(paths, map(float, codes), reasons, strict=True)]


def _bounds(logprobs: Float64[np.ndarray, " V"]) -> Float64[np.ndarray, " V"]:
    """The upper end of each token's interval, in the order of the ids: that of the last token with one is 1."""
    upper = np.cumsum(np.exp(logprobs))
    return np.asarray(upper / upper[-1]) if upper[-1] > 0 else upper
