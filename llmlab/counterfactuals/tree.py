"""Trees of likely continuations: the most likely tokens after each beginning of an answer, level by level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmlab.counterfactuals.answered import Answered, logits_backend
from llmlab.counterfactuals.branch import tokens_before
from llmlab.counterfactuals.rerun import changed_request
from llmlab.display.html import fragment
from llmlab.display.progress import progress_bar
from llmlab.errors import RequestError
from llmlab.frames.schema import build
from llmlab.protocol.arguments import whole
from llmlab.protocol.backend import Backend, Candidates
from llmlab.protocol.completion import Choice
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Node", "Tree", "tree"]

TREE_COLUMNS: dict[str, str] = {
    "node": "index",
    "parent": "index",
    "depth": "index",
    "position": "index",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "text": "text",
    "logprob": "number",
    "sampling_logprob": "number",
    "path_logprob": "number",
    "path_sampling_logprob": "number",
    "rank": "index",
    "taken": "flag",
    "end": "flag",
}
#: The largest tree: more steps of the model than this are taken for a mistake.
_MOST = 4096
#: How many leaves a tree as text shows.
_SHOWN = 20


class Node(NamedTuple):
    """One token of a tree. Natural logs; `path_*` are sums over the tokens from the root to this one."""

    parent: int  #: the node before it, -1 at the first level
    depth: int  #: from 1
    token_id: int
    rank: int  #: from 1, by raw probability among the tokens that could come here
    logprob: float
    sampling_logprob: float
    path_logprob: float
    path_sampling_logprob: float
    taken: bool  #: whether the result's own choice has this path
    end: bool  #: an end token, which nothing follows


class Tree:
    """Likely continuations of a choice from a position on; `result.tree()` returns one.

    Attributes:
        nodes: the tokens, parents before their children.
        position: the position of the first level in the completion.
        context: the text just before the first level.
    """

    def __init__(
        self,
        nodes: tuple[Node, ...],
        *,
        position: int,
        context: str,
        names: TokenNames,
    ) -> None:
        self.nodes = nodes
        self.position = position
        self.context = context
        self._names = names

    def frame(self) -> pd.DataFrame:
        """One row per node, parents before their children.

        Columns: node, parent (-1 at the first level), depth (from 1), position (in the completion), token, token_id,
        bytes, text (of the path from the root to this node), logprob (raw), sampling_logprob, path_logprob and
        path_sampling_logprob (of the whole path), rank (from 1, by raw probability), taken (whether the result's own
        choice has this path), end (whether it is an end token).
        """
        ids = [node.token_id for node in self.nodes]
        columns: dict[str, object] = {
            name: [getattr(node, name) for node in self.nodes] for name in Node._fields if name not in ("token_id",)
        }
        columns |= {
            "node": range(len(ids)),
            "position": [self.position + node.depth - 1 for node in self.nodes],
            **self._names.columns(ids),
            "text": [self.text(at) for at in range(len(ids))],
        }
        return build(columns, TREE_COLUMNS)

    def plot(self, *, leaves: int = 30, ax: Axes | None = None) -> Axes:
        """Plots the tree from left to right; see `llmlab.plots.counterfactual.plot_tree`.

        Args:
            leaves: the number of leaves to draw, the most probable paths first.
            ax: where to draw; by default a new figure.
        """
        from llmlab.plots.counterfactual import plot_tree

        return plot_tree(self.frame(), leaves=leaves, ax=ax)

    def text(self, node: int) -> str:
        """The text of the path from the root to a node."""
        return b"".join(self._names.bytes_of(self.nodes[at].token_id) or b"" for at in self.path(node)).decode(
            "utf-8", "replace"
        )

    def path(self, node: int) -> list[int]:
        """The nodes from the first level to this one, as indices of `nodes`."""
        found: list[int] = []
        while node >= 0:
            found.append(node)
            node = self.nodes[node].parent
        return found[::-1]

    def children(self, node: int) -> list[int]:
        """The nodes that follow a node, most likely first; those of the first level follow -1, the root."""
        return [at for at, one in enumerate(self.nodes) if one.parent == node]

    def most_likely(self, leaves: int) -> tuple[set[int], int]:
        """The nodes on the paths to the most probable leaves (raw), and the number of nodes that are left out."""
        inner = {node.parent for node in self.nodes}
        ends = [at for at in range(len(self)) if at not in inner]
        ends.sort(key=lambda at: -self.nodes[at].path_logprob)
        shown = {at for end in ends[: max(leaves, 1)] for at in self.path(end)}
        return shown, len(self) - len(shown)

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        lines = [f"Tree from position {self.position}, after {self.context!r}: raw probability, sampling probability"]
        shown, hidden = self.most_likely(_SHOWN)
        lines += self._lines(-1, "", shown)
        if hidden:
            lines.append(f"… and {hidden:,} less likely tokens: frame() has them")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return str(fragment('<pre style="line-height:1.35">{}</pre>', repr(self)))

    def _lines(self, node: int, margin: str, shown: set[int]) -> list[str]:
        found: list[str] = []
        children = [at for at in self.children(node) if at in shown]
        for at in children:
            one, last = self.nodes[at], at == children[-1]
            name = self._names.label(one.token_id, limit=24)
            taken = "  ← taken" if one.taken else ""
            found.append(
                f"{margin}{'└' if last else '├'}─ {name}  {_p(one.logprob)}, {_p(one.sampling_logprob)}{taken}"
            )
            found += self._lines(at, f"{margin}{' ' if last else '│'}  ", shown)
        return found


def _p(logprob: float) -> str:
    value = math.exp(logprob)
    return "0" if value == 0 else f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"


def tree(
    done: Answered,
    backend: Backend,
    choice: Choice,
    *,
    depth: int,
    width: int,
    position: int,
    order: str | None,
    changes: Mapping[str, Any],
) -> Tree:
    """Asks the model for a tree of continuations, one batch per level; see `Result.tree`."""
    depth, width = whole("depth", depth, least=1), whole("width", width, least=1, most=20)
    _check_size(depth, width)
    model = logits_backend(backend)
    request = changed_request(done, changes)
    before = tokens_before(choice, position)
    own = choice.tokens.ids[len(before) :].tolist()
    ends = (*(() if request.ignore_eos else model.end_ids), *(request.stop_token_ids or ()))
    nodes: list[Node] = []
    level: list[tuple[int, list[int]]] = [(-1, [])]  # the nodes to continue, and the tokens up to them
    with progress_bar(total=depth, unit="level", description="tree") as bar:
        for deep in range(1, depth + 1):
            made = [np.concatenate([before, np.array(path, np.int32)]).astype(np.int32) for _, path in level]
            candidates = model.next_candidates(request, made, order=done.order if order is None else order)
            following: list[tuple[int, list[int]]] = []
            for (parent, path), found in zip(level, candidates, strict=True):
                if found is None:  # nothing can follow
                    continue
                for rank in range(min(width, len(found.ids))):
                    node = _node(nodes, parent, deep, rank, found, path, own=own, ends=ends)
                    nodes.append(node)
                    if not node.end:
                        following.append((len(nodes) - 1, [*path, node.token_id]))
            level = following
            bar.update()
    shown = b"".join(raw or b"" for raw in choice.tokens.bytes[max(0, len(before) - 6) : len(before)])
    return Tree(
        tuple(nodes),
        position=len(before),
        context=shown.decode("utf-8", "replace"),
        names=TokenNames(model.token_bytes, done.control_tokens),
    )


def _node(
    nodes: list[Node],
    parent: int,
    deep: int,
    rank: int,
    found: Candidates,
    path: list[int],
    *,
    own: list[int],
    ends: tuple[int, ...],
) -> Node:
    """The candidate of a rank as a node after `parent`; `path` holds the token ids up to it."""
    token = int(found.ids[rank])
    logprob, sampling = float(found.logprob[rank]), float(found.sampling_logprob[rank])
    before = nodes[parent] if parent >= 0 else None
    return Node(
        parent=parent,
        depth=deep,
        token_id=token,
        rank=rank + 1,
        logprob=logprob,
        sampling_logprob=sampling,
        path_logprob=logprob + (before.path_logprob if before else 0.0),
        path_sampling_logprob=sampling + (before.path_sampling_logprob if before else 0.0),
        taken=own[:deep] == [*path, token],
        end=token in ends,
    )


def _check_size(depth: int, width: int) -> None:
    steps = sum(width**deep for deep in range(min(depth, _MOST + 1)))
    if steps > _MOST:
        raise RequestError(
            f"depth {depth} and width {width} make more than {_MOST:,} steps of the model: make the tree smaller",
            param="depth",
        )
