"""A warmup: calls that together compile every program that an engine's rows can need."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from llmlab.engine import score as scoring
from llmlab.engine import score_tree as trees
from llmlab.engine.prefill import piece_sizes
from llmlab.engine.programs import Programs
from llmlab.engine.scheduler import Row
from llmlab.engine.state import Slots
from llmlab.models.kv.joined import Prefix
from llmlab.sampling.history import in_sequence
from llmlab.sampling.orders import order_of
from llmlab.sampling.params import SamplingParams
from llmlab.sampling.stage import reads_negative

__all__ = ["Visit", "chunk_visits", "move_visits", "visits"]

#: A row that stands for any other.
_NOBODY = Row(np.zeros(1, np.int32), SamplingParams(), budget=0)


class Visit(NamedTuple):
    """Calls of one shape. `steps` makes them one after the other and yields between two of them."""

    size: int  #: positions of the shape's cache, of all rows together: small batches are met first
    steps: Callable[[], Iterator[None]]


def visits(programs: Programs, *, widths: Mapping[int, tuple[int, ...]], orders: tuple[str, ...]) -> Iterator[Visit]:
    """Yields visits that together compile every program of rows that share nothing.

    Args:
        programs: the compiled programs.
        widths: those of each cache length, ascending.
        orders: the orders of the sampler's stages.
    """
    lengths = list(widths)
    for length, longer in zip(lengths, [*lengths[1:], None], strict=True):
        yield Visit(length, partial(_row, programs, length=length, orders=orders))
        for width in widths[length]:
            grows = longer if longer and width in widths[longer] else None
            batch = partial(_batch, programs, width=width, length=length, longer=grows, widths=widths[length])
            yield Visit(width * length, partial(batch, orders=orders))


def chunk_visits(
    programs: Programs, slots: Slots, *, order: str, prefix: Prefix | None = None
) -> Generator[None, None, Slots]:
    """Compiles the chunks of slots of one shape, and returns the slots."""
    for guess in (False, True)[: 2 if programs.guesses else 1]:
        slots, _, _ = programs.chunk(slots, 0, order=order, prefix=prefix, guess=guess)
        yield
    slots, *_ = programs.forward(slots, prefix)
    return slots


def move_visits(
    programs: Programs, slots: Slots, *, longer: int | None, widths: tuple[int, ...], order: str
) -> Iterator[None]:
    """Compiles what rows come and go by in slots of one shape, and what leads to the next shapes.

    Args:
        programs: the compiled programs.
        slots: the slots.
        longer: the next cache length in this width, or None.
        widths: those of this length, ascending.
        order: of the sampler's stages, for which the slots were made.
    """
    width, length = slots.width, slots.length
    slots = _admitted(programs, slots, order=order)
    slots = programs.release(slots, np.zeros(width, bool))
    slots = programs.advance(slots, 0)
    yield
    at = widths.index(width)
    for other in widths[max(at - 1, 0) : at] + widths[at + 1 : at + 2]:
        programs.resize(slots, np.zeros(other, np.int32), np.zeros(other, bool))
    if longer:
        programs.lengthen(slots.cache, length=longer)
        # A prompt's cache is lengthened alone, where the batch got longer while it was read.
        programs.lengthen(programs.row_cache(length=length), length=longer)
    jax.block_until_ready(slots)


def _admitted(programs: Programs, slots: Slots, *, order: str) -> Slots:
    """The slots with a row in the first one."""
    cache = programs.row_cache(length=slots.length)
    negative = None if slots.negative is None else programs.row_cache(length=slots.length)
    return programs.admit(slots, cache, _NOBODY, at=[0], ends=(), order=order, negative=negative)


def _row(programs: Programs, *, length: int, orders: tuple[str, ...]) -> Iterator[None]:
    for size in piece_sizes(length):
        cache, piece = programs.prefill(programs.row_cache(length=length), np.zeros((1, size), np.int32), 0, length=1)
        programs.place(cache, piece, 0)
        yield
    adapter = programs.adapter(0)
    scored = scoring.pieces(np.zeros(2, np.int32), prompt=1, length=length, adapter=adapter)[0]
    programs.feed(programs.copy(programs.row_cache(length=length)), scored)
    for order in orders:
        nobody = programs.row_fields(_NOBODY, ends=(), order=order)
        slots = programs.empty(width=1, length=length, order=order)
        slots = _admitted(programs, slots, order=order)
        jax.block_until_ready(programs.forward(slots))
        yield
        inputs = scoring.with_masks(nobody.inputs, scored, None, first=0)
        if reads_negative(order_of(order)):
            inputs = scoring.with_negative(inputs, scored, np.zeros((1, programs.config.vocab_size), np.float32))
        history = programs.history(_NOBODY.prompt, _NOBODY.made, order=order)
        programs.score(programs.row_cache(length=length), scored, inputs, history, order=order)
        yield
        if in_sequence(order_of(order)):
            continue  # its texts are scored piece by piece
        for tree in trees.every_size(vocab_size=programs.config.vocab_size, adapter=adapter):
            programs.score_tree(programs.row_cache(length=length), tree, nobody.inputs, history, order=order)
            yield


def _batch(
    programs: Programs,
    *,
    width: int,
    length: int,
    longer: int | None,
    widths: tuple[int, ...],
    orders: tuple[str, ...],
) -> Iterator[None]:
    for order in orders:
        empty = programs.empty(width=width, length=length, order=order)
        slots = yield from chunk_visits(programs, empty, order=order)
        yield
        slots, logits, negative = programs.forward(slots)
        mask = np.zeros((width, -(-programs.config.vocab_size // 32)), np.uint32)
        slots, _ = programs.sample(slots, logits, mask, np.zeros(width, bool), negative=negative, order=order)
        yield
        yield from move_visits(programs, slots, longer=longer, widths=widths, order=order)
