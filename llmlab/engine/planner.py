"""Divides the device's time between prompts and decoding, and between rows with and without grammars."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

#: The seconds for which prompts are read at a time while no row is generated, and the most between two chunks.
READ_SECONDS = 0.1

#: The seconds that a chunk should take: long enough to keep the device busy, short enough for streams and interrupts.
CHUNK_SECONDS = 0.1


class Burst(NamedTuple):
    """How far rows with grammars may get beside a chunk: both are upper limits, except that one step is always made."""

    steps: int
    seconds: float


class Shares:
    """Divides a device that runs one program at a time between chunks of rows without grammars and bursts of steps.

    After each chunk the rows with grammars get as many steps as it had, so that all rows get their tokens at the same
    rate; but no more time than it took, so that slow steps (many masks of a large vocabulary) do not hold up the
    others. A step that takes longer is made up for: the rows with grammars wait until the chunks have had as much time.
    """

    def __init__(self) -> None:
        self._owed = 0.0

    def chunk_done(self, steps: int, seconds: float) -> Burst | None:
        """Returns what rows with grammars may have after a chunk of `steps` steps; None if it is not their turn."""
        self._owed = min(self._owed + seconds, seconds)
        return Burst(steps, self._owed) if self._owed > 0 else None

    def burst_done(self, seconds: float) -> None:
        """The steps of rows with grammars took that time."""
        self._owed -= seconds

    def alone(self) -> None:
        """One kind of rows has the device to itself; nothing that was before counts."""
        self._owed = 0.0


class Planner:
    """Divides the device's time between prompts, which are read piece by piece, and chunks of decoding.

    Between two chunks somebody else's prompt is read for as long as the last chunk took, so that a stream's tokens come
    half as often as without it; and at least one piece of it, so that everybody gets on. A client's own rows wait until
    its prompts are read: together they are done sooner.
    """

    def __init__(self) -> None:
        self._pace: dict[Hashable, float] = {}
        self._left = READ_SECONDS
        self._pieces = 0

    def chunk_done(self, seconds: float | None) -> None:
        """A chunk was decoded in that time, or (None) there was nothing to decode: prompts may be read again."""
        self._left = READ_SECONDS if seconds is None else min(seconds, READ_SECONDS)
        self._pieces = 0

    def may_read(self, shape: Hashable, *, others: bool) -> bool:
        """Whether to read a piece of this shape now, rather than to let those who wait go on first.

        Args:
            shape: all that the time of a piece depends on.
            others: whether somebody waits whose prompt this is not: rows that are being generated, or unread messages.
        """
        return not others or not self._pieces or self._pace.get(shape, READ_SECONDS) <= self._left

    def piece_done(self, shape: Hashable, seconds: float) -> None:
        """A piece of this shape was read in that time. The first time may hold a compilation."""
        self._pieces += 1
        self._left -= seconds
        known = self._pace.get(shape)
        self._pace[shape] = seconds if known is None else min(seconds, (known + seconds) / 2)
