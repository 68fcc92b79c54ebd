"""A batch of rows without grammars, decoded in chunks: one compiled program makes many steps on the device."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from llmlab.engine.batch import Batch
from llmlab.engine.decode import CHUNK, Emitted
from llmlab.engine.live import Live, Outcome
from llmlab.engine.scheduler import Piece
from llmlab.engine.soundness import not_numbers


class ChunkedBatch(Batch):
    """A batch of rows without grammars. Only `run` may be called on another thread than the driver's, one at a time."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._pace: dict[tuple[int, int], float] = {}

    def steps(self, seconds: float) -> int:
        """The steps that fit into so many seconds, as far as is known, but no more than a chunk has."""
        pace = self._pace.get((self._held().width, self._held().length))
        steps = 4 if pace is None else int(seconds / max(pace, 1e-6))
        return max(1, min(steps, CHUNK))

    def run(self, *, order: str, seconds: float) -> list[tuple[Live, Outcome]]:
        """Runs the steps of one chunk, which should take so many seconds, and returns what each row got.

        Rows that ended have left their slots.
        """
        steps = min(self.steps(seconds), self._until_switch())
        self._have_room(steps)
        slots, self._slots = self._held(), None
        began = time.perf_counter()
        self._slots, emitted, compiled = self.programs.chunk(slots, steps, order=order)
        out: Emitted = jax.device_get(emitted)
        if not compiled:
            key = (self._slots.width, self._slots.length)
            pace = (time.perf_counter() - began) / max(int(out.made.any(axis=1).sum()), 1)
            self._pace[key] = 0.5 * (self._pace.get(key, pace) + pace)
        return self._collect(out)

    def _collect(self, out: Emitted) -> list[tuple[Live, Outcome]]:
        found: list[tuple[Live, Outcome]] = []
        sick = self._not_numbers(out)
        for slot, live in enumerate(self._live):
            count = int(out.made[:, slot].sum())
            if live is None or not count:
                continue
            if sick[slot]:
                found.append((live, not_numbers(self.programs.dtype)))
                continue
            tokens = np.asarray(out.token)[:count, slot]
            figures: Any = jax.tree.map(lambda x, n=count, at=slot: x[:n, at], out.figures)
            finish = self._took(live, tokens)
            found.append((live, Piece(live.index, tokens, figures, finish)))
            if finish:
                self._live[slot] = None
        self._free(np.flatnonzero(sick).tolist())
        return found
