"""How likely answers are to begin with some text: what is unexplored counts too, where its beginning decides that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llmlab.search.beginnings import Node
from llmlab.search.divergence import Bounds
from llmlab.search.explored import Distribution, Explored, Weighed

__all__ = ["begins"]

#: Where a beginning leaves it open, its next tokens are looked at, the most likely first: until no more than this
#: probability is left, or so many.
_REST, _LOOKED_AT = 1e-3, 8192
#: The least probability of a beginning whose next tokens are looked at.
_LEAST = 1e-6


def begins(
    explored: Explored,
    weighed: Weighed,
    texts: Sequence[str],
    *,
    distribution: Distribution,
    write: Callable[..., str],
    held: int,
) -> Bounds:
    """Returns bounds of the probability that an answer's text begins with one of some texts.

    Args:
        explored: what a search has found.
        weighed: what a distribution says of it.
        texts: the texts, none of them empty.
        distribution: the distribution.
        write: the text of a beginning's tokens.
        held: how many of the last characters of a beginning may yet be taken away, by a stop sequence.
    """
    inside = np.array([text.startswith(tuple(texts)) for text in explored.text], bool)
    low, open_ = float(weighed.probability[inside].sum()), 0.0
    undecided = []
    for at, left in enumerate(weighed.node_left.tolist()):
        decided = _decided(explored.node_text[at], texts, held=held)
        if decided is None and left > _LEAST:
            undecided.append(at)
        elif decided is None:
            open_ += left
        elif decided:
            low += left
    for at in undecided:
        node, path = explored.nodes[at], explored.path(at)
        logprobs = distribution(node.raw[None], [path], Node.masks([node]))[0]
        logprobs[explored.taken(at)] = -np.inf
        p = np.exp(logprobs)
        shares = p / p.sum() * weighed.node_left[at] if p.sum() > 0 else p
        likely = np.argsort(-shares, kind="stable")
        likely = likely[: min(_LOOKED_AT, 1 + int(np.searchsorted(np.cumsum(shares[likely]), shares.sum() - _REST)))]
        open_ += float(shares.sum() - shares[likely].sum())
        for token in likely[shares[likely] > 0].tolist():
            decided = _decided(write((*path, token)), texts, held=held)
            if decided is None:
                open_ += float(shares[token])
            elif decided:
                low += float(shares[token])
    return Bounds(min(1.0, low), min(1.0, low + open_))


def _decided(text: str, texts: Sequence[str], *, held: int) -> bool | None:
    """Whether what begins with a text begins with one of some texts; None where that is open."""
    # A character of which only some bytes are there is no character yet.
    sure = text[: len(text) - held].rstrip("\ufffd")
    if sure.startswith(tuple(texts)):
        return True
    return None if any(one.startswith(sure) for one in texts) else False
