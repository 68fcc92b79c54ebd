"""Speculative decoding, exact: one pass of the model over a row's pending token and guesses of what follows it.

A guess is kept iff it is the token that the sampler draws at its place: the argmax of logits + noise, where the noise
is that of the row's seed and of the position, and where penalties have counted the tokens before it. So every token is
the one that decoding without guesses gives, whatever the guesses are, up to the rounding of a pass over several tokens.
(The rejection sampling of Leviathan et al. 2023, arXiv:2211.17192, keeps the distribution, but not a seed's tokens.)

The guesses are what followed the last two tokens where they occurred last in the row's own text, prompt included
("prompt lookup", Saxena 2023; Yang et al. 2023, arXiv:2304.04487). A pass over a few tokens takes hardly longer than
one over a single token where reading the weights is what takes the time. Which guesses are read follows from a row's
own text, and from where the room in its cache ends. A pass in which no row has a guess reads one token per row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float32, Int32

from llmlab.engine.decode import CHUNK, Emitted, read, sample
from llmlab.engine.state import Guessed, Slots
from llmlab.models.kv.joined import Prefix
from llmlab.sampling.logprobs import TokenStatistics


class _Drawing(NamedTuple):
    """What changes while the tokens of one pass, and of all passes of a chunk, are drawn."""

    slots: Slots
    made: Int32[Array, " W"]
    out: Emitted


def guesses(text: Int32[Array, "W C"], position: Int32[Array, " W"], *, count: int) -> Int32[Array, "W G"]:
    """The next `count` tokens of each row, if its last two tokens occurred before in its text; -1 for no guess.

    Args:
        text: the token ids of each row from its first token on; anything past `position`.
        position: of the last token that is known.
        count: how many tokens to guess, at least 1.
    """
    at = jnp.arange(text.shape[1], dtype=jnp.int32)[None, :]
    here = jnp.take_along_axis(text, position[:, None], axis=1)
    before = jnp.take_along_axis(text, jnp.maximum(position - 1, 0)[:, None], axis=1)
    seen = (text == here) & (jnp.roll(text, 1, axis=1) == before) & (at > 0) & (at < position[:, None])
    last = jnp.max(jnp.where(seen, at, -1), axis=1)
    found = last >= 0
    ahead = last[:, None] + 1 + jnp.arange(count, dtype=jnp.int32)[None, :]
    known = found[:, None] & (ahead <= position[:, None])
    guess = jnp.take_along_axis(text, jnp.minimum(ahead, text.shape[1] - 1), axis=1)
    return jnp.where(known, guess, -1)


def chunk(
    graph: nnx.GraphDef,
    weights: nnx.State,
    slots: Slots,
    steps: Int32[Array, ""],
    prefix: Prefix | None = None,
    *,
    order: str,
    count: int,
    by_rows: bool | None = None,
    pinned: bool = False,
) -> tuple[Slots, Emitted]:
    """Up to `steps` passes over 1 + `count` tokens per row; fewer where every row ends, or the output is full, before.

    Where W is 1 or there is a prefix, a pass is made only while the cache has room for all of its tokens; else the
    caller sees to it that there is room for the tokens that can be drawn. `prefix` is as in `decode.forward`. With
    `pinned`, every pass is over guesses, so that a row's bits do not depend on whether another row has any.
    """
    asking = slots.active
    rows = jnp.arange(slots.width)
    taken = 1 + count

    def after(slots: Slots, guessed: Int32[Array, "W G"]) -> tuple[Slots, Float32[Array, "W L V"]]:
        tokens = jnp.concatenate([slots.token[:, None], jnp.maximum(guessed, 0)], axis=1)
        return read(graph, weights, slots, tokens, prefix)

    def one_token(slots: Slots, guessed: Int32[Array, "W G"]) -> tuple[Slots, Float32[Array, "W L V"]]:
        fed, logits = read(graph, weights, slots, slots.token[:, None], prefix)
        return fed, jnp.pad(logits, ((0, 0), (0, count), (0, 0)))

    def draw(
        state: _Drawing, logits: Float32[Array, "W V"], going: Bool[Array, " W"], guessed: Guessed
    ) -> tuple[_Drawing, Int32[Array, " W"], Bool[Array, " W"]]:
        """Draws a token for the rows that go on; returns which of them may draw another."""
        active = state.slots.active
        drawn, token, figures = sample(
            state.slots._replace(active=going), logits, order=order, asking=asking, by_rows=by_rows
        )
        new = Emitted(token=token, made=going, figures=figures, guessed=guessed)
        # Each row's tokens lie one after the other; those of a row that draws nothing are dropped.
        at = jnp.where(going, state.made, CHUNK)
        out = jax.tree.map(lambda all, x: all.at[at, rows].set(x, mode="drop"), state.out, new)
        slots = drawn._replace(active=jnp.where(going, drawn.active, active))
        return _Drawing(slots, state.made + going.astype(jnp.int32), out), token, going & drawn.active

    def one_pass(state: _Drawing) -> _Drawing:
        ids = state.slots.history.ids
        assert ids is not None, "slots without their tokens"
        guessed = guesses(ids, state.slots.position, count=count)
        # What is read beyond the room in the cache is not kept, and so must not be drawn after.
        at = (state.slots.position - state.slots.shared)[:, None] + 1 + jnp.arange(count, dtype=jnp.int32)[None, :]
        guessed = jnp.where(at < state.slots.length, guessed, -1)
        offered = jnp.sum(guessed >= 0, axis=1, dtype=jnp.int32)
        if pinned:
            fed, logits = after(state.slots, guessed)
        else:
            some = jnp.any(state.slots.active & (offered > 0))
            fed, logits = jax.lax.cond(some, after, one_token, state.slots, guessed)

        def more(carry: tuple[Int32[Array, ""], Bool[Array, " W"], _Drawing]) -> Bool[Array, ""]:
            return jnp.any(carry[1])

        def body(
            carry: tuple[Int32[Array, ""], Bool[Array, " W"], _Drawing],
        ) -> tuple[Int32[Array, ""], Bool[Array, " W"], _Drawing]:
            i, going, state = carry
            now = jax.lax.dynamic_index_in_dim(logits, i, axis=1, keepdims=False)
            first = i == 0
            about = Guessed(offered=jnp.where(first, offered, 0), accepted=jnp.broadcast_to(~first, going.shape))
            state, token, goes_on = draw(state, now, going, about)
            guess = jax.lax.dynamic_index_in_dim(guessed, jnp.minimum(i, count - 1), axis=1, keepdims=False)
            return i + 1, goes_on & (guess == token) & (i < count), state

        start = (jnp.zeros((), jnp.int32), state.slots.active, state._replace(slots=fed))
        _, _, state = jax.lax.while_loop(more, body, start)
        # What was written of guesses that were not kept is hidden; the next pass writes there again.
        filled = state.slots.position - state.slots.shared
        return state._replace(slots=state.slots._replace(cache=state.slots.cache.truncated(filled)))

    def first(slots: Slots) -> TokenStatistics:
        fed, logits = after(slots, jnp.zeros((slots.width, count), jnp.int32))
        return sample(fed, logits[:, 0], order=order, by_rows=by_rows)[2]

    figures = jax.eval_shape(first, slots)
    emitted = Emitted(
        token=jnp.zeros((CHUNK, slots.width), jnp.int32),
        made=jnp.zeros((CHUNK, slots.width), bool),
        figures=jax.tree.map(lambda x: jnp.zeros((CHUNK, *x.shape), x.dtype), figures),
        guessed=Guessed(jnp.zeros((CHUNK, slots.width), jnp.int32), jnp.zeros((CHUNK, slots.width), bool)),
    )
    room = jnp.int32(CHUNK)
    if slots.width == 1 or prefix is not None:
        furthest = jnp.max(jnp.where(slots.active, slots.position - slots.shared, 0))
        room = jnp.minimum(room, slots.length - furthest)
    nothing = _Drawing(slots, jnp.zeros(slots.width, jnp.int32), emitted)

    def more(carry: tuple[Int32[Array, ""], _Drawing]) -> Bool[Array, ""]:
        i, state = carry
        return (i < steps) & jnp.any(state.slots.active) & (jnp.max(state.made) + taken <= room)

    _, done = jax.lax.while_loop(
        more, lambda carry: (carry[0] + 1, one_pass(carry[1])), (jnp.zeros((), jnp.int32), nothing)
    )
    return done.slots, done.out
