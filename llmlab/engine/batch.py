"""Host-side state of a batch: which row is in which slot, and which width and cache length to use.

How the rows get their tokens is the subclasses' part: `ChunkedBatch` and `SteppedBatch`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from llmlab.engine.decode import CHUNK, Emitted
from llmlab.engine.live import Live, positions
from llmlab.engine.programs import Programs
from llmlab.engine.prompts import Prompts, Reading
from llmlab.engine.scheduler import Job, Row, bucket
from llmlab.engine.sharing import Sharing
from llmlab.engine.state import Slots, states_at
from llmlab.grammar.matcher import Matcher
from llmlab.sampling.orders import layout_of


class Place(NamedTuple):
    """How a row fits into a batch: the tokens that it shares, the cache's length, the bytes beside it, the widths."""

    shared: int
    length: int
    beside: int
    widths: tuple[int, ...]


class Batch:
    """The slots on the device and the rows in them.

    Args:
        programs: the compiled programs.
        prompts: prefills the rows' prompts.
        widths: the batch widths, ascending; a single one pins the width.
        lengths: the cache lengths, ascending; each is twice the one before.
        memory: bytes that the cache may take; None for no limit.
        ends: the token ids that end a row.

    Attributes:
        memory: as above; what uses the same memory may change it.
        spare: whether this batch refuses rows for which memory is too small. One that is not spare takes them one at a
            time: a row has to run somewhere.
    """

    def __init__(
        self,
        programs: Programs,
        prompts: Prompts,
        *,
        widths: tuple[int, ...],
        lengths: tuple[int, ...],
        memory: int | None,
        ends: tuple[int, ...],
    ):
        self.programs, self._bytes = programs, programs.cache_bytes
        self.prompts = prompts
        self.widths = widths
        self.lengths = lengths
        self.memory = memory
        self.ends = ends
        self.spare = False
        self.sharing = Sharing(programs, prompts, lengths=lengths, pinned=len(widths) == 1)
        self._slots: Slots | None = None
        self._live: list[Live | None] = []
        self._layout = "llmlab"  #: the order whose fields the slots have

    @property
    def live(self) -> list[Live]:
        """The rows that are being generated."""
        return [live for live in self._live if live is not None]

    def clear(self) -> None:
        """Drops every row and frees the device's memory."""
        self._slots, self._live = None, []
        self.sharing.drop()

    @property
    def claim(self) -> int:
        """The most bytes that the cache can need for the rows in it."""
        live = self.live
        if self._slots is None or not live:
            return 0
        length = max(self._slots.length, self._bucket(max(one.reserve for one in live)))
        caches = 1 if self._slots.negative is None else 2
        return caches * self._bytes(width=self._slots.width, length=length) + self.sharing.held_bytes

    def allowed_widths(self, length: int, *, caches: int = 1) -> tuple[int, ...]:
        """Returns the widths whose cache of `length` positions fits into memory, beside that of a row being read.

        The narrowest is always allowed, except in a `spare` batch. `caches` tells how many a row takes.
        """
        length = self._bucket(length)
        fits = self._widths(length, beside=caches * self._bytes(width=1, length=length), caches=caches)
        return fits or (() if self.spare else self.widths[:1])

    def _widths(self, length: int, *, beside: int, caches: int = 1) -> tuple[int, ...]:
        left = None if self.memory is None else self.memory - beside
        return tuple(w for w in self.widths if left is None or caches * self._bytes(width=w, length=length) <= left)

    def _place(self, *rows: Row) -> Place:
        """What the cache needs with these rows, all of their budgets included, which have the same given tokens.

        One with rows in it never gets shorter.
        """
        row, budget, live = rows[0], max(row.budget for row in rows), self.live
        held = self._slots.length if self._slots is not None and live else 0
        held = max([held, *(one.reserve for one in live)])
        used = any(one.shared for one in live)
        shared = self.sharing.count(row, used=used)
        while True:
            own = positions(row, shared=shared, more=budget)
            length = self._bucket(max(own, held))
            beside = self.sharing.bytes_beside(row, shared, length=length, used=used)
            widths = self._widths(length, beside=beside, caches=row.caches)
            if widths or not shared:
                return Place(shared, length, beside, widths or (() if self.spare else self.widths[:1]))
            shared = 0

    def shared_widths(self, length: int, *, prefix: int) -> tuple[int, ...]:
        """Returns the widths that fit into memory beside a shared prefix of `prefix` positions."""
        return self._widths(length, beside=self._bytes(width=1, length=prefix)) if self.sharing.on else ()

    def width_for(self, rows: int, *, length: int, caches: int = 1) -> int:
        """Returns the width in which so many rows of `length` positions are decoded, or the widest that is allowed."""
        widths = self.allowed_widths(length, caches=caches) or self.widths[:1]
        return next((width for width in widths if width >= rows), widths[-1])

    def has_room(self, row: Row) -> bool:
        """Whether the row can join without exceeding the memory, even if every row uses its whole budget."""
        live = len(self.live)
        return live < self.widths[-1] and live < max(self._place(row).widths, default=0)

    def room(self, rows: Sequence[Row]) -> int:
        """How many of rows that have the same given tokens can join together, where there is room for the first."""
        live = len(self.live)
        count = max(1, min(len(rows), self.widths[-1] - live))
        # Fewer rows may need a shorter cache, or share their prompt where more do not, so they are asked for again.
        while count > 1 and (room := max(self._place(*rows[:count]).widths, default=0) - live) < count:
            count = max(1, room)
        return count

    def claim_with(self, rows: Sequence[Row], *, coming: int) -> int:
        """What `claim` is once rows, the first of `coming` rows, are admitted; and the cache that they are read into.

        They have the same given tokens.
        """
        place = self._place(*rows)
        widest = place.widths[-1]
        width = next(w for w in self.widths if w >= min(len(self.live) + coming, widest))
        if self.live:
            width = max(width, min(self._held().width, widest))
        return rows[0].caches * self._bytes(width=width, length=place.length) + place.beside

    def begin(self, row: Row) -> Reading:
        """Begins to read a row's prompt, into a cache of the length that the batch has or needs for it."""
        if self._place(row).shared:
            return self.sharing.begin(row)
        held = self._slots.length if self._slots is not None and self.live else 0
        return self.prompts.begin(row, length=max(held, self._bucket(_begin(row, shared=0))))

    def admit(self, entrants: Sequence[tuple[Job, int]], *, reading: Reading, coming: int) -> None:
        """Puts rows that are alike, the first of `coming` rows, into slots; they are given as in `Scheduler.first`."""
        rows = [job.rows[index] for job, index in entrants]
        matchers = [self._matcher(row) for row in rows]
        row, order = rows[0], entrants[0][0].order
        shared, _, _, widths = self._place(*rows)
        widest = widths[-1]
        # The rows so far may have been short enough for a width that does not fit into memory with this longer row.
        self._narrow(widest)
        if not (shared and self.sharing.matches(row)):
            self._unshare()
        begin = _begin(row, shared=shared)
        self._make_room(wanted=min(len(self.live) + coming, widest), length=begin, order=order)
        slots = self._held()
        if shared:
            self.sharing.hold(reading)
            cache, negative = self.sharing.nothing(length=slots.length), None
        else:
            cache, negative = self.prompts.finish(reading, length=slots.length)
        free = [slot for slot, live in enumerate(self._live) if live is None][: len(rows)]
        assert len(free) == len(rows), "there is no room for these rows"
        self._slots = self.programs.admit(
            slots, cache, *rows, at=free, ends=self.ends, shared=shared, order=order, negative=negative
        )
        for slot, (job, index), matcher in zip(free, entrants, matchers, strict=True):
            self._live[slot] = Live(job, index, position=len(row.given) - 1, shared=shared, matcher=matcher)

    def release(self, job: Job, rows: set[int]) -> int:
        """Frees the slots of some of a job's rows and returns how many slots that were."""
        gone = [i for i, live in enumerate(self._live) if live and live.job is job and live.index in rows]
        self._free(gone)
        return len(gone)

    def narrow(self) -> None:
        """Moves the rows to the narrowest width that holds them, since the cost of a step depends on the width."""
        self._narrow(next(width for width in self.widths if width >= len(self.live)))

    def renew(self) -> None:
        """Reads the text of every row anew that the next step takes past `ModelConfig.context_switch`."""
        for slot, live in enumerate(self._live):
            if live is not None and live.made and self.programs.config.context_switch in live.places:
                row = replace(live.so_far, states=states_at(self._held().history, slot))
                self._lengthen(self._bucket(_begin(row, shared=0)))
                slots = self._held()
                cache, negative = self.prompts.read_all(row, length=slots.length)
                self._slots = self.programs.admit(
                    slots, cache, row, at=[slot], ends=self.ends, order=live.job.order, negative=negative
                )

    # --- shapes ----------------------------------------------------------------------------------------------------

    def _held(self) -> Slots:
        assert self._slots is not None, "the batch has no slots"
        return self._slots

    def _bucket(self, length: int) -> int:
        return bucket(self.sharing.lengths, length)

    def _make_room(self, *, wanted: int, length: int, order: str) -> None:
        """Makes the batch wide enough for `wanted` rows of `length` positions, which are sampled in an order."""
        width = next(w for w in self.widths if w >= wanted)
        length = self._bucket(length)
        shape = (width, length, layout_of(order))
        if not self.live and (self._slots is None or (self._slots.width, self._slots.length, self._layout) != shape):
            self._slots = None  # frees the old batch first
            self._slots = self.programs.empty(width=width, length=length, order=order)
            self._live, self._layout = [None] * width, layout_of(order)
        self._widen(width)
        self._lengthen(length)

    def _unshare(self) -> None:
        """Lets go of a prefix that no row uses any more."""
        if self.sharing.prefix is not None and not any(live.shared for live in self.live):
            self.sharing.drop()
            if self._slots is not None:
                self._slots = self.programs.unshare(self._slots)

    def _narrow(self, width: int) -> None:
        while self._slots is not None and self._slots.width > width:
            new = self.widths[self.widths.index(self._slots.width) - 1]
            taken = [slot for slot, live in enumerate(self._live) if live]
            index = np.array(taken + [0] * (new - len(taken)))
            self._slots = self.programs.resize(self._slots, index, np.arange(new) < len(taken))
            self._live = [self._live[slot] for slot in taken] + [None] * (new - len(taken))

    def _widen(self, width: int) -> None:
        while (now := self._held().width) < width:
            new = self.widths[self.widths.index(now) + 1]
            index = np.minimum(np.arange(new), now - 1)
            self._slots = self.programs.resize(self._held(), index, np.arange(new) < now)
            self._live += [None] * (new - now)

    def _lengthen(self, length: int) -> None:
        while (now := self._held().length) < length:
            slots = self._held()
            longer = partial(self.programs.lengthen, length=self._longer(now))
            negative = None if slots.negative is None else longer(slots.negative)
            self._slots = slots._replace(cache=longer(slots.cache), negative=negative)

    def _longer(self, length: int) -> int:
        return self.sharing.lengths[self.sharing.lengths.index(length) + 1]

    def _have_room(self, steps: int) -> None:
        self._unshare()
        furthest = max(live.filled for live in self.live)
        # No row needs more than its reserve, even if the chunk is longer than what is left of every row.
        self._lengthen(self._bucket(min(furthest + steps + 1, max(live.reserve for live in self.live))))

    def _until_switch(self) -> int:
        """The steps before the first row's text has to be read anew; more than anybody makes at once if none has."""
        switch = self.programs.config.context_switch
        ahead = (switch - at for live in self.live for at in live.places if switch and at < switch)
        return min(ahead, default=CHUNK + 1)

    def _shape(self) -> tuple[int, int, bool]:
        """What the time of a step depends on."""
        return self._held().width, self._held().length, self.sharing.prefix is not None

    # --- rows ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _matcher(row: Row) -> Matcher | None:
        """What follows the row's grammar, the tokens that count as generated included; None where it has none."""
        matcher = row.grammar.matcher() if row.grammar else None
        if matcher is not None:
            for token in row.made.tolist():
                matcher.advance(token)
        return matcher

    def _took(self, live: Live, tokens: np.ndarray) -> str | None:
        """Notes tokens that a row drew, and returns why it ended with the last of them; None where it goes on."""
        live.made += len(tokens)
        live.drawn.append(tokens)
        live.position += len(tokens)
        last = int(tokens[-1])
        if last in live.row.params.stop_token_ids or (last in self.ends and not live.row.ignore_ends):
            return "stop"
        return "length" if live.made >= live.row.budget else None

    def _not_numbers(self, out: Emitted) -> Bool[np.ndarray, " W"]:
        """The slots in which something was drawn from logits that are not numbers."""
        return (np.isnan(out.figures.entropy) & out.made).any(axis=0)

    def _free(self, slots: Collection[int]) -> None:
        """Frees slots, on the device and here."""
        if slots:
            keep = np.ones(len(self._live), bool)
            keep[list(slots)] = False
            self._slots = self.programs.release(self._held(), keep)
            for slot in slots:
                self._live[slot] = None


def _begin(row: Row, *, shared: int) -> int:
    """The positions that a row needs at admission: its given tokens that are not in the prefix, and one more."""
    return positions(row, shared=shared, more=1)
