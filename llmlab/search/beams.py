"""Beam search, and diverse beam search over groups of beams.

The beams, what ends them and when the search stops are those of transformers' `generate(num_beams=)`, in float64.
Diverse beam search is that of Vijayakumar et al. 2016, "Diverse Beam Search", arXiv:1610.02424, with their Hamming
diversity.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64

from llmlab.search.space import Path, Space, largest

__all__ = ["Beam", "EarlyStopping", "beam_search"]

#: When a group of beams stops: True as soon as it has as many sequences as beams; False when its best unfinished beam,
#: if it ended now, would not be among them; "never" when it could not be, however long it got.
EarlyStopping: TypeAlias = bool | Literal["never"]


class Beam(NamedTuple):
    """A sequence that beam search found.

    Attributes:
        path: its tokens and their log-probabilities.
        score: (log-probability - penalties for tokens of other groups) / length ** length_penalty.
        finish_reason: "stop" after an end token, "length" at the most tokens.
        group: which group of beams found it, from 0.
    """

    path: Path
    score: float
    finish_reason: str
    group: int


class _Live(NamedTuple):
    """An unfinished beam: its path, its log-probability less penalties, and its number among the space's nodes."""

    path: Path
    total: float
    node: int


@dataclass
class _Group:
    """Some of the beams, which are searched as if there were no others, except that others' tokens cost more."""

    number: int
    size: int
    live: list[_Live]
    found: list[Beam] = field(default_factory=list)
    open: bool = True


def beam_search(
    space: Space,
    *,
    beams: int,
    groups: int = 1,
    diversity_penalty: float = 0.0,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    max_tokens: int,
    tell: Callable[[int], None] | None = None,
) -> list[Beam]:
    """Returns the sequences that were found, best score first: at most one for each beam.

    There are fewer where there are fewer sequences with a probability.

    Args:
        space: what to search.
        beams: the number of beams, of all groups together.
        groups: how many groups the beams are divided into. At each step the groups choose one after the other.
        diversity_penalty: what a token costs, in nats, for each beam of an earlier group that chose it at this step.
        length_penalty: the power of its length by which a sequence's log-probability is divided.
        early_stopping: when the search stops, see `EarlyStopping`.
        max_tokens: the most tokens of a sequence.
        tell: is called with the number of each step.
    """
    size = beams // groups
    every = [_Group(number, size, [_Live(Path(), 0.0, 0)]) for number in range(groups)]
    logprobs = space.start()[None]
    for length in range(1, max_tokens + 1):
        chosen = np.zeros(logprobs.shape[1], np.int64)
        for group in every:
            if group.open:
                penalties = diversity_penalty * chosen
                _step(group, logprobs, penalties, ends=space.ends, power=length_penalty, last=length == max_tokens)
                np.add.at(chosen, [one.path.tokens[-1] for one in group.live], 1)
                furthest = max_tokens if early_stopping == "never" and length_penalty > 0 else length
                group.open = _goes_on(group, early_stopping, scale=furthest**length_penalty)
        if tell is not None:
            tell(length)
        live = [one for group in every if group.open for one in group.live]
        if not live or length == max_tokens:
            break
        nodes, tokens = np.array([one.node for one in live]), np.array([one.path.tokens[-1] for one in live])
        logprobs = space.advance(nodes, tokens)
        left = iter(range(len(live)))
        for group in every:
            if group.open:
                group.live = [one._replace(node=next(left)) for one in group.live]
    return sorted((beam for group in every for beam in group.found), key=lambda beam: -beam.score)


def _step(
    group: _Group,
    logprobs: Float64[np.ndarray, "K V"],
    penalties: Float64[np.ndarray, " V"],
    *,
    ends: Collection[int],
    power: float,
    last: bool,
) -> None:
    """Gives each beam of a group one more token: keeps the best that go on, and notes those that end.

    Only what is among the best `size` continuations of all can be a result; what ends below them is lost, and does not
    take the place of a beam that goes on. After the last step the beams that went on tell what the group chose.
    """
    own = logprobs[[one.node for one in group.live]]
    totals = np.array([one.total for one in group.live])[:, None] + own - penalties
    # A row without any token is a text that is complete: it can neither go on nor end with a token.
    complete = [one for one, any_token in zip(group.live, np.isfinite(own).any(axis=1), strict=True) if not any_token]
    group.found += [_beam(one.path, one.total, "stop", group, power=power) for one in complete]
    best = largest(totals.reshape(-1), max(2, 1 + len(ends)) * group.size)
    width = totals.shape[1]
    going: list[_Live] = []
    ended: list[Beam] = []
    for place, at in enumerate(best):
        row, token = divmod(at, width)
        one, total = group.live[row], float(totals[row, token])
        path = one.path.then(token, own[row, token])
        if (last or token in ends) and place < group.size:
            ended.append(_beam(path, total, "stop" if token in ends else "length", group, power=power))
        if token not in ends and len(going) < group.size:
            going.append(_Live(path, total, one.node))
    group.live = going
    group.found = sorted([*group.found, *ended], key=lambda beam: -beam.score)[: group.size]


def _beam(path: Path, total: float, reason: str, group: _Group, *, power: float) -> Beam:
    return Beam(path, total / max(len(path.tokens), 1) ** power, reason, group.number)


def _goes_on(group: _Group, early_stopping: EarlyStopping, *, scale: float) -> bool:
    if not group.live:
        return False
    if len(group.found) < group.size:
        return True
    return early_stopping is not True and group.live[0].total / scale > group.found[-1].score
