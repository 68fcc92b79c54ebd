"""Runs the model over texts that are given whole: their statistics and their logits, for which nothing is sampled.

They run between the chunks of decoding, on the driver thread, with caches of their own beside the batch's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from llmlab.engine.decode import CHUNK
from llmlab.engine.live import positions
from llmlab.engine.programs import Programs
from llmlab.engine.prompts import Prompts
from llmlab.engine.scheduler import Row, bucket
from llmlab.engine.score import pieces, stretches, with_masks, with_negative
from llmlab.engine.score_plan import Text, plan
from llmlab.engine.score_tree import branches, tree_sizes
from llmlab.engine.sharing import Sharing
from llmlab.engine.soundness import not_numbers, sound
from llmlab.sampling.history import history_of, in_sequence
from llmlab.sampling.logprobs import TokenStatistics
from llmlab.sampling.orders import GUIDED, order_of
from llmlab.sampling.stage import reads_negative
from llmlab.sampling.trail import Pieces


class Scored(NamedTuple):
    """Statistics [T, ...] of a text's tokens from number `first` on."""

    text: int
    first: int
    figures: TokenStatistics


def joined(parts: Sequence[Scored]) -> list[TokenStatistics]:
    """Returns the statistics of each text, in the order of the texts' numbers."""
    of: dict[int, list[TokenStatistics]] = {}
    for part in sorted(parts, key=lambda part: (part.text, part.first)):
        of.setdefault(part.text, []).append(part.figures)
    return [jax.tree.map(lambda *x: np.concatenate(x), *figures) for figures in of.values()]


class Passes:
    """Passes of the model over given tokens. All methods are called on the driver thread.

    Args:
        programs: the compiled programs.
        prompts: reads what comes before the given tokens.
        lengths: the cache lengths, ascending.
        ends: the token ids that end a row.
        width: of the batch in which so many rows are decoded, in a cache of so many positions, of which each row has
            so many.
        sharing: tells which rows share their prompt in a batch.
    """

    def __init__(
        self,
        programs: Programs,
        prompts: Prompts,
        *,
        lengths: tuple[int, ...],
        ends: tuple[int, ...],
        width: Callable[[int, int, int], int],
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
        slots = self.programs.empty(width=1, length=length)
        slots = self.programs.admit(slots, cache, row, at=[0], ends=self.ends)
        return sound(np.asarray(jax.device_get(self.programs.forward(slots)[1]))[0], self.programs.dtype)

    def score(self, texts: Sequence[Text], *, order: str) -> Iterator[list[Scored]]:
        """Yields the statistics of texts in any order, those of one pass of the model at a time."""
        sequences = in_sequence(order_of(order))
        states: defaultdict[int, dict[str, Any]] = defaultdict(dict)  # of each text, as it is read
        near: list[tuple[int, int, Text]] = []
        far: list[tuple[int, int, Text]] = []
        for number, text in enumerate(texts):
            for row, targets, first in stretches(text.row, text.tokens, switch=self._switch):
                masks = None if text.masks is None else text.masks[first : first + len(targets)]
                part = Text(row, targets, masks)
                # In a tree, texts share tokens; what depends on the sequence needs each text's own.
                long = sequences or len(targets) > tree_sizes()[-1] or len(part.fed) > (self._switch or len(part.fed))
                (far if long else near).append((number, first, part))
        for alike in _alike([part for _, _, part in near]):
            yield from self._score_trees([near[at] for at in alike], order=order)
        for number, first, part in far:
            for found in self._score_pieces(part, order=order, states=states[number]):
                yield [Scored(number, first, found)]
                first += len(found.logprob)

    def _score_trees(self, parts: list[tuple[int, int, Text]], *, order: str) -> Iterator[list[Scored]]:
        """Scores texts with one adapter and the same parameters, many of them in a pass."""
        texts = [text for _, _, text in parts]
        one, vocab_size = texts[0].row, self.programs.config.vocab_size
        inputs = self.programs.row_fields(one, ends=self.ends, order=order).inputs
        for packed in plan(texts, room=tree_sizes()[-1], sizes=self.prompts.sizes):
            first = texts[packed.texts[0]]
            before = first.fed[: packed.start]
            # The cache holds `before`; the row's last token is not read.
            row = replace(one, prompt=first.fed[: packed.start + 1], made=first.fed[:0])
            cache = self.prompts.read(row, length=bucket(self.lengths, packed.start + 1))
            split = min(packed.start, len(first.row.prompt))
            history = history_of(before[:split], before[split:], vocab_size=vocab_size)
            tree = branches(packed, texts, vocab_size=vocab_size, adapter=self.programs.adapter(one.adapter))
            found = jax.device_get(self.programs.score_tree(cache, tree, inputs, history, order=order))
            if np.isnan(found.entropy[: len(packed.nodes)]).any():
                raise not_numbers(self.programs.dtype)
            begin, scored = 0, []
            for at in packed.texts:
                number, offset, text = parts[at]
                end = begin + len(text.tokens)
                held: TokenStatistics = jax.tree.map(lambda x, a=begin, b=end: x[a:b], found)
                scored.append(Scored(number, offset, held))
                begin = end
            yield scored

    def _score_pieces(self, text: Text, *, order: str, states: dict[str, Any]) -> Iterator[TokenStatistics]:
        """Scores a text that is too long for a tree, or rotated as a long one: piece by piece, into a cache.

        `states` has the states of the stages that have one before the text, and has them after it in the end.
        """
        row = text.row
        given = np.append(text.fed, text.tokens[-1:]).astype(np.int32)
        length = bucket(self.lengths, len(given))
        states.update(row.states or {})
        negative = Pieces(self.logits(row.companion, text.tokens)) if reads_negative(order_of(order)) else None
        row = replace(row, states=states or None)
        fields = self.programs.row_fields(row, ends=self.ends, order=order)
        cache = self.programs.copy(self.prompts.read(row, length=length))
        for piece in pieces(given, prompt=len(row.given), length=length, adapter=self.programs.adapter(row.adapter)):
            made = given[len(row.prompt) : piece.start + piece.first + 1]
            history = self.programs.history(row.prompt, made, order=order, states=states or None)
            first = int(piece.start + piece.first) + 1 - len(row.given)
            inputs = with_masks(fields.inputs, piece, text.masks, first=first)
            count = min(piece.start + len(piece.targets), len(given) - 1) - piece.start
            if negative is not None:
                inputs = with_negative(inputs, piece, negative.take(int(count - piece.first)))
            cache, found, after = self.programs.score(cache, piece, inputs, history, order=order)
            states.update(jax.device_get(after) or {})
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
        cache = self.programs.copy(self.prompts.read(row, length=length))
        for piece in pieces(given, prompt=len(row.given), length=length, adapter=self.programs.adapter(row.adapter)):
            cache, raw = self.programs.feed(cache, piece)
            count = min(piece.start + len(piece.targets), len(given) - 1) - piece.start
            yield sound(np.asarray(jax.device_get(raw), np.float32)[piece.first : count], self.programs.dtype)

    def step_logits(self, row: Row, tokens: np.ndarray, *, rows: int) -> Iterator[np.ndarray]:
        """Yields raw logits [V] after tokens that a row drew in a batch of `rows` rows; the last item is the result.

        Of a row with a negative prompt it yields [2, V], those after the negative prompt last. It repeats the decoding
        steps, one per token and in the same width, so that the result is bit-equal to the logits of that time; `logits`
        may differ in the last bits. Other rows can be decoded between the items.
        """
        shared, prefix = self._sharing.worth(row, rows=rows), None
        lengths = self._sharing.lengths if shared else self.lengths
        length = bucket(lengths, positions(row, shared=shared, more=len(tokens) + 1))
        if shared:
            prefix = self._sharing.read(self._sharing.begin(row))
            cache, negative = self.programs.row_cache(length=length), None
        else:
            cache, negative = self.prompts.read_all(row, length=length)
        order = "llmlab" if row.negative is None else GUIDED
        slots = self.programs.empty(width=self._width(rows, length, row.caches), length=length, order=order)
        admit = partial(self.programs.admit, at=[0], ends=self.ends, order=order)
        slots = admit(slots, cache, row, shared=shared, negative=negative)
        slots, *raw = self.programs.forward(slots, prefix)
        for made, token in enumerate(tokens, start=1):
            at = len(row.given) + made - 1
            if self._switch in ((at,) if row.negative is None else (at, at + row.ahead)):
                further = replace(row, made=np.concatenate([row.made, tokens[:made]]).astype(np.int32))
                cache, negative = self.prompts.read_all(further, length=length)
                slots = admit(slots, cache, further, negative=negative)
            else:
                slots = self.programs.advance(slots, int(token))
            slots, *raw = self.programs.forward(slots, prefix)
            if made % CHUNK == 0:
                yield _first_rows(raw)
        yield sound(_first_rows(raw), self.programs.dtype)


def _first_rows(raw: Sequence[jax.Array | None]) -> np.ndarray:
    """The logits [V] of the first slot; where there are those after a negative prompt too, [2, V]."""
    found = [np.asarray(jax.device_get(one), np.float32)[0] for one in raw if one is not None]
    return found[0] if len(found) == 1 else np.stack(found)


def _alike(texts: Sequence[Text]) -> list[list[int]]:
    """The numbers of texts that one pass can score: of one adapter, and under the same parameters.

    Nothing is drawn, so seeds and choices do not count. Where tokens count as generated, a cache can hold some of them,
    and then they have to begin at one position.
    """
    groups: list[tuple[tuple[object, ...], list[int]]] = []
    for at, text in enumerate(texts):
        row = text.row
        key = (row.adapter, len(row.prompt) if len(row.made) else None, replace(row.params, seed=0, choice=0))
        found = next((group for known, group in groups if known == key), None)
        if found is None:
            groups.append((key, [at]))
        else:
            found.append(at)
    return [group for _, group in groups]
