"""Which rows of a search are kept for later: a pass of the model replaces all rows, and only those can be gone on from.

A row that is given up is read again when it is wanted, token by token, from the nearest one before it that is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmlab.search.beginnings import Node

__all__ = ["KeptRows", "Plan"]


@dataclass
class Plan:
    """The rows of a pass: first the new ones, then those that are read again, then those that are kept.

    Attributes:
        parents: of each row, the row that it goes on from.
        tokens: the token that it gets; -1 keeps a row.
        new: which of the wanted beginnings the new ones are.
        old: the nodes of the other rows.
    """

    parents: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    old: list[int] = field(default_factory=list)


class KeptRows:
    """The nodes that have a row of the model's cache. The root always has one.

    Args:
        count: how many rows there are, 2 or more.

    Attributes:
        reread: how many rows were read again.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.reread = 0
        self._row: dict[int, int] = {}

    @property
    def most_new(self) -> int:
        """The most beginnings to expand in a pass: the other rows keep what will be wanted next."""
        return max(1, self.count // 2)

    def start(self) -> None:
        """The root has the only row."""
        self._row = {0: 0}

    def plan(self, wanted: Sequence[tuple[int, int]], later: Sequence[int], *, nodes: Sequence[Node]) -> Plan:
        """The rows of the next pass.

        Args:
            wanted: the beginnings to expand: node and token, the best first.
            later: the nodes whose children will be wanted after them, the best first.
            nodes: all nodes, with their parents.
        """
        plan = Plan()
        again: dict[int, int] = {}
        for at, (node, token) in enumerate(wanted):
            held, step = self._held(node, nodes)
            if step < 0:
                plan.parents.append(self._row[node])
                plan.tokens.append(token)
                plan.new.append(at)
            else:
                again[step] = held
        # A row that was gone on from is kept only where its other children, or what follows them, are wanted.
        needed: dict[int, None] = {0: None}
        for held in again.values():
            needed[held] = None
        for node in later:
            needed[self._held(node, nodes)[0]] = None
        for node, held in list(again.items())[: self.count - 1 - len(plan.new)]:
            plan.parents.append(self._row[held])
            plan.tokens.append(nodes[node].token)
            plan.old.append(node)
        for held in list(needed)[: self.count - len(plan.parents)]:
            plan.parents.append(self._row[held])
            plan.tokens.append(-1)
            plan.old.append(held)
        return plan

    def advance(self, plan: Plan, numbers: Sequence[int]) -> None:
        """A pass has been made; the new nodes have these numbers."""
        self.reread += sum(token >= 0 for token in plan.tokens) - len(plan.new)
        self._row = {node: row for row, node in enumerate([*numbers, *plan.old])}

    def _held(self, node: int, nodes: Sequence[Node]) -> tuple[int, int]:
        """The nearest node with a row, from a node back; and the next after it on the way, -1 where it is the node."""
        step = -1
        while node not in self._row:
            step, node = node, nodes[node].parent
        return node, step
