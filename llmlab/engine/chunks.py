"""A batch of rows without grammars, decoded in chunks: one compiled program makes many steps on the device.

While the host reads what one chunk gave, the device may run the next: rows end on the device by themselves, with an end
token or their budget, so that nothing of a chunk's result is needed to launch the one after it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from llmlab.engine.batch import Batch
from llmlab.engine.decode import CHUNK, Emitted
from llmlab.engine.live import Live, Outcome
from llmlab.engine.scheduler import Job, Piece
from llmlab.engine.soundness import not_numbers
from llmlab.engine.state import Slots


class _Flight(NamedTuple):
    """A chunk that was launched: its steps, what it emits, and the rows that were there then with their slots.

    `most` is how many tokens it gives a row at most: the steps, or more where they are passes over guesses.
    """

    rows: Mapping[Live, int]
    steps: int
    most: int
    emitted: Emitted
    shape: tuple[int, int, bool]
    compiled: bool
    launched: float

    def within(self, live: Live) -> int:
        """The most tokens of a row that are on their way."""
        return self.most if live in self.rows else 0


class ChunkedBatch(Batch):
    """A batch of rows without grammars. Only `run` may be called on another thread than the driver's, one at a time."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._pace: dict[tuple[int, int, bool], float] = {}
        self._flight: _Flight | None = None
        self._fetched = 0.0

    def clear(self) -> None:
        """Drops every row and frees the device's memory."""
        super().clear()
        self._flight = None

    @property
    def in_flight(self) -> bool:
        """Whether a chunk was launched whose tokens have not been read."""
        return self._flight is not None

    def release(self, job: Job, rows: set[int]) -> int:
        """Frees the slots of some of a job's rows and returns how many slots that were."""
        count = super().release(job, rows)
        if not self.live:
            self._flight = None
        return count

    def steps(self, seconds: float) -> int:
        """The steps of the next `run`, of which is known that they take so many seconds; a chunk's at most."""
        return self._flight.steps if self._flight else self._fitting(seconds)

    def run(self, *, order: str, seconds: float, ahead: bool = False) -> list[tuple[Live, Outcome]]:
        """Runs the steps of one chunk, which should take so many seconds, and returns what each row got.

        Rows that ended have left their slots. With `ahead`, the next chunk is launched before the results of this one
        are awaited, unless some row first needs more room or its text read anew, or none goes on.
        """
        flight, self._flight = self._flight or self._launch(self._until_switch(), order=order, seconds=seconds), None
        if ahead and (most := self._further(flight, self._fitting(seconds))):
            self._flight = self._launch(most, order=order, seconds=seconds, after=flight)
        out: Emitted = jax.device_get(flight.emitted)
        self._note_pace(flight, out)
        found = self._collect(flight, out)
        if not self.live:
            self._flight = None
        return found

    def _launch(self, most: int, *, order: str, seconds: float, after: _Flight | None = None) -> _Flight:
        """Starts a chunk of at most `most` steps; one `after` another runs once that is done, in the room it has."""
        steps = min(self._fitting(seconds), most)
        if after is None:
            self._have_room(min(steps * self._taken, CHUNK))
        slots, self._slots = self._held(), None
        passes = self._passes(steps, slots, after) if self._taken > 1 else 0
        steps = passes or steps
        launched = time.perf_counter()
        self._slots, emitted, compiled = self.programs.chunk(
            slots, steps, order=order, prefix=self.sharing.prefix, guess=passes > 0
        )
        tokens = min(passes * self._taken, CHUNK) if passes else steps
        return _Flight(self._rows(), steps, tokens, emitted, self._shape(), compiled, launched)

    def _passes(self, steps: int, slots: Slots, after: _Flight | None) -> int:
        """How many of so many steps can be passes over guesses; 0 where tokens are to be drawn one by one.

        A chunk of passes ends where the room in the cache does. Several rows that share nothing may guess beyond it,
        where nothing is written: whether one of them guesses does then not depend on the others.
        """
        if slots.negative is not None:
            return 0
        if slots.width > 1 and self.sharing.prefix is None:
            return steps
        return steps if slots.length - _furthest(self.live, after) >= self._taken else 0

    @property
    def _taken(self) -> int:
        """The most tokens that a row gets from one step."""
        return 1 + self.programs.guesses

    def _further(self, flight: _Flight, steps: int) -> int:
        """How many of so many steps can be launched after a chunk whose results are not known; 0 for none."""
        going = [live for live in self.live if live.made + flight.within(live) < live.row.budget]
        if not going:
            return 0
        at = [place + flight.within(live) for live in going for place in live.places]
        if switch := self.programs.config.context_switch:
            steps = min([steps, *(switch - position for position in at if position <= switch)])
        needed = min(
            _furthest(going, flight) + min(steps * self._taken, CHUNK) + 1, max(live.reserve for live in going)
        )
        return steps if needed <= self._held().length else 0

    def _rows(self) -> dict[Live, int]:
        return {live: slot for slot, live in enumerate(self._live) if live is not None}

    def _fitting(self, seconds: float) -> int:
        pace = self._pace.get(self._shape())
        steps = 4 if pace is None else int(seconds / max(pace, 1e-6))
        return max(1, min(steps, CHUNK))

    def _note_pace(self, flight: _Flight, out: Emitted) -> None:
        # The device began with it when it had done the chunk before it.
        began, self._fetched = max(flight.launched, self._fetched), time.perf_counter()
        if not flight.compiled:
            # A step gives each row one token that was not guessed.
            by_step = out.made if out.guessed is None else out.made & ~out.guessed.accepted
            pace = (self._fetched - began) / max(int(by_step.sum(axis=0).max()), 1)
            self._pace[flight.shape] = 0.5 * (self._pace.get(flight.shape, pace) + pace)

    def _collect(self, flight: _Flight, out: Emitted) -> list[tuple[Live, Outcome]]:
        """What the rows got in a chunk. Those that were released since get nothing; others may be in other slots."""
        found: list[tuple[Live, Outcome]] = []
        now = self._rows()
        sick, ill = self._not_numbers(out), list[int]()
        for live, slot in flight.rows.items():
            count = int(out.made[:, slot].sum())
            if live not in now or not count:
                continue
            if sick[slot]:
                found.append((live, not_numbers(self.programs.dtype)))
                ill.append(now[live])
                continue
            tokens = np.asarray(out.token)[:count, slot]
            figures = live.statistics(out.figures, slot=slot, count=count)
            finish = self._took(live, tokens)
            guessed = out.guessed and jax.tree.map(lambda x, slot=slot, count=count: x[:count, slot], out.guessed)
            found.append((live, Piece(live.index, tokens, figures, finish, guessed)))
            if finish:
                self._live[now[live]] = None
        self._free(ill)
        return found


def _furthest(rows: Sequence[Live], flight: _Flight | None) -> int:
    """The most positions of the batch's cache that one of these rows may have filled, once a chunk is done."""
    return max(live.filled + (flight.within(live) if flight else 0) for live in rows)
