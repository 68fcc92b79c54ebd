"""What a search for whole answers looks through, and what it keeps of it: beginnings of answers, and whole ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

__all__ = ["Answering", "Ended", "Node"]


@runtime_checkable
class Answering(Protocol):
    """The tree of all answers to one prompt, under S distributions at once."""

    max_tokens: int  #: the most tokens of an answer

    @property
    def ends(self) -> Collection[int]:
        """The tokens that end an answer."""
        ...

    @property
    def distributions(self) -> int:
        """S. A distribution's probabilities may add up to less than 1, where the rest lies outside the tree."""
        ...

    def start(self) -> Float32[np.ndarray, " V"]:
        """Raw logits of the first token; there is one row then. It is called once, and first."""
        ...

    def advance(self, parents: Int64[np.ndarray, " K"], tokens: Int64[np.ndarray, " K"]) -> Float32[np.ndarray, "K V"]:
        """Raw logits after K rows, which take the place of those before; a token of -1 keeps a row."""
        ...

    def allowed(self, made: Sequence[int]) -> Bool[np.ndarray, " V"] | None:
        """Which tokens may follow a beginning; None for all."""
        ...

    def logprobs(
        self,
        which: int,
        raw: Float32[np.ndarray, "K V"],
        made: Sequence[Sequence[int]],
        allowed: Bool[np.ndarray, "K V"] | None,
    ) -> Float64[np.ndarray, "K V"]:
        """Log-probabilities of what follows K beginnings under one distribution."""
        ...

    def is_complete(self, made: Sequence[int]) -> bool:
        """Whether a beginning without an end token is a whole answer because of its text."""
        ...


class Node(NamedTuple):
    """A beginning whose next token's distribution is known.

    Attributes:
        parent: the number of the node before it; -1 for the root.
        token: the token that it adds to that.
        depth: its number of tokens.
        raw: the model's logits after it.
        allowed: the tokens that a grammar allows, as packed bits; None for all.
    """

    parent: int
    token: int
    depth: int
    raw: Float32[np.ndarray, " V"]
    allowed: np.ndarray | None

    @staticmethod
    def masks(nodes: Sequence[Node]) -> Bool[np.ndarray, "K V"] | None:
        """The tokens that a grammar allows after some nodes; None where there is no grammar."""
        found = [
            np.unpackbits(node.allowed, count=len(node.raw)).astype(bool) for node in nodes if node.allowed is not None
        ]
        return np.stack(found) if found else None


class Ended(NamedTuple):
    """A whole answer: a node and one more token; -1 where the node itself is one. `passes` had been made by then.

    `finish` is "stop" after an end token, and None where the text says it.
    """

    node: int
    token: int
    finish: str | None
    passes: int
