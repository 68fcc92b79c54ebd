"""The sampler one row after the other, for CPUs: what a row does not ask for does not run, nor does an empty slot.

A CPU gains nothing from many rows at once: one row over a large vocabulary fills its cache by itself, and in a batch
every stage runs over all rows as soon as one asks for it. So the active rows are taken in a loop on the device. Each
row has conditions of its own, and one program serves every number of rows and every mixture of settings; a row's bits
cannot depend on the rows beside it.

A row of which at most `CANDIDATES` tokens can be left (top_k, a temperature of 0) is read once for these candidates,
and the rest of the sampler sees nothing else. Noise is computed for the tokens that are left, where they are few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float32, Int32

from llmlab.sampling.draw import draw, noise, noise_of
from llmlab.sampling.front import CANDIDATES, Front, front, logits_at, spread
from llmlab.sampling.logprobs import Summary, TokenStatistics, no_statistics, rank_of, summary_of, top_logprobs
from llmlab.sampling.stage import Inputs, Order, Seen
from llmlab.sampling.states import advanced, stateful
from llmlab.sampling.truncation import argmax

__all__ = ["process_rows", "run_rows", "walk_rows"]

T = TypeVar("T")


class _Row:
    """One row of a named tuple of arrays; each is sliced when it is read, inside the condition that reads it."""

    def __init__(self, of: Any, at: Array) -> None:
        self._of, self._at = of, at

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, self._at, 1, axis=0), value)


class _Drawn(NamedTuple):
    """A row's token, and what is known of the distribution that it was drawn from."""

    token: Int32[Array, " 1"]
    kept: Int32[Array, " 1"]
    summary: Summary
    left: Float32[Array, "1 N"]  #: the processed logits of the tokens that are listed, the drawn one first


def run_rows(
    raw: Float32[Array, "B V"],
    inputs: Inputs,
    history: Seen,
    *,
    order: Order,
    alternatives: int,
    active: Bool[Array, " B"] | None = None,
) -> tuple[Int32[Array, " B"], TokenStatistics, Mapping[str, Array] | None]:
    """As `pipeline.step`; zeros for the rows that are not active."""

    def one(at: Array) -> tuple[Array, TokenStatistics, Mapping[str, Array] | None]:
        row = lax.dynamic_slice_in_dim(raw, at, 1, axis=0)
        return _run(row, _Row(inputs, at), _Row(history, at), order=order, alternatives=alternatives)

    return _over_rows(one, raw.shape[0], active)


def walk_rows(raw: Float32[Array, "B V"], inputs: Inputs, history: Seen, *, order: Order) -> tuple[Array, ...]:
    """The raw logits, and the logits after each stage, all [B, V]."""

    def one(at: Array) -> tuple[Array, ...]:
        row = lax.dynamic_slice_in_dim(raw, at, 1, axis=0)
        return _walk(row, _Row(inputs, at), _Row(history, at), order=order)

    return (raw, *_over_rows(one, raw.shape[0], None))


def process_rows(raw: Float32[Array, "B V"], inputs: Inputs, history: Seen, *, order: Order) -> Float32[Array, "B V"]:
    """The logits after the last stage."""

    def one(at: Array) -> Array:
        row = lax.dynamic_slice_in_dim(raw, at, 1, axis=0)
        return (row, *_walk(row, _Row(inputs, at), _Row(history, at), order=order))[-1]

    return _over_rows(one, raw.shape[0], None)


def _walk(raw: Array, inputs: Inputs, history: Seen, *, order: Order) -> tuple[Array, ...]:
    first = _tail(order)
    head = _stages(raw, inputs, history, order=order[:first])
    if first == len(order):
        return head
    shaped = head[-1] if head else raw

    def few() -> tuple[Array, ...]:
        found = front(shaped)
        lefts = _stages(found.logits, inputs, history, order=order[first:])
        return tuple(spread(found._replace(logits=left), raw.shape[-1]) for left in lefts)

    tail = lax.cond(_leaves_few(inputs, order), few, lambda: _stages(shaped, inputs, history, order=order[first:]))
    return (*head, *tail)


def _over_rows(one: Callable[[Array], T], rows: int, active: Array | None) -> T:
    """What `one` returns for the number of each active row, each leaf [1, ...] in its row of a leaf [B, ...]."""
    shapes = jax.eval_shape(one, jax.ShapeDtypeStruct((), jnp.int32))
    out = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), shapes)
    every = jnp.arange(rows, dtype=jnp.int32)
    numbers = every if active is None else jnp.nonzero(active, size=rows, fill_value=0)[0].astype(jnp.int32)
    count = rows if active is None else jnp.sum(active, dtype=jnp.int32)

    def body(i: Array, out: T) -> T:
        at = numbers[i]
        new = one(at)
        return jax.tree.map(lambda rows, x: lax.dynamic_update_slice_in_dim(rows, x, at, axis=0), out, new)

    return lax.fori_loop(0, count, body, out)


def _run(
    raw: Array, inputs: Inputs, history: Seen, *, order: Order, alternatives: int
) -> tuple[Array, TokenStatistics, Mapping[str, Array] | None]:
    first = _tail(order)
    asked = inputs.statistics[0]
    watched = inputs.watched
    blank = no_statistics(raw, alternatives=alternatives, watched=watched)

    # What the raw distribution has to say before the draw, so that no array [V] is handed on.
    def seen() -> tuple[Summary, Array, Array]:
        summary = summary_of(raw)
        return (summary, *top_logprobs(raw, summary, max(alternatives, 2)))

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(seen))
    summary, top, top_ids = lax.cond(asked, seen, lambda: nothing)
    count = min(alternatives, raw.shape[-1])
    listed = jnp.concatenate([top_ids[:, :count], jnp.maximum(watched, 0)], axis=-1)

    shaped = raw
    lefts: tuple[Array, ...] = (raw,)
    if stateful(order):
        # What these stages were given and what they left is needed once more, for their states.
        lefts = (raw, *_stages(raw, inputs, history, order=order[:first]))
        shaped = lefts[-1]
    elif first:
        shaped = lax.cond(
            _any(stage.active(inputs) for stage in order[:first]),
            lambda: _final(raw, inputs, history, order=order[:first]),
            lambda: raw,
        )
    drawn = lax.cond(
        _leaves_few(inputs, order),
        lambda: _from_few(shaped, inputs, history, order=order[first:], listed=listed),
        lambda: _from_many(shaped, inputs, history, order=order, raw=summary, listed=listed),
    )
    token = drawn.token

    def statistics() -> TokenStatistics:
        def raw_logprobs(ids: Array) -> Array:
            return summary.logprob(jnp.take_along_axis(raw, ids, axis=-1))

        own, sampling = raw_logprobs(token[:, None]), drawn.summary.logprob(drawn.left)
        second = top[:, 1] if raw.shape[-1] > 1 else jnp.full_like(top[:, 0], -jnp.inf)
        named = watched >= 0
        return TokenStatistics(
            logprob=own[:, 0],
            sampling_logprob=sampling[:, 0],
            rank=rank_of(raw, token),
            entropy=summary.entropy,
            sampling_entropy=drawn.summary.entropy,
            margin=own[:, 0] - jnp.where(top_ids[:, 0] == token, second, top[:, 0]),
            kept=drawn.kept,
            top_ids=top_ids[:, :count],
            top_logprobs=top[:, :count],
            top_sampling_logprobs=sampling[:, 1 : 1 + count],
            watched_logprobs=jnp.where(named, raw_logprobs(jnp.maximum(watched, 0)), 0.0),
            watched_sampling_logprobs=jnp.where(named, sampling[:, 1 + count :], 0.0),
        )

    states = advanced(order[:first], lefts, token, inputs, history) if stateful(order) else None
    return token, lax.cond(asked, statistics, lambda: blank), states


def _from_few(shaped: Array, inputs: Inputs, history: Seen, *, order: Order, listed: Array) -> _Drawn:
    """The draw where a few of the first tokens can be left, from those."""
    found = front(shaped)
    found = found._replace(logits=_final(found.logits, inputs, history, order=order))
    token = _draw_front(found, inputs, history)
    return _Drawn(
        token=token,
        kept=_count(found.logits),
        summary=summary_of(found.logits),
        left=logits_at(found, jnp.concatenate([token[:, None], listed], axis=-1)),
    )


def _from_many(shaped: Array, inputs: Inputs, history: Seen, *, order: Order, raw: Summary, listed: Array) -> _Drawn:
    """The draw from the whole vocabulary, or from what little the stages leave of it."""
    first, asked = _tail(order), inputs.statistics[0]
    final = _final(shaped, inputs, history, order=order[first:])
    everything = jnp.full((1,), final.shape[-1], jnp.int32)
    removes = _any(stage.active(inputs) for stage in order if stage.kind in ("mask", "truncation"))
    kept = lax.cond(removes | asked, lambda: _count(final), lambda: everything)
    token = lax.cond(
        removes & (kept[0] <= CANDIDATES),
        lambda: _draw_front(front(final), inputs, history),
        lambda: draw(final, noise(inputs.seed, inputs.choice, history.position, final.shape[-1])),
    )
    # A row that asks for no stage draws from the raw distribution, whose summary is known.
    changed = _any(stage.active(inputs) for stage in order)
    return _Drawn(
        token=token,
        kept=kept,
        summary=lax.cond(asked & changed, lambda: summary_of(final), lambda: raw),
        left=jnp.take_along_axis(final, jnp.concatenate([token[:, None], listed], axis=-1), axis=-1),
    )


def _draw_front(found: Front, inputs: Inputs, history: Seen) -> Array:
    values = lax.optimization_barrier(noise_of(inputs.seed, inputs.choice, history.position, found.ids))
    place = argmax(found.logits + values)
    return jnp.take_along_axis(found.ids, place[:, None], axis=-1)[:, 0]


def _stages(logits: Array, inputs: Inputs, history: Seen, *, order: Order) -> tuple[Array, ...]:
    """The logits after each stage; a stage that the row does not ask for is skipped."""
    lefts: list[Array] = []
    for stage in order:

        def apply(logits: Array, stage: Any = stage) -> Array:
            return stage.apply(logits, inputs, history)

        left = lefts[-1] if lefts else logits
        lefts.append(lax.cond(stage.active(inputs)[0], apply, lambda logits: logits, left))
    return tuple(lefts)


def _final(logits: Array, inputs: Inputs, history: Seen, *, order: Order) -> Array:
    """The logits after all of the stages."""
    return (logits, *_stages(logits, inputs, history, order=order))[-1]


def _tail(order: Order) -> int:
    """The number of the first stage after which all look at the logits alone, so that they can run on a few of them.

    A stage with a state is asked about the drawn token by its id, and so runs on all of them.
    """
    first = len(order)
    while first and order[first - 1].kind in ("temperature", "truncation") and order[first - 1].state is None:
        first -= 1
    return first


def _leaves_few(inputs: Inputs, order: Order) -> Array:
    """Whether some stage leaves at most `CANDIDATES` tokens of the row, and none before it adds up a mass."""
    few, whole = jnp.zeros((), bool), jnp.ones((), bool)
    for stage in order[_tail(order) :]:
        if stage.most is not None:
            most = stage.most(inputs)[0].astype(jnp.int32)
            few |= whole & (most >= 1) & (most <= CANDIDATES)
        if not stage.by_front:
            whole &= ~stage.active(inputs)[0]
    return few


def _any(asked: Any) -> Array:
    return jnp.any(jnp.stack([one[0] for one in asked] or [jnp.zeros((), bool)]))


def _count(logits: Array) -> Array:
    return jnp.sum(logits > -jnp.inf, axis=-1, dtype=jnp.int32)
