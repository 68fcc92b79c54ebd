"""Teacher forcing: the statistics of given tokens, many positions per pass of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32, UInt32

from llmlab.engine.scheduler import Row
from llmlab.models.kv.protocol import Cache
from llmlab.sampling.history import grown
from llmlab.sampling.logprobs import TokenStatistics, token_statistics
from llmlab.sampling.orders import order_of
from llmlab.sampling.params import History, SamplerInputs
from llmlab.sampling.pipeline import process, replay
from llmlab.sampling.states import stateful

#: The positions C of one pass. Memory bounds it: a pass holds several arrays [C, V], one distribution per position.
PIECE = 32


class Piece(NamedTuple):
    """C tokens to feed at `start` of a text of `length` tokens, and the C target tokens after them.

    Targets before index `first` do not count.
    """

    start: Int32[Any, ""]
    tokens: Int32[Any, "1 C"]
    targets: Int32[Any, " C"]
    first: Int32[Any, ""]
    length: Int32[Any, ""]
    adapter: Int32[Any, " 1"] | None = None  #: of the text, in a decoder that has adapters


def pieces(
    given: Int32[np.ndarray, " G"], *, prompt: int, length: int, adapter: Int32[np.ndarray, " 1"] | None = None
) -> list[Piece]:
    """Cuts G given tokens into pieces for a cache of `length` positions; the first `prompt` tokens are no targets."""
    found = []
    for at in range(prompt - 1, len(given) - 1, PIECE):
        # A piece must not reach beyond the cache, so the last one starts earlier and writes some positions again.
        start = min(at, length - PIECE)
        tokens, targets = given[start : min(start + PIECE, len(given) - 1)], given[start + 1 : start + PIECE + 1]
        pad = (0, PIECE - len(tokens))
        found.append(
            Piece(
                start=np.int32(start),
                tokens=np.pad(tokens, pad).astype(np.int32)[None, :],
                targets=np.pad(targets, pad).astype(np.int32),
                first=np.int32(at - start),
                length=np.int32(len(given) - 1),
                adapter=adapter,
            )
        )
    return found


class Stretch(NamedTuple):
    """Targets that follow the row's tokens, and the index of the first of them among all targets."""

    row: Row
    targets: Int32[np.ndarray, " T"]
    first: int


def stretches(row: Row, targets: Int32[np.ndarray, " T"], *, switch: int | None) -> list[Stretch]:
    """Splits targets where the text before one is longer than `switch` (`ModelConfig.context_switch`) the first time.

    The text before the targets of a stretch is then read in one way, that in which generation reads it.
    """
    near = 0 if switch is None else switch + 1 - len(row.given)
    if not 0 < near < len(targets):
        return [Stretch(row, targets, 0)]
    further = replace(row, made=np.concatenate([row.made, targets[:near]]).astype(np.int32))
    return [Stretch(row, targets[:near], 0), Stretch(further, targets[near:], near)]


def with_masks(
    inputs: SamplerInputs, piece: Piece, masks: UInt32[np.ndarray, "T W"] | None, *, first: int
) -> SamplerInputs:
    """Returns one row's inputs with a mask per target of a piece; one program serves rows with and without grammar.

    `masks` has one entry per scored token, and `first` is the index of the piece's first scored token.
    """
    count, words = len(piece.targets), -(-inputs.bias.shape[-1] // 32)
    mask, masked = np.zeros((count, words), np.uint32), np.zeros(count, bool)
    if masks is not None:
        begin = int(piece.first)
        part = masks[first : first + count - begin]
        mask[begin : begin + len(part)] = part
        masked[begin : begin + len(part)] = True
    return inputs._replace(mask=mask, masked=masked)


def with_negative(inputs: SamplerInputs, piece: Piece, negative: Float[np.ndarray, "n V"]) -> SamplerInputs:
    """Returns one row's inputs with the logits after the negative prompt, of the n targets of a piece that count."""
    found = np.zeros((len(piece.targets), negative.shape[1]), np.float32)
    begin = int(piece.first)
    found[begin : begin + len(negative)] = negative
    return inputs._replace(negative=found)


def feed(graph: nnx.GraphDef, weights: nnx.State, cache: Cache, piece: Piece) -> tuple[Cache, Float[Array, "C V"]]:
    """Feeds a piece and returns the logits [C, V] that its targets follow from."""
    positions = piece.start + jnp.arange(piece.targets.shape[0], dtype=jnp.int32)[None, :]
    model = nnx.merge(graph, weights)
    if piece.adapter is not None:
        model.choose(piece.adapter)
    hidden, cache = model(piece.tokens, positions, cache, length=piece.length[None])
    return cache, model.logits(hidden)[0]


def score(
    graph: nnx.GraphDef,
    weights: nnx.State,
    cache: Cache,
    piece: Piece,
    inputs: SamplerInputs,
    history: History,
    *,
    order: str,
    feed: Callable[..., tuple[Cache, Float[Array, "C V"]]] = feed,
    by_rows: bool | None = None,
) -> tuple[Cache, TokenStatistics, Mapping[str, Array] | None]:
    """Feeds a piece and returns the statistics [C, ...] of its targets under one row's inputs.

    The last value has the states of the order's stages after the targets; None where no stage has one.

    `inputs` (except the masks and the logits after a negative prompt) and `history` have 1 as first axis. The history
    is that before the target `first`; each target joins it for the targets after it. `feed` may be given with its
    results put in their places on a mesh, as for `decode.chunk`; `by_rows` is as in `pipeline.run`.
    """
    count = piece.targets.shape[0]
    cache, raw = feed(graph, weights, cache, piece)
    at = jnp.arange(count, dtype=jnp.int32)
    stages = order_of(order)
    if stateful(stages):
        # The tokens after the text's last are padding, and must not move a state.
        counts = (at >= piece.first) & (piece.start + at < piece.length)
        masks = None if inputs.mask is None else (inputs.mask[:, None], inputs.masked[:, None])
        one = inputs._replace(negative=None)
        after, kept = replay(
            raw, piece.targets, counts, one, history, order=stages, masks=masks, negative=inputs.negative,
            by_rows=by_rows,
        )  # fmt: skip
        assert kept is not None
        watched = jnp.broadcast_to(inputs.watched, (count, inputs.watched.shape[-1]))
        return cache, token_statistics(raw, kept[:, 0], piece.targets, watched=watched), after.states
    asked = (at >= piece.first).astype(jnp.int32)
    before = grown(history, jnp.asarray(piece.targets), asked)

    def rows(x: Array) -> Array:
        return jnp.broadcast_to(x, (count, *x.shape[1:]))

    inputs = jax.tree.map(rows, inputs)
    final = process(raw, inputs, before, order=stages, by_rows=by_rows)
    return cache, token_statistics(raw, final, piece.targets, watched=inputs.watched), None
