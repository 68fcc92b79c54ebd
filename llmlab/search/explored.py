"""What a best-first search has explored, as plain values, and what it says under settings that it was not made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from llmlab.search.beginnings import Node
from llmlab.search.best_first import BestFirst

__all__ = ["Explored", "Weighed"]

#: The most log-probabilities that are evaluated at once.
_NUMBERS = 2**22

#: Log-probabilities [K, V] of what follows K beginnings: of raw logits, the beginnings, and what a grammar allows.
Distribution = Callable[[np.ndarray, Sequence[Sequence[int]], "np.ndarray | None"], np.ndarray]


@dataclass(frozen=True, eq=False)
class Weighed:
    """What one distribution says of the answers that were found.

    Attributes:
        logprob: of each answer.
        left: the probability of all that was not explored: of answers that were not found, and of none, perhaps, where
            the probabilities add up to less than 1.
        node_left: the same by the node that it follows.
    """

    logprob: Float64[np.ndarray, " A"]
    left: float
    node_left: Float64[np.ndarray, " N"]

    @property
    def probability(self) -> Float64[np.ndarray, " A"]:
        """The probability of each answer."""
        return np.exp(self.logprob)


@dataclass(frozen=True, eq=False)
class Explored:
    """What a search has explored.

    Attributes:
        nodes: the beginnings that were expanded, the root first, each after its parent.
        node: of each answer, the node that it ends after.
        token: its last token after that node; -1 where there is none.
        found_at: the passes that had been made when it was found.
        text: its text.
        node_text: of each node, its text so far.
        finish_reason: "stop", "length" or "tool_calls".
        ended: whether it ended by itself: with an end token or a tool call, or because its grammar was complete.
        passes: the passes of the model.
        reread: the rows of them that gave no new distribution.
        why: why the search ended: "mass", "complete", "passes", "rows" or "interrupted".
    """

    nodes: tuple[Node, ...]
    node: Int64[np.ndarray, " A"]
    token: Int64[np.ndarray, " A"]
    found_at: Int64[np.ndarray, " A"]
    text: tuple[str, ...]
    node_text: tuple[str, ...]
    finish_reason: tuple[str, ...]
    ended: Bool[np.ndarray, " A"]
    passes: int
    reread: int
    why: str

    @classmethod
    def of(
        cls, search: BestFirst, write: Callable[..., tuple[str, str]], *, why: str, ends: frozenset[int]
    ) -> Explored:
        """What a search has explored so far.

        Args:
            search: the search.
            write: the text and the finish reason of an answer's tokens; see `AnswerSpace.written`.
            why: why it ended.
            ends: the end tokens.
        """
        found = search.ended
        written = [write(search.ids(at), finish_reason=one.finish or "length") for at, one in enumerate(found)]
        reasons = tuple(reason for _, reason in written)
        by_itself = [
            one.token < 0 or one.token in ends or reason == "tool_calls"
            for one, reason in zip(found, reasons, strict=True)
        ]
        return cls(
            nodes=tuple(search.nodes),
            node=np.array([one.node for one in found], np.int64),
            token=np.array([one.token for one in found], np.int64),
            found_at=np.array([one.passes for one in found], np.int64),
            text=tuple(text for text, _ in written),
            node_text=tuple(write(search.path(at), finish_reason=None)[0] for at in range(len(search.nodes))),
            finish_reason=reasons,
            ended=np.array(by_itself, bool),
            passes=search.passes,
            reread=search.reread,
            why=why,
        )

    def ids(self, answer: int) -> tuple[int, ...]:
        """The tokens of an answer, with its end token."""
        path, token = self.path(int(self.node[answer])), int(self.token[answer])
        return path if token < 0 else (*path, token)

    def path(self, node: int) -> tuple[int, ...]:
        """The tokens of a node."""
        tokens = []
        while node > 0:
            tokens.append(self.nodes[node].token)
            node = self.nodes[node].parent
        return tuple(reversed(tokens))

    def taken(self, node: int) -> list[int]:
        """The children of a node that were expanded, or are whole answers."""
        tokens = [one.token for one in self.nodes if one.parent == node]
        return [*tokens, *(token for token in self.token[self.node == node].tolist() if token >= 0)]

    def weigh(self, distribution: Distribution) -> Weighed:
        """What a distribution says of the answers; no pass of the model is made.

        A node's children that were neither expanded nor whole answers are what is left.
        """
        N, V = len(self.nodes), len(self.nodes[0].raw)
        own = np.zeros(N)  # log-probability of a node's last token
        mass = np.zeros(N)  # probability of a node's children that are left, given the node
        last = np.zeros(len(self.node))
        children, answers = self._grouped([one.parent for one in self.nodes]), self._grouped(self.node.tolist())
        size = max(1, _NUMBERS // V)
        for first in range(0, N, size):
            block = range(first, min(first + size, N))
            nodes = self.nodes[block.start : block.stop]
            logprobs = distribution(
                np.stack([one.raw for one in nodes]), [self.path(at) for at in block], Node.masks(nodes)
            )
            for row, at in zip(logprobs, block, strict=True):
                own[children.get(at, [])] = row[[self.nodes[child].token for child in children.get(at, [])]]
                some = [one for one in answers.get(at, []) if self.token[one] >= 0]
                last[some] = row[self.token[some]]
                taken = np.exp(row[[*(self.nodes[c].token for c in children.get(at, [])), *self.token[some].tolist()]])
                mass[at] = max(0.0, float(np.exp(row).sum() - taken.sum()))
        reach = np.zeros(N)
        for at in range(1, N):
            reach[at] = reach[self.nodes[at].parent] + own[at]
        left = np.exp(reach) * mass
        return Weighed(reach[self.node] + last, float(left.sum()), left)

    @staticmethod
    def _grouped(parents: Sequence[int]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for at, parent in enumerate(parents):
            found.setdefault(parent, []).append(at)
        return found
