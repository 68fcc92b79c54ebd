"""A batch of rows with grammars, decoded step by step: the host computes the masks of a step while the model runs.

The model does not need the mask that is laid on its logits. So its pass is launched as soon as the tokens before it are
drawn. While the device runs it, the host reads those tokens, lets the grammars consume them and computes the masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from llmlab.engine.batch import Batch
from llmlab.engine.constraint import ConstrainedRow, masks_of
from llmlab.engine.decode import CHUNK, Emitted
from llmlab.engine.live import Live, Outcome
from llmlab.engine.scheduler import Piece
from llmlab.engine.soundness import grammar_failed, not_numbers
from llmlab.grammar.matcher import Matcher


class SteppedBatch(Batch):
    """A batch of rows with grammars. Only `run` may be called on another thread than the driver's, one at a time."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._bars: dict[tuple[Live, bool], np.ndarray] = {}
        #: The pending tokens, the logits after them, and those after the negative prompts.
        self._fed: tuple[jax.Array, jax.Array, jax.Array | None] | None = None

    def clear(self) -> None:
        """Drops every row and frees the device's memory."""
        super().clear()
        self._fed = None

    def run(
        self, *, order: str, most: int = CHUNK, enough: Callable[[], bool] = lambda: False
    ) -> list[tuple[Live, Outcome]]:
        """Runs a burst of at most `most` steps, and at least one, and returns what each row got.

        Rows that ended have left their slots. `enough` is asked after each step whether to run no more.
        """
        until_switch = self._until_switch()
        most = min(most, until_switch)
        rows, steps = list(self._live), list[Emitted]()
        ended: dict[int, str | None] = {}
        failed: dict[int, str] = {}
        while True:
            logits, negative = self._logits()
            words = -(-self.programs.config.vocab_size // 32)
            masks = masks_of(self._grammars(), width=self._held().width, words=words)
            ended.update(dict.fromkeys(masks.ended, "stop"))
            failed.update(masks.failed)
            self._free([*masks.ended, *masks.failed])
            if steps and not self.live:
                break
            slots, self._slots = self._held(), None
            self._slots, emitted = self.programs.sample(
                slots, logits, masks.mask, masks.masked, negative=negative, order=order
            )
            steps.append(emitted)
            if len(steps) < until_switch and any(live.made + 1 < live.row.budget for live in self.live):
                self._feed()
            if len(steps) > 1:  # those of the step before are there, and this one's are awaited anyway
                steps[-2] = jax.device_get(steps[-2])
            token, made = np.asarray(emitted.token)[0], np.asarray(emitted.made)[0]
            for slot, live in enumerate(self._live):
                if live is None or live.matcher is None or not made[slot]:
                    continue
                finish = self._took(live, token[slot : slot + 1])
                if finish:
                    ended[slot], self._live[slot] = finish, None
                else:
                    live.matcher.advance(int(token[slot]))
            if len(steps) >= most or not self.live or enough():
                break
        self._bars = {}  # they hold their rows
        if not self.live:
            self._fed = None
        return self._collect(rows, steps, ended, failed)

    def _logits(self) -> tuple[jax.Array, jax.Array | None]:
        """The logits of every row's next token, and those after its negative prompt."""
        # Rows that came, or moved to another width, make new arrays; the model's pass is then repeated.
        if self._fed is None or self._fed[0] is not self._held().token:
            self._feed()
        assert self._fed is not None
        return self._fed[1:]

    def _feed(self) -> None:
        """Launches the model's pass over the pending tokens, of which the host may not know the last yet."""
        self._have_room(1)
        slots, self._slots = self._held(), None
        self._slots, logits, negative = self.programs.forward(slots, self.sharing.prefix)
        self._fed = self._slots.token, logits, negative

    def _collect(
        self, rows: list[Live | None], steps: list[Emitted], ended: dict[int, str | None], failed: dict[int, str]
    ) -> list[tuple[Live, Outcome]]:
        """What the rows that were there before a burst got in it."""
        steps[-1] = jax.device_get(steps[-1])
        out: Emitted = jax.tree.map(lambda *x: np.concatenate(x), *steps)
        found: list[tuple[Live, Outcome]] = []
        sick = self._not_numbers(out)
        for slot, live in enumerate(rows):
            if live is None:
                continue
            count = int(out.made[:, slot].sum())
            if sick[slot]:
                found.append((live, not_numbers(self.programs.dtype)))
            elif slot in failed:
                found.append((live, grammar_failed(failed[slot])))
            elif count or slot in ended:
                figures = live.statistics(out.figures, slot=slot, count=count)
                found.append((live, Piece(live.index, np.asarray(out.token)[:count, slot], figures, ended.get(slot))))
        self._free(np.flatnonzero(sick).tolist())
        return found

    def _grammars(self) -> list[ConstrainedRow]:
        return [
            ConstrainedRow(slot, live.matcher, self._barred(live, live.matcher))
            for slot, live in enumerate(self._live)
            if live and live.matcher
        ]

    def _barred(self, live: Live, matcher: Matcher) -> np.ndarray:
        """Packed bits of the end tokens that the row may not draw at its next step."""
        early, row = live.tokens < live.row.params.min_tokens, live.row
        if (live, early) in self._bars:
            return self._bars[live, early]
        barred = self._bars[live, early] = np.zeros(matcher.vocabulary.words, np.uint32)
        if early or row.ignore_ends:
            barred |= matcher.vocabulary.end_mask
        for token in row.params.stop_token_ids:
            bit = np.uint32(1 << token % 32)
            barred[token // 32] = barred[token // 32] | bit if early else barred[token // 32] & ~bit
        return barred
