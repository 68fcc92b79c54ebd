"""Best-first search for whole answers: the likeliest beginnings first, until little probability is left unexplored.

A node is a beginning of answers, and expanding it is one row of a pass of the model, which gives the distribution of
the next token. An answer is complete where it ends with an end token, with a text that ends it, or at the most tokens;
its probability is exact. What is not explored is known exactly too: the probabilities of the children that were not
expanded. So the probability of any event lies between that of the answers found in it and that plus the rest.

One search serves the distributions of several sampler settings: a node is expanded where any of them that has not
reached its mass yet gives it the most probability. Probabilities are added up in float64.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from llmlab.search.beginnings import Answering, Ended, Node
from llmlab.search.kept_rows import KeptRows, Plan

__all__ = ["BestFirst"]

#: How many children of a node are listed at first; the others are listed when they are wanted.
_LISTED = 64
#: The most log-probabilities that are evaluated at once.
_NUMBERS = 2**24
#: Complete answers at the most tokens that are listed at the end of a search, if they are as likely as this.
_LEAST = 1e-7
#: How far the scale of a distribution, in nats, may move before all beginnings are ordered anew.
_SCALE = 0.5
#: Rounding of sums of probabilities.
_ROUNDING = 1e-12


class _Beginning(NamedTuple):
    """A child that is to be expanded: its parent, its token, and the token's log-probabilities."""

    parent: int
    token: int
    logprobs: Float64[np.ndarray, " S"]


_ROOT = _Beginning(-1, -1, np.zeros(0))


class _Listed(NamedTuple):
    """What the distribution after a node says: the mass of its children, its ends, and its likely children."""

    mass: Float64[np.ndarray, " S"]
    ends: list[tuple[int, Float64[np.ndarray, " S"]]]
    children: _Children


@dataclass
class _Children:
    """The children of a node that are left, the most valuable first, and bounds of those that are not listed."""

    ids: Int64[np.ndarray, " C"]
    logprobs: Float64[np.ndarray, "S C"]
    values: Float64[np.ndarray, " C"]
    unlisted: Float64[np.ndarray, " S"]  #: the largest log-probability of those that are not listed
    listed: int  #: how many were listed
    taken: list[int] = field(default_factory=list)
    next: int = 0

    @property
    def best(self) -> float:
        """The value of the best child that is listed; -inf where there is none."""
        return float(self.values[self.next]) if self.next < len(self.ids) else -np.inf

    def take(self) -> tuple[int, Float64[np.ndarray, " S"]]:
        """The best child, which is then no longer there."""
        at, self.next = self.next, self.next + 1
        self.taken.append(int(self.ids[at]))
        return int(self.ids[at]), self.logprobs[:, at]


class BestFirst:
    """A search over the answers of a space. `run` goes on until every distribution has its mass, or a limit is reached.

    Args:
        space: the answers.
        mass: the probability that complete answers should have under every distribution; where the probabilities of one
            add up to less than 1, the share of what its answers have at most.
        rows: the most rows of a pass; 2 or more.
        driving: which of the distributions are to have the mass, the others being evaluated beside them; by default
            all.
        tell: is called after each pass with the least share of `mass` that a distribution has.

    Attributes:
        nodes: the nodes that were expanded.
        ended: the whole answers.
        logprobs: of each of them, its log-probability under every distribution [S].
        trace: of each pass, the probability found and that left, [S] each.
        passes: the passes of the model, the first token's included.
        reread: rows of passes that gave no new distribution: beginnings whose row had been given up.
    """

    def __init__(
        self,
        space: Answering,
        *,
        mass: float,
        rows: int,
        driving: Sequence[bool] | None = None,
        tell: Callable[[float], None] | None = None,
    ) -> None:
        self._space, self._mass, self._tell = space, mass, tell
        self._rows = KeptRows(rows)
        self.nodes: list[Node] = []
        self.ended: list[Ended] = []
        self.logprobs: list[Float64[np.ndarray, " S"]] = []
        self.trace: list[tuple[Float64[np.ndarray, " S"], Float64[np.ndarray, " S"]]] = []
        self.passes = 0
        self._reach: list[Float64[np.ndarray, " S"]] = []
        self._open: list[Float64[np.ndarray, " S"]] = []
        self._children: dict[int, _Children] = {}
        self._heap: list[tuple[float, int]] = []
        self._late: list[_Beginning] = []
        S = space.distributions
        self._driving = np.ones(S, bool) if driving is None else np.array(driving, bool)
        self.found, self.left = np.zeros(S), np.ones(S)
        self._active, self._scale = self._driving.copy(), np.zeros(S)

    @property
    def reread(self) -> int:
        """Rows of passes that gave no new distribution."""
        return self._rows.reread

    def path(self, node: int) -> tuple[int, ...]:
        """The tokens of a node."""
        tokens = []
        while node > 0:
            tokens.append(self.nodes[node].token)
            node = self.nodes[node].parent
        return tuple(reversed(tokens))

    def ids(self, answer: int) -> tuple[int, ...]:
        """The tokens of an answer."""
        node, token, *_ = self.ended[answer]
        return self.path(node) if token < 0 else (*self.path(node), token)

    @property
    def has_mass(self) -> Bool[np.ndarray, " S"]:
        """Which distributions have the mass that is wanted, or need not have it."""
        return np.asarray((self.left <= (1 - self._mass) * (self.found + self.left) + _ROUNDING) | ~self._driving)

    @property
    def left_after(self) -> Float64[np.ndarray, "N S"]:
        """The probability that is left, by the node that it follows."""
        return np.asarray(np.exp(np.stack(self._reach)) * np.stack(self._open))

    def run(self, *, max_passes: int, max_nodes: int) -> str:
        """Goes on until every distribution has its mass.

        It may be called again, with the space opened anew: then it goes on from what there is. An error or an interrupt
        leaves the search as it was before the pass.

        Returns:
            Why it ended: "mass"; "complete" where nothing is left to explore; "passes" or "rows" at a limit.
        """
        raw = self._space.start()
        self._rows.start()
        if not self.nodes:
            self._add([_ROOT], raw[None])
        while True:
            room = min(self._rows.most_new, max_nodes - len(self.nodes)) if self.passes < max_passes else 0
            self._choose(room)
            if self.has_mass.all():
                return self._end("mass")
            if self.passes >= max_passes or room < 1:
                return self._end("passes" if self.passes >= max_passes else "rows")
            if not self._late:
                return self._end("complete")
            self._pass(max_nodes - len(self.nodes))

    # --- what is expanded next ---------------------------------------------------------------------------------------

    def _choose(self, count: int) -> None:
        """Takes beginnings until `count` are to be expanded next; whole answers on the way are noted."""
        self._weigh_anew()
        while self._heap and len(self._late) < count and not self.has_mass.all():
            _, at = heapq.heappop(self._heap)
            if (children := self._ready(at)) is None:
                continue
            token, logprobs = children.take()
            self._push(at)
            path = (*self.path(at), token)
            if len(path) == self._space.max_tokens or self._space.is_complete(path):
                self._end_answer(at, token, logprobs, finish=None)
            else:
                self._late.append(_Beginning(at, token, logprobs))

    def _pass(self, room: int) -> None:
        """Expands beginnings. Where a parent has lost its row, a row is read again on the way, and the beginning waits.

        Rows that would be idle take further beginnings.
        """
        plan = self._plan(room)
        if spare := min(self._rows.count - len(plan.parents), room - len(plan.new), self._rows.count - 1):
            self._choose(min(len(self._late) + spare, self._rows.count - 1))
            plan = self._plan(room)
        self.trace[-1] = (self.found.copy(), self.left.copy())
        raw = self._space.advance(np.array(plan.parents, np.int64), np.array(plan.tokens, np.int64))
        new = [self._late[at] for at in plan.new]
        first = len(self.nodes)
        self._add(new, raw[: len(new)])
        self._rows.advance(plan, range(first, len(self.nodes)))
        now = set(plan.new)
        self._late = [one for at, one in enumerate(self._late) if at not in now]

    def _plan(self, room: int) -> Plan:
        later = [at for _, at in heapq.nsmallest(4 * self._rows.count, self._heap)]
        return self._rows.plan([(one.parent, one.token) for one in self._late[:room]], later, nodes=self.nodes)

    # --- nodes and answers -------------------------------------------------------------------------------------------

    def _add(self, new: Sequence[_Beginning], raw: Float32[np.ndarray, "K V"]) -> None:
        """The nodes of beginnings, with their logits. It ends a pass."""
        nodes, paths, reach, none = [], [], [], np.zeros(self._space.distributions)
        for logits, one in zip(raw, new, strict=True):
            paths.append((*self.path(one.parent), one.token) if one.parent >= 0 else ())
            reach.append(self._reach[one.parent] + one.logprobs if one.parent >= 0 else none)
            allowed = self._space.allowed(paths[-1])
            bits = None if allowed is None else np.packbits(allowed)
            nodes.append(Node(one.parent, one.token, len(paths[-1]), np.array(logits, np.float32), bits))
        listed = self._list(nodes, paths, reach, [[] for _ in nodes], count=_LISTED)
        # Nothing has changed so far, and little can go wrong from here on.
        self.passes += 1
        for node, own, found in zip(nodes, reach, listed, strict=True):
            at = len(self.nodes)
            self.nodes.append(node)
            self._reach.append(own)
            self._open.append(found.mass)
            self._children[at] = found.children
            for token, logprobs in found.ends:
                self._end_answer(at, token, logprobs, finish="stop")
            if node.allowed is not None and not node.allowed.any():
                self._end_answer(at, -1, none, finish="stop")
            self._push(at)
        for one in new:
            if one.parent >= 0:
                self._open[one.parent] = np.maximum(self._open[one.parent] - np.exp(one.logprobs), 0.0)
        self.left = self._sum_left()
        self.trace.append((self.found.copy(), self.left.copy()))
        if self._tell is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                shares = self.found / (self.found + self.left) / self._mass
            self._tell(float(min(1.0, np.nan_to_num(shares, nan=1.0)[self._driving].min())))

    def _list(
        self,
        nodes: Sequence[Node],
        paths: Sequence[tuple[int, ...]],
        reach: Sequence[Float64[np.ndarray, " S"]],
        taken: Sequence[list[int]],
        *,
        count: int,
    ) -> list[_Listed]:
        """Lists the `count` likeliest children of nodes besides those that were taken."""
        if not nodes:
            return []
        V, S = len(nodes[0].raw), self._space.distributions
        size, found = max(1, _NUMBERS // (S * V)), []
        for first in range(0, len(nodes), size):
            block = slice(first, first + size)
            raw, allowed = np.stack([node.raw for node in nodes[block]]), Node.masks(nodes[block])
            logprobs = np.stack([self._space.logprobs(which, raw, paths[block], allowed) for which in range(S)])
            found += [
                self._list_one(logprobs[:, k], own, old, count=count)
                for k, (own, old) in enumerate(zip(reach[block], taken[block], strict=True))
            ]
        return found

    def _list_one(
        self, logprobs: Float64[np.ndarray, "S V"], reach: Float64[np.ndarray, " S"], taken: list[int], *, count: int
    ) -> _Listed:
        mass = np.exp(logprobs).sum(axis=1)
        ends = [(end, logprobs[:, end].copy()) for end in self._space.ends if (logprobs[:, end] > -np.inf).any()]
        taken = list(dict.fromkeys([*taken, *(end for end, _ in ends)]))
        logprobs[:, taken] = -np.inf
        values = self._value(reach, logprobs)
        ids = np.argpartition(-values, count - 1)[:count] if count < len(values) else np.arange(len(values))
        ids = ids[values[ids] > -np.inf]
        ids = ids[np.argsort(-values[ids], kind="stable")]
        own = logprobs[:, ids]
        logprobs[:, ids] = -np.inf
        return _Listed(mass, ends, _Children(ids, own, values[ids], logprobs.max(axis=1), count, taken))

    def _ready(self, at: int) -> _Children | None:
        """The children of a node whose best one is better than all others of the node; None where it is not yet known.

        Then more of them are listed, and the node is in the heap again; or there is none.
        """
        children = self._children[at]
        if float(self._value(self._reach[at], children.unlisted[:, None])[0]) > children.best:
            node, path = self.nodes[at], self.path(at)
            more = self._list([node], [path], [self._reach[at]], [children.taken], count=4 * children.listed)
            self._children[at] = more[0].children
            self._push(at)
            return None
        return children if children.best > -np.inf else None

    def _push(self, at: int) -> None:
        children = self._children[at]
        value = max(children.best, float(self._value(self._reach[at], children.unlisted[:, None])[0]))
        if value > -np.inf:
            heapq.heappush(self._heap, (-value, at))

    def _end_answer(self, at: int, token: int, logprobs: Float64[np.ndarray, " S"], *, finish: str | None) -> None:
        whole = self._reach[at] + logprobs
        if token >= 0:
            self._open[at] = np.maximum(self._open[at] - np.exp(logprobs), 0.0)
            self.left = np.maximum(self.left - np.exp(whole), 0.0)
        self.found = self.found + np.exp(whole)
        self.logprobs.append(whole)
        self.ended.append(Ended(at, token, finish, self.passes))

    def _sum_left(self) -> Float64[np.ndarray, " S"]:
        return np.asarray(self.left_after.sum(axis=0))

    def _end(self, why: str) -> str:
        """At a limit, notes the whole answers that are at hand without a pass."""
        if why in ("passes", "rows"):
            for at, children in self._children.items():
                if self.nodes[at].depth + 1 == self._space.max_tokens:
                    while children.best > np.log(_LEAST):
                        self._end_answer(at, *children.take(), finish=None)
            self._active = np.zeros_like(self._active)  # all are ordered anew before the next pass
        self.left = self._sum_left()
        self.trace[-1] = (self.found.copy(), self.left.copy())
        return why

    # --- what is best ------------------------------------------------------------------------------------------------

    def _value(
        self, reach: Float64[np.ndarray, " S"], logprobs: Float64[np.ndarray, "S C"]
    ) -> Float64[np.ndarray, " C"]:
        """The largest log-probability of each child under the distributions that lack mass, each on its own scale."""
        active = self._active
        found = ((reach[active] - self._scale[active])[:, None] + logprobs[active]).max(axis=0, initial=-np.inf)
        return np.asarray(found)

    def _weigh_anew(self) -> None:
        """Orders all children again, where other distributions lack mass than before or have another scale."""
        active = ~self.has_mass
        with np.errstate(divide="ignore"):
            scale = np.log(self.found + self.left)
        scale = np.where(np.isfinite(scale), scale, 0.0)
        same = (active == self._active).all() and np.abs(scale - self._scale)[active].max(initial=0.0) < _SCALE
        if same or not active.any():
            return
        self._active, self._scale, self._heap = active, scale, []
        for at, children in self._children.items():
            rest = slice(children.next, None)
            values = self._value(self._reach[at], children.logprobs[:, rest])
            order = np.argsort(-values, kind="stable")
            children.ids, children.logprobs = children.ids[rest][order], children.logprobs[:, rest][:, order]
            children.values, children.next = values[order], 0
            self._push(at)
