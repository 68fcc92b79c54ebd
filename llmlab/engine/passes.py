"""Runs the model over texts that are given whole: their statistics and their logits, for which nothing is sampled.

They run between the chunks of decoding, on the driver thread, with caches of their own beside the batch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
import numpy as np

from llmlab.engine.decode import CHUNK
from llmlab.engine.live import positions
from llmlab.engine.programs import Programs
from llmlab.engine.prompts import Prompts
from llmlab.engine.scheduler import Row, bucket
from llmlab.engine.score import pieces, stretches, with_masks
from llmlab.engine.sharing import Sharing
from llmlab.engine.soundness import not_numbers, sound
from llmlab.sampling.history import history_of
from llmlab.sampling.logprobs import TokenStatistics


class Passes:
    """Passes of the model over given tokens. All methods are called on the driver thread.

    Args:
        programs: the compiled programs.
        prompts: reads what comes before the given tokens.
        lengths: the cache lengths, ascending.
        ends: the token ids that end a row.
        width: of the batch in which so many rows are decoded, in a cache of so many positions.
        sharing: tells which rows share their prompt in a batch.
    """

    def __init__(
        self,
        programs: Programs,
        prompts: Prompts,
        *,
        lengths: tuple[int, ...],
        ends: tuple[int, ...],
        width: Callable[[int, int], int],
        sharing: Sharing,
    ):
        self.programs = programs
        self.prompts = prompts
        self.lengths = lengths
        self.ends = ends
        self._width = width
        self._sharing = sharing
        self._switch = programs.config.context_switch

    def next_logits(self, row: Row) -> np.ndarray:
        """Returns the raw logits [V] of the token after the row's tokens."""
        length = bucket(self.lengths, len(row.given) + 1)
        cache = self.prompts.read(row, length=length)
        fields = self.programs.row_fields(row, ends=self.ends)
        slots = self.programs.admit(self.programs.empty(width=1, length=length), cache, fields, 0)
        return sound(np.asarray(jax.device_get(self.programs.forward(slots)[1]))[0], self.programs.dtype)

    def score(
        self,
        row: Row,
        tokens: np.ndarray,
        *,
        masks: np.ndarray | None,
        order: str,
    ) -> Iterator[TokenStatistics]:
        """Yields the statistics of tokens after the row's, one item per pass of the model."""
        for start, targets, first in stretches(row, tokens, switch=self._switch):
            part = None if masks is None else masks[first : first + len(targets)]
            yield from self._score(start, targets, masks=part, order=order)

    def _score(
        self,
        row: Row,
        tokens: np.ndarray,
        *,
        masks: np.ndarray | None,
        order: str,
    ) -> Iterator[TokenStatistics]:
        given = np.concatenate([row.given, tokens]).astype(np.int32)
        length = bucket(self.lengths, len(given))
        fields = self.programs.row_fields(row, ends=self.ends)
        cache = self.prompts.read(row, length=length)
        for piece in pieces(given, prompt=len(row.given), length=length, adapter=self.programs.adapter(row.adapter)):
            made = given[len(row.prompt) : piece.start + piece.first + 1]
            history = history_of(row.prompt, made, vocab_size=self.programs.config.vocab_size)
            first = int(piece.start + piece.first) + 1 - len(row.given)
            inputs = with_masks(fields.inputs, piece, masks, first=first)
            cache, found = self.programs.score(cache, piece, inputs, history, order=order)
            count = min(piece.start + len(piece.targets), len(given) - 1) - piece.start
            held: TokenStatistics = jax.tree.map(lambda x, a=piece.first, b=count: x[a:b], jax.device_get(found))
            if np.isnan(held.entropy).any():
                raise not_numbers(self.programs.dtype)
            yield held

    def logits(self, row: Row, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the raw logits [C, V] of given tokens, one item per pass of the model."""
        for start, targets, _ in stretches(row, tokens, switch=self._switch):
            yield from self._logits(start, targets)

    def _logits(self, row: Row, tokens: np.ndarray) -> Iterator[np.ndarray]:
        given = np.concatenate([row.given, tokens]).astype(np.int32)
        length = bucket(self.lengths, len(given))
        cache = self.prompts.read(row, length=length)
        for piece in pieces(given, prompt=len(row.given), length=length, adapter=self.programs.adapter(row.adapter)):
            cache, raw = self.programs.feed(cache, piece)
            count = min(piece.start + len(piece.targets), len(given) - 1) - piece.start
            yield sound(np.asarray(jax.device_get(raw), np.float32)[piece.first : count], self.programs.dtype)

    def step_logits(self, row: Row, tokens: np.ndarray, *, rows: int) -> Iterator[np.ndarray]:
        """Yields raw logits [V] after tokens that a row drew in a batch of `rows` rows; the last item is the result.

        It repeats the decoding steps, one per token and in the same width, so that the result is bit-equal to the
        logits of that time; `logits` may differ in the last bits. Other rows can be decoded between the items.
        """
        shared, prefix = self._sharing.worth(row, rows=rows), None
        lengths = self._sharing.lengths if shared else self.lengths
        length = bucket(lengths, positions(row, shared=shared, more=len(tokens) + 1))
        if shared:
            prefix = self._sharing.read(self._sharing.begin(row))
            cache = self.programs.row_cache(length=length)
        else:
            cache = self.prompts.read(row, length=length)
        fields = self.programs.row_fields(row, ends=self.ends, shared=shared)
        slots = self.programs.empty(width=self._width(rows, length), length=length)
        slots = self.programs.admit(slots, cache, fields, 0)
        slots, raw = self.programs.forward(slots, prefix)
        for made, token in enumerate(tokens, start=1):
            if len(row.given) + made - 1 == self._switch:
                further = replace(row, made=np.concatenate([row.made, tokens[:made]]).astype(np.int32))
                cache = self.prompts.read(further, length=length)
                slots = self.programs.admit(slots, cache, self.programs.row_fields(further, ends=self.ends), 0)
            else:
                slots = self.programs.advance(slots, int(token))
            slots, raw = self.programs.forward(slots, prefix)
            if made % CHUNK == 0:
                yield np.asarray(jax.device_get(raw), np.float32)[0]
        yield sound(np.asarray(jax.device_get(raw), np.float32)[0], self.programs.dtype)
