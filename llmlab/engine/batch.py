"""Host-side state of the batch: which row is in which slot, and which width and cache length to use.

Only `run` may be called on another thread than the driver's, one call at a time.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from llmlab.engine.constraint import ConstrainedRow, masks_of
from llmlab.engine.decode import CHUNK, Emitted
from llmlab.engine.live import Live, Outcome, positions
from llmlab.engine.programs import Programs
from llmlab.engine.prompts import Prompts, Reading
from llmlab.engine.scheduler import Job, Piece, Row, bucket
from llmlab.engine.sharing import Sharing
from llmlab.engine.soundness import grammar_failed, not_numbers
from llmlab.engine.state import Slots
from llmlab.grammar.matcher import Matcher

#: The seconds that a chunk should take: long enough to keep the device busy, short enough for streams and interrupts.
CHUNK_SECONDS = 0.1


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
        spare: whether this batch refuses rows for which memory is too small. The first batch, which is not spare, takes
            them one at a time.
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
        spare: bool = False,
    ):
        self.programs, self._bytes = programs, programs.cache_bytes
        self.prompts = prompts
        self.widths = widths
        self.lengths = lengths
        self.memory = memory
        self.ends = ends
        self.spare = spare
        self.sharing = Sharing(programs, prompts, lengths=lengths, pinned=len(widths) == 1)
        self._slots: Slots | None = None
        self._live: list[Live | None] = []
        self._pace: dict[tuple[int, int, bool], float] = {}

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
        if self._slots is None or not self.live:
            return 0
        length = max(self._slots.length, self._bucket(max(live.reserve for live in self.live)))
        return self._bytes(width=self._slots.width, length=length) + self.sharing.held_bytes

    def allowed_widths(self, length: int) -> tuple[int, ...]:
        """Returns the widths whose cache of `length` positions fits into memory, beside that of a row being read.

        The narrowest is always allowed, except in a `spare` batch: a row has to run somewhere.
        """
        length = self._bucket(length)
        fits = self._widths(length, beside=self._bytes(width=1, length=length))
        return fits or (() if self.spare else self.widths[:1])

    def _widths(self, length: int, *, beside: int) -> tuple[int, ...]:
        left = None if self.memory is None else self.memory - beside
        return tuple(w for w in self.widths if left is None or self._bytes(width=w, length=length) <= left)

    def _place(self, row: Row) -> Place:
        """What the cache needs with this row, all of its budget included; one with rows in it never gets shorter."""
        held = self._slots.length if self._slots is not None and self.live else 0
        used = any(live.shared for live in self.live)
        shared = self.sharing.count(row, used=used)
        while True:
            own = positions(row, shared=shared, more=row.budget)
            length = self._bucket(max([own, held, *(live.reserve for live in self.live)]))
            beside = self.sharing.bytes_beside(row, shared, length=length, used=used)
            widths = self._widths(length, beside=beside)
            if widths or not shared:
                return Place(shared, length, beside, widths or (() if self.spare else self.widths[:1]))
            shared = 0

    def shared_widths(self, length: int, *, prefix: int) -> tuple[int, ...]:
        """Returns the widths that fit into memory beside a shared prefix of `prefix` positions."""
        return self._widths(length, beside=self._bytes(width=1, length=prefix)) if self.sharing.on else ()

    def width_for(self, rows: int, *, length: int) -> int:
        """Returns the width in which so many rows of `length` positions are decoded, or the widest that is allowed."""
        widths = self.allowed_widths(length)
        return next((width for width in widths if width >= rows), widths[-1])

    def has_room(self, row: Row) -> bool:
        """Whether the row can join without exceeding the memory, even if every row uses its whole budget."""
        live = len(self.live)
        return live < self.widths[-1] and live < max(self._place(row).widths, default=0)

    def claim_with(self, row: Row, *, coming: int) -> int:
        """What `claim` is once the row, the first of `coming` rows, is admitted; and the cache that it is read into."""
        place = self._place(row)
        widest = place.widths[-1]
        width = next(w for w in self.widths if w >= min(len(self.live) + coming, widest))
        if self.live:
            width = max(width, min(self._held().width, widest))
        return self._bytes(width=width, length=place.length) + place.beside

    def begin(self, row: Row) -> Reading:
        """Begins to read a row's prompt, into a cache of the length that the batch has or needs for it."""
        if self._place(row).shared:
            return self.sharing.begin(row)
        held = self._slots.length if self._slots is not None and self.live else 0
        return self.prompts.begin(row, length=max(held, self._bucket(_begin(row, shared=0))))

    def admit(self, job: Job, index: int, *, reading: Reading, coming: int) -> None:
        """Puts a row, the first of `coming` rows, into a slot."""
        row = job.rows[index]
        shared, _, _, widths = self._place(row)
        widest = widths[-1]
        # The rows so far may have been short enough for a width that does not fit into memory with this longer row.
        self._narrow(widest)
        if not (shared and self.sharing.matches(row)):
            self._unshare()
        self._make_room(wanted=min(len(self.live) + coming, widest), length=_begin(row, shared=shared))
        slots = self._held()
        slot = self._live.index(None)
        if shared:
            self.sharing.hold(reading)
            cache = self.sharing.nothing(length=slots.length)
        else:
            cache = self.prompts.finish(reading, length=slots.length)
        fields = self.programs.row_fields(row, ends=self.ends, shared=shared)
        self._slots = self.programs.admit(slots, cache, fields, slot)
        matcher = row.grammar.matcher() if row.grammar else None
        if matcher is not None:
            for token in row.made.tolist():
                matcher.advance(token)
        self._live[slot] = Live(job, index, position=len(row.given) - 1, shared=shared, matcher=matcher)

    def release(self, job: Job, rows: set[int]) -> int:
        """Frees the slots of some of a job's rows and returns how many slots that were."""
        gone = [i for i, live in enumerate(self._live) if live and live.job is job and live.index in rows]
        if gone:
            keep = np.ones(len(self._live), bool)
            keep[gone] = False
            self._slots = self.programs.release(self._held(), keep)
            for slot in gone:
                self._live[slot] = None
        return len(gone)

    def narrow(self) -> None:
        """Moves the rows to the narrowest width that holds them, since the cost of a step depends on the width."""
        self._narrow(next(width for width in self.widths if width >= len(self.live)))

    @property
    def constrained(self) -> bool:
        """Whether some row has a grammar, so that a mask is needed before every token."""
        return any(live.matcher for live in self.live)

    def renew(self) -> None:
        """Reads the text of every row anew that the next step takes past `ModelConfig.context_switch`."""
        for slot, live in enumerate(self._live):
            if live is not None and live.made and live.position == self.programs.config.context_switch:
                row = live.so_far
                self._lengthen(self._bucket(_begin(row, shared=0)))
                slots = self._held()
                cache = self.prompts.read(row, length=slots.length)
                self._slots = self.programs.admit(slots, cache, self.programs.row_fields(row, ends=self.ends), slot)

    def run(self, *, order: str, most: int = CHUNK) -> list[tuple[Live, Outcome]]:
        """Runs up to `most` steps, or a single one where a row has a grammar, and returns what each row got.

        Rows that ended have left their slots.
        """
        if self.constrained:
            return self._step(order=order)
        steps = min(self._steps(), most, self._until_switch())
        self._have_room(steps)
        slots, self._slots = self._held(), None
        began = time.perf_counter()
        prefix = self.sharing.prefix
        self._slots, emitted, compiled = self.programs.chunk(slots, steps, order=order, prefix=prefix)
        out: Emitted = jax.device_get(emitted)
        if not compiled:
            key = self._shape()
            pace = (time.perf_counter() - began) / max(int(out.made.any(axis=1).sum()), 1)
            self._pace[key] = 0.5 * (self._pace.get(key, pace) + pace)
        return self._collect(out)

    def _step(self, *, order: str) -> list[tuple[Live, Outcome]]:
        """Runs one step: the model on the device, and at the same time the grammars' masks on the host."""
        self._have_room(1)
        slots, self._slots = self._held(), None
        slots, logits = self.programs.forward(slots, self.sharing.prefix)
        words = -(-self.programs.config.vocab_size // 32)
        masks = masks_of(self._grammars(), width=slots.width, words=words)
        gone = [*masks.ended, *masks.failed]
        if gone:
            slots = self.programs.release(slots, ~np.isin(np.arange(slots.width), gone))
        self._slots, emitted = self.programs.sample(slots, logits, masks.mask, masks.masked, order=order)
        out: Emitted = jax.device_get(emitted)
        found: list[tuple[Live, Outcome]] = []
        for slot in gone:
            live = self._live[slot]
            assert live is not None
            none: Any = jax.tree.map(lambda x, at=slot: x[:0, at], out.figures)
            stopped = Piece(live.index, np.zeros(0, np.int32), none, "stop")
            reason = masks.failed.get(slot)
            found.append((live, grammar_failed(reason) if reason else stopped))
            self._live[slot] = None
        return found + self._collect(out)

    def _grammars(self) -> list[ConstrainedRow]:
        return [
            ConstrainedRow(slot, live.matcher, self._barred(live, live.matcher))
            for slot, live in enumerate(self._live)
            if live and live.matcher
        ]

    def _barred(self, live: Live, matcher: Matcher) -> np.ndarray:
        """Packed bits of the end tokens that the row may not draw at its next step."""
        early, row = live.tokens < live.row.params.min_tokens, live.row
        barred = np.zeros(matcher.vocabulary.words, np.uint32)
        if early or row.ignore_ends:
            barred |= matcher.vocabulary.end_mask
        for token in row.params.stop_token_ids:
            bit = np.uint32(1 << token % 32)
            barred[token // 32] = barred[token // 32] | bit if early else barred[token // 32] & ~bit
        return barred

    # --- shapes ----------------------------------------------------------------------------------------------------

    def _held(self) -> Slots:
        assert self._slots is not None, "the batch has no slots"
        return self._slots

    def _bucket(self, length: int) -> int:
        return bucket(self.sharing.lengths, length)

    def _make_room(self, *, wanted: int, length: int) -> None:
        """Makes the batch wide enough for `wanted` rows of `length` positions."""
        width = next(w for w in self.widths if w >= wanted)
        length = self._bucket(length)
        if not self.live and (self._slots is None or (self._slots.width, self._slots.length) != (width, length)):
            self._slots = None  # frees the old batch first
            self._slots = self.programs.empty(width=width, length=length)
            self._live = [None] * width
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
            self._slots = slots._replace(cache=self.programs.lengthen(slots.cache, length=self._longer(now)))

    def _longer(self, length: int) -> int:
        return self.sharing.lengths[self.sharing.lengths.index(length) + 1]

    def _have_room(self, steps: int) -> None:
        self._unshare()
        furthest = max(live.position - live.shared for live in self.live)
        # No row needs more than its reserve, even if the chunk is longer than what is left of every row.
        self._lengthen(self._bucket(min(furthest + steps + 1, max(live.reserve for live in self.live))))

    def _until_switch(self) -> int:
        """The steps before the first row's text has to be read anew."""
        switch = self.programs.config.context_switch
        return min((switch - live.position for live in self.live if switch and live.position < switch), default=CHUNK)

    def _shape(self) -> tuple[int, int, bool]:
        """What the time of a step depends on."""
        return self._held().width, self._held().length, self.sharing.prefix is not None

    def _steps(self) -> int:
        pace = self._pace.get(self._shape())
        steps = 4 if pace is None else int(CHUNK_SECONDS / max(pace, 1e-6))
        return max(1, min(steps, CHUNK))

    # --- rows ------------------------------------------------------------------------------------------------------

    def _collect(self, out: Emitted) -> list[tuple[Live, Outcome]]:
        found: list[tuple[Live, Outcome]] = []
        sick = (np.isnan(out.figures.entropy) & out.made).any(axis=0)
        if sick.any():
            self._slots = self.programs.release(self._held(), ~sick)
        for slot, live in enumerate(self._live):
            count = int(out.made[:, slot].sum())
            if live is None or not count:
                continue
            if sick[slot]:
                found.append((live, not_numbers(self.programs.dtype)))
                self._live[slot] = None
                continue
            tokens = np.asarray(out.token)[:count, slot]
            figures: Any = jax.tree.map(lambda x, n=count, at=slot: x[:n, at], out.figures)
            live.made += count
            live.drawn.append(tokens)
            live.position += count
            finish = None
            last = int(tokens[-1])
            if last in live.row.params.stop_token_ids or (last in self.ends and not live.row.ignore_ends):
                finish = "stop"
            elif live.made >= live.row.budget:
                finish = "length"
            elif live.matcher:
                live.matcher.advance(last)
            found.append((live, Piece(live.index, tokens, figures, finish)))
            if finish:
                self._live[slot] = None
        return found


def _begin(row: Row, *, shared: int) -> int:
    """The positions that a row needs at admission: its given tokens that are not in the prefix, and one more."""
    return positions(row, shared=shared, more=1)
