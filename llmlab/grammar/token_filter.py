"""Answers that never contain some texts, or that consist of some tokens only: a constraint that needs no grammar."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import UInt32

from llmlab.grammar.matcher import Grammar, Matcher
from llmlab.grammar.vocabulary import Vocabulary

__all__ = ["TokenFilter"]


class TokenFilter(Grammar):
    """Allows a token unless it completes a forbidden text, alone or with the tokens before it.

    Text is compared as bytes, so that it does not matter how it is cut into tokens. A control token has no text, and
    separates what comes before it from what comes after.

    Args:
        vocabulary: the tokens over which masks are computed.
        bad_words: the texts that must not arise.
        allowed: the only tokens that may be drawn; None for all.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, bad_words: Sequence[str] = (), allowed: Collection[int] | None = None
    ) -> None:
        self.vocabulary = vocabulary
        self.words = tuple(word.encode() for word in bad_words)
        self.longest = max(map(len, self.words), default=1)
        free = np.ones(vocabulary.size, bool)
        if allowed is not None:
            free[:] = False
            free[list(allowed)] = True
        if self.words:
            holds = re.compile(b"|".join(map(re.escape, self.words)), re.DOTALL).search
            free[[token for token, data in enumerate(vocabulary.token_bytes) if data and holds(data)]] = False
        #: The tokens that may come after a control token, packed [W].
        self.start = packed(free)

    def matcher(self) -> Matcher:
        """A new matcher, before the first token."""
        return _FilterMatcher(self)

    def mask_after(self, tail: bytes) -> UInt32[np.ndarray, " W"]:
        """The tokens that may follow a text of which `tail` is the end, packed."""
        barred = [
            self.vocabulary.starting_with(word[size:])
            for word in self.words
            for size in range(1, len(word))
            if tail.endswith(word[:size])
        ]
        if not barred:
            return self.start
        bits = np.zeros(self.vocabulary.size, bool)
        bits[np.concatenate(barred)] = True
        return self.start & ~packed(bits)


class _FilterMatcher(Matcher):
    """The end of the text so far. It can always go on, and it may always end."""

    parallel = False

    def __init__(self, filter: TokenFilter) -> None:
        self.vocabulary = filter.vocabulary
        self._filter = filter
        self._tail = b""

    def advance(self, token: int) -> None:
        """Consume a token."""
        data = self.vocabulary.token_bytes[token]
        self._tail = (self._tail + data)[-self._filter.longest :] if data else b""

    def fill(self, mask: UInt32[np.ndarray, " W"]) -> None:
        """Write the tokens that are allowed next."""
        mask[:] = self._filter.mask_after(self._tail)

    @property
    def complete(self) -> bool:
        """True: the answer may end anywhere."""
        return True

    @property
    def error(self) -> None:
        """None: nothing can go wrong."""
        return None


def packed(bits: np.ndarray) -> UInt32[np.ndarray, " W"]:
    """Booleans [V] as a packed mask: bit i % 32 of word i // 32."""
    words = np.zeros(-(-len(bits) // 32) * 4, np.uint8)
    found = np.packbits(bits, bitorder="little")
    words[: len(found)] = found
    return words.view("<u4").astype(np.uint32)
