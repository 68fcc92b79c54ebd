"""Compiled grammars, and the position of a batch row in one: which tokens may come next, as packed bit masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, UInt32

from llmlab.grammar.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher

__all__ = ["Grammar", "Matcher", "fill_masks"]


class Grammar:
    """A compiled grammar. Any number of batch rows may follow it, each with its own matcher.

    Args:
        vocabulary: the tokens over which masks are computed.
        source: the grammar in llguidance's dialect of Lark.
        others: further grammars that it refers to, by the name that follows the sign "@".

    Raises:
        GrammarError: the grammar does not compile.
    """

    def __init__(self, vocabulary: Vocabulary, source: str, *, others: Mapping[str, str] | None = None) -> None:
        self.vocabulary = vocabulary
        self.source = source
        self._start = vocabulary.compiled(source, others)

    def matcher(self) -> Matcher:
        """A new matcher at the start of the grammar."""
        return Matcher(self.vocabulary, self._start.deep_copy())

    def allowed(self, tokens: Sequence[int]) -> Bool[np.ndarray, " V"]:
        """Which of the V tokens may come after `tokens`; all false if `tokens` themselves violate the grammar."""
        matcher = self.matcher()
        for token in tokens:
            matcher.advance(token)
        mask = np.zeros((1, self.vocabulary.words), np.uint32)
        fill_masks([matcher], mask)
        bits = np.unpackbits(mask.view(np.uint8), axis=1, bitorder="little")[0, : self.vocabulary.size]
        return bits.astype(bool) if matcher.error is None else np.zeros(self.vocabulary.size, bool)


class Matcher:
    """The position of one batch row in its grammar.

    Args:
        vocabulary: the grammar's vocabulary.
        state: llguidance's matcher, which this object owns and advances.
    """

    #: Whether `fill_masks` computes the masks of many matchers of this kind at once; else each fills its own.
    parallel = True

    def __init__(self, vocabulary: Vocabulary, state: LLMatcher) -> None:
        self.vocabulary = vocabulary
        self.state = state

    def advance(self, token: int) -> None:
        """Consume a token. A token that the mask does not allow sets `error` for good."""
        self.state.consume_token(self.vocabulary.canonical(token))

    def fill(self, mask: UInt32[np.ndarray, " W"]) -> None:
        """Write the tokens that are allowed next into a packed mask."""
        fill_masks([self], mask[None, :])

    @property
    def complete(self) -> bool:
        """Whether the tokens so far are complete under the grammar, so that the row may end here."""
        return bool(self.state.is_accepting())

    @property
    def error(self) -> str | None:
        """Why this matcher cannot continue; None as long as it can."""
        return self.state.get_error().strip().splitlines()[0] if self.state.is_error() else None


def fill_masks(matchers: Sequence[Matcher], masks: UInt32[np.ndarray, "B W"]) -> None:
    """Write the tokens that each matcher allows next into one row of packed masks, in place.

    All rows are computed at once, on llguidance's own threads. The row of a matcher with an error is undefined.

    Args:
        matchers: the matchers, all of one vocabulary. Matcher i writes row i.
        masks: B >= len(matchers) rows of W = ceil(V / 32) words. Bit i % 32 of word i // 32 stands for token i.
    """
    for row, matcher in enumerate(matchers):
        if not matcher.parallel:
            matcher.fill(masks[row])
    rows_at = [row for row, matcher in enumerate(matchers) if matcher.parallel]
    if len(rows_at) < len(matchers):
        part = np.zeros((len(rows_at), masks.shape[1]), np.uint32)
        fill_masks([matchers[row] for row in rows_at], part)
        masks[rows_at] = part
        return
    if not matchers:
        return
    vocabulary = matchers[0].vocabulary
    # llguidance's masks may have one word more: if the model has no end token, its vocabulary gets one.
    words = -(-vocabulary.view().vocab_size // 32)
    buffer = (
        masks if words == masks.shape[1] and masks.flags.c_contiguous else np.zeros((len(matchers), words), np.uint32)
    )
    if len(matchers) == 1:
        matchers[0].state.unsafe_compute_mask_ptr(buffer.ctypes.data, words * 4)
    else:
        work = [(matcher.state, row) for row, matcher in enumerate(matchers)]
        _executor().unsafe_compute_mask_ptr(work, buffer.ctypes.data, words * 4, len(buffer))
    if buffer is not masks:
        masks[: len(matchers)] = buffer[:, : masks.shape[1]]
    rows = masks[: len(matchers)]
    if vocabulary.size % 32:
        rows[:, -1] &= np.uint32((1 << (vocabulary.size % 32)) - 1)
    # If no token is possible, llguidance allows the end token even though the text is not complete.
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
