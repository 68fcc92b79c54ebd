"""Decoding: a step is two pure functions, `forward` (the model) and `sample` (the sampler); a chunk is many steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from llmlab.engine.state import Guessed, Slots
from llmlab.models.kv.joined import Joined, Prefix
from llmlab.models.kv.protocol import Attendable, SharedCache
from llmlab.sampling.history import joined
from llmlab.sampling.logprobs import TokenStatistics
from llmlab.sampling.orders import order_of
from llmlab.sampling.pipeline import is_by_rows, step

#: The most steps of one chunk, and so the size of the output buffers; the number of steps to run is traced.
CHUNK = 32


class Emitted(NamedTuple):
    """The output of a chunk of T steps: tokens and statistics [T, W, ...]; `made` is false where a row did not draw.

    Where guesses are read, each row's tokens come first in its column, whatever the number of its passes.
    """

    token: Int32[Array, "T W"]
    made: Bool[Array, "T W"]
    figures: TokenStatistics
    guessed: Guessed | None = None  #: None where no guesses are read


def forward(
    graph: nnx.GraphDef, weights: nnx.State, slots: Slots, prefix: Prefix | None = None
) -> tuple[Slots, Float32[Array, "W V"], Float32[Array, "W V"] | None]:
    """Feeds every row's pending token: writes its keys and values, and returns the logits of the next token.

    The last value has those after the rows' negative prompts; None in slots without. `prefix` is what the rows with
    `slots.shared` begin with; None where there are none.
    """
    slots, logits = read(graph, weights, slots, slots.token[:, None], prefix)
    if slots.negative is None or slots.ahead is None or slots.negative_token is None:
        return slots, logits[:, 0], None
    of_negative = slots._replace(cache=slots.negative, position=slots.position + slots.ahead)
    fed, negative = read(graph, weights, of_negative, slots.negative_token[:, None])
    return slots._replace(negative=fed.cache), logits[:, 0], negative[:, 0]


def read(
    graph: nnx.GraphDef,
    weights: nnx.State,
    slots: Slots,
    tokens: Int32[Array, "W L"],
    prefix: Prefix | None = None,
) -> tuple[Slots, Float32[Array, "W L V"]]:
    """Writes the keys and values of L tokens of every row, from its position on; returns the logits after each.

    `prefix` is as in `forward`.
    """
    model = nnx.merge(graph, weights)
    if slots.adapter is not None:
        model.choose(slots.adapter)
    over: Attendable = slots.cache
    if prefix is not None:
        assert isinstance(slots.cache, SharedCache), "this cache cannot be shared"
        over = Joined(slots.cache, prefix, slots.shared)
    positions = slots.position[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    hidden, cache = model(tokens, positions, over)
    return slots._replace(cache=cache), model.logits(hidden)


def sample(
    slots: Slots,
    logits: Float32[Array, "W V"],
    *,
    order: str,
    negative: Float32[Array, "W V"] | None = None,
    asking: Bool[Array, " W"] | None = None,
    by_rows: bool | None = None,
) -> tuple[Slots, Int32[Array, " W"], TokenStatistics]:
    """Draws the next token of every active row, adds it to the history, and deactivates the rows that end.

    `negative` are the logits after the negative prompts, where the slots have them. `asking` are the rows whose
    settings switch stages on where the sampler takes whole batches: the active ones, or more. Where it takes the rows
    one after the other, only the active ones run. `by_rows` is as in `pipeline.run`.
    """
    drew = slots.active
    by_rows = is_by_rows(logits.shape[-1]) if by_rows is None else by_rows
    asking = drew if by_rows or asking is None else asking
    inputs = slots.inputs._replace(negative=negative)
    token, figures, states = step(logits, inputs, slots.history, order=order_of(order), active=asking, by_rows=by_rows)
    one = drew.astype(jnp.int32)
    rows = jnp.arange(slots.width)
    history = joined(slots.history, token, drew, states)
    budget = slots.budget - one
    ended = slots.stops[rows, token]
    slots = slots._replace(
        token=jnp.where(drew, token, slots.token),
        # A row that ended keeps its position: it must not run past the cache while other rows go on.
        position=slots.position + one,
        active=drew & ~ended & (budget > 0),
        budget=budget,
        history=history,
        negative_token=None if slots.negative_token is None else jnp.where(drew, token, slots.negative_token),
    )
    return slots, token, figures


def sample_masked(
    slots: Slots,
    logits: Float32[Array, "W V"],
    mask: UInt32[Array, "W M"],
    masked: Bool[Array, " W"],
    negative: Float32[Array, "W V"] | None = None,
    *,
    order: str,
    by_rows: bool | None = None,
) -> tuple[Slots, Emitted]:
    """Runs `sample` with packed token masks for the rows that are `masked`; returns a chunk of one step."""
    drew = slots.active
    under = slots._replace(inputs=slots.inputs._replace(mask=mask, masked=masked))
    after, token, figures = sample(under, logits, negative=negative, order=order, by_rows=by_rows)
    emitted = jax.tree.map(lambda x: x[None], Emitted(token=token, made=drew, figures=figures))
    return after._replace(inputs=slots.inputs), emitted


def chunk(
    graph: nnx.GraphDef,
    weights: nnx.State,
    slots: Slots,
    steps: Int32[Array, ""],
    prefix: Prefix | None = None,
    *,
    order: str,
    forward: Callable[..., tuple[Slots, Float32[Array, "W V"], Float32[Array, "W V"] | None]] = forward,
    by_rows: bool | None = None,
) -> tuple[Slots, Emitted]:
    """Up to `steps` steps, fewer where every row ends before.

    `forward` may be given with its results put in their places on a mesh. The logits then lie on every device, and the
    sampler after them needs no communication.
    """

    # Of the chunk, not of each step: whether a stage runs is then known before the loop, and XLA computes it once.
    asking = slots.active

    def one(state: Slots) -> tuple[Slots, Int32[Array, " W"], TokenStatistics]:
        fed, logits, negative = forward(graph, weights, state, prefix)
        return sample(fed, logits, negative=negative, order=order, asking=asking, by_rows=by_rows)

    shapes = jax.eval_shape(one, slots)
    token, figures = shapes[1], shapes[2]
    emitted = Emitted(
        token=jnp.zeros((CHUNK, *token.shape), token.dtype),
        made=jnp.zeros((CHUNK, *token.shape), bool),
        figures=jax.tree.map(lambda x: jnp.zeros((CHUNK, *x.shape), x.dtype), figures),
    )

    def more(carry: tuple[Int32[Array, ""], Slots, Emitted]) -> Bool[Array, ""]:
        i, state, _ = carry
        return (i < steps) & jnp.any(state.active)

    def body(carry: tuple[Int32[Array, ""], Slots, Emitted]) -> tuple[Int32[Array, ""], Slots, Emitted]:
        i, state, out = carry
        drew = state.active
        state, token, figures = one(state)
        new = Emitted(token=token, made=drew, figures=figures)
        out = jax.tree.map(lambda buffer, x: jax.lax.dynamic_update_index_in_dim(buffer, x, i, axis=0), out, new)
        return i + 1, state, out

    _, slots, emitted = jax.lax.while_loop(more, body, (jnp.zeros((), jnp.int32), slots, emitted))
    return slots, emitted
