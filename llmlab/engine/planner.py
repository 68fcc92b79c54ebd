"""How long prompts are read before the rows that are being generated get their next tokens. Without any device."""

from __future__ import annotations

from collections.abc import Hashable

#: The seconds for which prompts are read at a time while no row is generated, and the most between two chunks.
READ_SECONDS = 0.1


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
