"""Stochastic beam search: exact samples of whole sequences without replacement.

Each sequence has a Gumbel variable with its log-probability as location; the sequences with the k largest are a sample
without replacement (the Gumbel-top-k trick). A node's variable is the largest of those of its children, so that the k
largest are found from the root down, and only their beginnings are ever looked at (Kool, van Hoof and Welling 2019,
"Stochastic Beams and Where to Find Them", arXiv:1903.06059).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from llmlab.search.noise import generator
from llmlab.search.space import Path, Space, largest

__all__ = ["Drawn", "Sample", "inclusion_probability", "sample_without_replacement"]

#: What random numbers are for: the root's variable, and those of a node's children.
_ROOT, _CHILDREN = 1, 2


class Drawn(NamedTuple):
    """A sequence of a sample.

    Attributes:
        path: its tokens and their log-probabilities.
        perturbed: its log-probability with Gumbel noise.
        finish_reason: "stop" after an end token, "length" at the most tokens.
    """

    path: Path
    perturbed: float
    finish_reason: str


class Sample(NamedTuple):
    """Sequences drawn without replacement, in the order in which they were drawn.

    Attributes:
        drawn: the sequences, the largest perturbed log-probability first.
        threshold: the largest perturbed log-probability of all other sequences; -inf where there are no others.
    """

    drawn: list[Drawn]
    threshold: float


class _Node(NamedTuple):
    """A beginning of sequences, or a whole one where it has a finish reason."""

    path: Path
    logprob: float
    perturbed: float
    row: int
    finish_reason: str | None


def sample_without_replacement(
    space: Space, *, k: int, max_tokens: int, seed: int, tell: Callable[[int], None] | None = None
) -> Sample:
    """Draws k different sequences, each from the distribution of those that were not drawn before it.

    A sequence that has `max_tokens` tokens ends there. With one seed, the first sequences of a larger sample are those
    of a smaller one. The space gets up to k + 1 nodes, since the threshold is that of one more sequence. There are
    fewer sequences where fewer have a probability.

    Args:
        space: the sequences and their probabilities.
        k: how many to draw.
        max_tokens: the most tokens of a sequence.
        seed: fixes the noise.
        tell: is called with the number of each step.
    """
    root = -np.log(generator(seed, _ROOT).standard_exponential())
    nodes = [_Node(Path(), 0.0, float(root), 0, None)]
    logprobs = space.start()[None]
    for length in range(1, max_tokens + 1):
        nodes = _step(nodes, logprobs, k + 1, space=space, seed=seed, last=length == max_tokens)
        if tell is not None:
            tell(length)
        open_ = [node for node in nodes if node.finish_reason is None]
        if not open_:
            break
        logprobs = space.advance(
            np.array([node.row for node in open_]), np.array([node.path.tokens[-1] for node in open_])
        )
        left = iter(range(len(open_)))
        nodes = [node if node.finish_reason else node._replace(row=next(left)) for node in nodes]
    drawn = [Drawn(node.path, node.perturbed, node.finish_reason or "length") for node in nodes]
    return Sample(drawn[:k], drawn[k].perturbed if len(drawn) > k else -np.inf)


def inclusion_probability(logprob: float, *, threshold: float) -> float:
    """The probability that a sequence is in a sample, given the threshold: that its variable is above it.

    A sequence's probability over this one is its importance weight; the sum of the weights times a function of the
    sequences is an unbiased estimate of the function's mean (Kool et al. 2019, section 4.1).
    """
    return 1.0 if threshold == -np.inf else float(-np.expm1(-np.exp(logprob - threshold)))


def _step(
    nodes: list[_Node], logprobs: Float64[np.ndarray, "K V"], count: int, *, space: Space, seed: int, last: bool
) -> list[_Node]:
    """The `count` nodes with the largest perturbed log-probabilities, of open nodes' children and whole ones."""
    found: list[_Node] = []
    for node in nodes:
        own = logprobs[node.row] if node.finish_reason is None else None
        if own is None or not np.isfinite(own).any():
            found.append(node if own is None else node._replace(finish_reason="stop"))
            continue
        below = node.logprob + own
        noise = -np.log(generator(seed, _CHILDREN, path=node.path.tokens).standard_exponential(len(own)))
        values = _with_maximum(below + noise, node.perturbed)
        for token in largest(values, count):
            reason = "stop" if token in space.ends else "length" if last else None
            child = node.path.then(token, own[token])
            found.append(_Node(child, float(below[token]), float(values[token]), node.row, reason))
    return sorted(found, key=lambda node: -node.perturbed)[:count]


def _with_maximum(values: Float64[np.ndarray, " V"], maximum: float) -> Float64[np.ndarray, " V"]:
    """Gumbel variables given their maximum, from ones without a condition (Kool et al. 2019, appendix B.3)."""
    below = values - values.max()
    with np.errstate(divide="ignore"):
        # log(1 - exp(below)), which either form alone would round away at one end.
        rest = np.where(below > -np.log(2), np.log(-np.expm1(below)), np.log1p(-np.exp(below)))
    v = maximum - values + rest
    return np.asarray(maximum - np.maximum(0.0, v) - np.log1p(np.exp(-np.abs(v))))
