"""What a search looks through: sequences of tokens, as a tree whose nodes have log-probabilities.

The searches know nothing of a model. They take a `Space`, which a test can make of a small table.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

__all__ = ["Path", "Space", "largest"]


@runtime_checkable
class Space(Protocol):
    """The tree of all answers to one prompt. A step goes from K nodes to the log-probabilities of what follows them."""

    @property
    def ends(self) -> Collection[int]:
        """The tokens that end a sequence."""
        ...

    def start(self) -> Float64[np.ndarray, " V"]:
        """Returns the log-probabilities of the first token; there is one node then. It is called once, and first."""
        ...

    def advance(self, parents: Int64[np.ndarray, " K"], tokens: Int64[np.ndarray, " K"]) -> Float64[np.ndarray, "K V"]:
        """Returns the log-probabilities after K nodes, which take the place of those of the step before.

        Args:
            parents: the node that each follows, counted among those of the step before.
            tokens: the token that each adds.
        """
        ...


class Path(NamedTuple):
    """A sequence from the root of the tree: its tokens, and the log-probability of each of them."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    def then(self, token: int, logprob: float) -> Path:
        """The path with one more token."""
        return Path((*self.tokens, int(token)), (*self.logprobs, float(logprob)))

    @property
    def logprob(self) -> float:
        """The log-probability of the whole sequence."""
        return float(sum(self.logprobs))


def largest(values: Float64[np.ndarray, " N"], count: int) -> list[int]:
    """Returns where the `count` largest finite values are, falling; the first of equal ones first."""
    least = np.partition(values, -count)[-count] if count < len(values) else -np.inf
    found = np.flatnonzero((values >= least) & (values > -np.inf))
    return [int(at) for at in found[np.argsort(-values[found], kind="stable")][:count]]
