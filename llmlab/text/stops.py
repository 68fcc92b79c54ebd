"""Finds stop sequences in text that arrives in pieces, however a stop is divided among them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["StopMatcher", "StopResult"]


class StopResult(NamedTuple):
    """The result of feeding one piece of text.

    Attributes:
        text: the text that is released: it cannot become part of a stop that must be cut off.
        done: whether a stop has been reached, with this piece or before.
    """

    text: str
    done: bool


class StopMatcher:
    """Finds the stop sequence that is completed first in a growing text.

    The stop that ends earliest wins, because generation could have ended there first. If the released text must not
    include the stop, it is cut off; of two stops that end at the same place, the longer one is cut off.

    Args:
        stops: the stop sequences, none of them empty; there may be none.
        include: whether the released text includes the stop. If so, no text is ever held back. If not, text that may
            become a stop is held back until this is decided.

    Attributes:
        armed: while False, a stop that is completed does not count (see `min_tokens`).
        matched: the stop that was reached; None before.
        end: the number of characters up to and including that stop; 0 before.
        emitted: the number of characters released so far.

    Raises:
        ValueError: a stop is empty.
    """

    def __init__(self, stops: Iterable[str], *, include: bool = True) -> None:
        self._stops = tuple(dict.fromkeys(stops))
        if not all(self._stops):
            raise ValueError("a stop sequence must not be empty")
        self._include = include
        # The number of past characters in which a stop can begin, and those characters.
        self._window = max(map(len, self._stops), default=1) - 1
        self._tail = ""
        self._held = 0  # the number of characters at the end of the tail that are not released
        self._seen = 0  # the number of characters fed so far
        self.armed: bool = True
        self.matched: str | None = None
        self.end: int = 0
        self.emitted: int = 0

    def feed(self, text: str) -> StopResult:
        """Feed the next piece of text. After a stop has been reached, no more text is released."""
        if self.matched is not None:
            return StopResult("", True)
        if not self._stops:
            return self._release(text, False)
        seen = self._tail + text
        fresh = len(self._tail) - self._held  # where the text begins that is not released yet
        found = []
        for stop in self._stops if self.armed else ():
            # A stop that ends in the tail was completed while the matcher was not armed.
            at = seen.find(stop, max(0, len(self._tail) - len(stop) + 1))
            if at >= 0:
                found.append((at + len(stop), at, stop))
        if found:
            end, start, self.matched = min(found)
            self.end = self._seen - len(self._tail) + end
            self._tail, self._held = "", 0
            # The stop does not begin in text that was released: that text would have been held back.
            return self._release(seen[fresh : end if self._include else start], True)
        self._seen += len(text)
        self._held = 0 if self._include else self._undecided(seen)
        out = seen[fresh : len(seen) - self._held]
        self._tail = seen[max(0, len(seen) - self._window) :] if self._window else ""
        return self._release(out, False)

    def flush(self) -> str:
        """Release the text that was held back; call it at the end of the text."""
        out = self._tail[len(self._tail) - self._held :]
        self._held = 0
        return self._release(out, False).text

    def _release(self, text: str, done: bool) -> StopResult:
        self.emitted += len(text)
        return StopResult(text, done)

    def _undecided(self, seen: str) -> int:
        """The length of the longest suffix of the text that is a proper beginning of a stop."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(seen)), longest, -1):
                if seen.endswith(stop[:size]):
                    longest = size
                    break
        return longest
