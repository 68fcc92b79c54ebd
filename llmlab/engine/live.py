"""The host's record of a row that is being generated, and what a step gives it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import jax
import numpy as np

from llmlab.engine.scheduler import SHORTEST, Job, Piece, Row
from llmlab.errors import EngineError
from llmlab.grammar.matcher import Matcher
from llmlab.sampling.logprobs import TokenStatistics, unknown


@dataclass(eq=False)
class Live:
    """The host's record of a row in a slot."""

    job: Job
    index: int
    position: int
    shared: int = 0  #: how many of the first tokens the batch's prefix holds
    made: int = 0
    drawn: list[np.ndarray] = field(default_factory=list)
    matcher: Matcher | None = None

    @property
    def row(self) -> Row:
        """The submitted row."""
        return self.job.rows[self.index]

    @property
    def places(self) -> tuple[int, ...]:
        """The positions of its last token: after its prompt and, where it has one, after its negative prompt."""
        return (self.position,) if self.row.negative is None else (self.position, self.position + self.row.ahead)

    @property
    def filled(self) -> int:
        """The positions of the batch's cache before its last token, in the fuller one of its caches."""
        return max(self.places) - self.shared

    @property
    def tokens(self) -> int:
        """The number of tokens that count as generated."""
        return len(self.row.made) + self.made

    @property
    def so_far(self) -> Row:
        """The row from which what is left of it could be generated."""
        made = np.concatenate([self.row.made, *self.drawn]).astype(np.int32)
        return replace(self.row, made=made, budget=self.row.budget - self.made)

    def statistics(self, figures: TokenStatistics, *, slot: int, count: int) -> TokenStatistics:
        """The row's part [count, ...] of a chunk's statistics [T, W, ...]; unknown ones where nobody asked for them."""
        if not self.row.params.statistics:
            return unknown(count)
        own: TokenStatistics = jax.tree.map(lambda x: x[:count, slot], figures)
        return own

    @cached_property
    def reserve(self) -> int:
        """The most positions of the batch's cache that the row can need."""
        return positions(self.row, shared=self.shared, more=self.row.budget)


def positions(row: Row, *, shared: int, more: int) -> int:
    """The positions of a batch's cache that a row needs for `more` tokens after the given ones.

    `shared` tells how many of its first tokens are in the batch's prefix. A row that shares nothing needs a cache of a
    length that batches without a prefix have too, and one position for the last token, which is drawn and never fed.
    """
    own = len(row.given) + max(row.ahead, 0) + more - shared
    return own - 1 if shared else max(own, SHORTEST)


#: The result of a step or chunk for one row: its new tokens, or the error that ends it (other rows go on).
Outcome: TypeAlias = Piece | EngineError
