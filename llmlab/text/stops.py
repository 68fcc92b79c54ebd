"""Stop sequences, found in text as it comes, wherever the borders between its pieces fall."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Fed", "StopMatcher"]


class Fed(NamedTuple):
    """What one piece of text let out, and whether a stop has now been reached."""

    text: str
    done: bool


class StopMatcher:
    """Watches a growing text for the first stop sequence to be completed.

    The stop whose END comes earliest wins, for that is the first moment at which a generation could have ended. The
    returned text ends exactly there. Where it must not include the stop, the stop is cut off again, and of two stops
    that end at the same place the one that begins first is cut.

    Args:
        stops: the sequences, none of them empty; no stops at all is fine.
        include: whether the returned text includes the stop. If so nothing is ever held back; if not, what may yet
            become a stop is held back until it has or has not.
    """

    def __init__(self, stops: Iterable[str], *, include: bool = True) -> None:
        self._stops = tuple(dict.fromkeys(stops))
        if not all(self._stops):
            raise ValueError("a stop sequence must not be empty")
        self._include = include
        self._window = max(map(len, self._stops), default=1) - 1  # how much of the past a stop can still begin in
        self._tail = ""  # that past: seen and without a complete stop in it
        self._held = 0  # how many characters at the end of the tail have not been let out
        self._seen = 0  # how many characters have come
        self.armed: bool = True  #: while it is not, a stop that is completed does not count
        self.matched: str | None = None  #: the stop that was reached
        self.end: int = 0  #: how many characters there are up to and with it
        self.emitted: int = 0  #: characters let out so far

    def feed(self, text: str) -> Fed:
        """Take the next piece; after a stop has been reached, nothing more comes out."""
        if self.matched is not None:
            return Fed("", True)
        if not self._stops:
            return self._let(text, False)
        seen = self._tail + text
        fresh = len(self._tail) - self._held  # from here on nothing has been let out
        found = []
        for stop in self._stops if self.armed else ():
            # What ends in the past was let pass there.
            at = seen.find(stop, max(0, len(self._tail) - len(stop) + 1))
            if at >= 0:
                found.append((at + len(stop), at, stop))
        if found:
            end, start, self.matched = min(found)
            self.end = self._seen - len(self._tail) + end
            self._tail, self._held = "", 0
            # A stop that begins where text was already let out cannot be: that text would have been held back.
            return self._let(seen[fresh : end if self._include else start], True)
        self._seen += len(text)
        self._held = 0 if self._include else self._undecided(seen)
        out = seen[fresh : len(seen) - self._held]
        self._tail = seen[max(0, len(seen) - self._window) :] if self._window else ""
        return self._let(out, False)

    def flush(self) -> str:
        """The text ends here: what was held back turned out to be no stop."""
        out = self._tail[len(self._tail) - self._held :]
        self._held = 0
        return self._let(out, False).text

    def _let(self, text: str, done: bool) -> Fed:
        self.emitted += len(text)
        return Fed(text, done)

    def _undecided(self, seen: str) -> int:
        """The length of the longest end of the text with which some stop begins."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(seen)), longest, -1):
                if seen.endswith(stop[:size]):
                    longest = size
                    break
        return longest
