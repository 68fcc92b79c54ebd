"""A grammar at work on one row: which tokens may come next, and what came."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, UInt32

from llmlab.grammar.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher

__all__ = ["Grammar", "Matcher", "fill_masks"]


class Grammar:
    """A compiled grammar. Any number of rows may follow it, each with a matcher of its own.

    Args:
        vocabulary: the tokens.
        source: in llguidance's dialect of Lark.

    Raises:
        GrammarError: it does not compile.
    """

    def __init__(self, vocabulary: Vocabulary, source: str) -> None:
        self.vocabulary = vocabulary
        self.source = source
        self._start = vocabulary.compiled(source)

    def matcher(self) -> Matcher:
        """At the grammar's start."""
        return Matcher(self.vocabulary, self._start.deep_copy())

    def allowed(self, tokens: Sequence[int]) -> Bool[np.ndarray, " V"]:
        """Which tokens may follow these; all false where they do not follow the grammar."""
        matcher = self.matcher()
        for token in tokens:
            matcher.advance(token)
        mask = np.zeros((1, self.vocabulary.words), np.uint32)
        fill_masks([matcher], mask)
        bits = np.unpackbits(mask.view(np.uint8), axis=1, bitorder="little")[0, : self.vocabulary.size]
        return bits.astype(bool) if matcher.error is None else np.zeros(self.vocabulary.size, bool)


class Matcher:
    """Where one row is in its grammar."""

    def __init__(self, vocabulary: Vocabulary, state: LLMatcher) -> None:
        self.vocabulary = vocabulary
        self.state = state

    def advance(self, token: int) -> None:
        """Take a token. One that the mask did not allow is an error from then on."""
        self.state.consume_token(self.vocabulary.canonical(token))

    @property
    def complete(self) -> bool:
        """Whether what came so far is a whole: the row may end here."""
        return bool(self.state.is_accepting())

    @property
    def error(self) -> str | None:
        """Why this matcher can go no further; None while it can."""
        return self.state.get_error().strip().splitlines()[0] if self.state.is_error() else None


def fill_masks(matchers: Sequence[Matcher], masks: UInt32[np.ndarray, "B W"]) -> None:
    """Write what each matcher allows next into its row of packed masks: bit i % 32 of word i // 32 is token i.

    All rows at once, on llguidance's own threads. Of a matcher with an error the row is undefined.
    """
    if not matchers:
        return
    vocabulary = matchers[0].vocabulary
    # llguidance's masks may have a word more: its vocabulary holds an end where the model has none.
    words = -(-vocabulary.view().vocab_size // 32)
    room = (
        masks if words == masks.shape[1] and masks.flags.c_contiguous else np.zeros((len(matchers), words), np.uint32)
    )
    if len(matchers) == 1:
        matchers[0].state.unsafe_compute_mask_ptr(room.ctypes.data, words * 4)
    else:
        work = [(matcher.state, row) for row, matcher in enumerate(matchers)]
        _executor().unsafe_compute_mask_ptr(work, room.ctypes.data, words * 4, len(room))
    if room is not masks:
        masks[: len(matchers)] = room[:, : masks.shape[1]]
    rows = masks[: len(matchers)]
    if vocabulary.size % 32:
        rows[:, -1] &= np.uint32((1 << (vocabulary.size % 32)) - 1)
    # Where nothing can come, llguidance offers the end, whether or not what is there is a whole.
    for at in np.flatnonzero((rows & vocabulary.end_mask).any(axis=1)).tolist():
        if not matchers[at].complete:
            rows[at] &= ~vocabulary.end_mask
    copies, originals = vocabulary.alias_bits
    if len(copies):
        bits = (rows[:, originals // 32] >> (originals % 32).astype(np.uint32)) & np.uint32(1)
        where: Any = (slice(None), copies // 32)
        np.bitwise_or.at(rows, where, bits << (copies % 32).astype(np.uint32))


@cache
def _executor() -> LLExecutor:
    from llguidance import LLExecutor

    return LLExecutor()
