"""Statistics of many settings at once, over logits the model gave once: probabilities, entropies, distances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from llmlab.distributions.step import BUCKETS, NUMBERS
from llmlab.sampling.draw import draw, noise
from llmlab.sampling.logprobs import law
from llmlab.sampling.params import History, SamplerInputs
from llmlab.sampling.pipeline import ORDERS, process

#: Tokens that are looked at, at the least: most frames and all summaries are then one program.
_FEWEST = 32


def blocks(cells: Sequence[Any], *, V: int) -> Iterator[Sequence[Any]]:
    """The cells in blocks of a size that the memory bears."""
    size = block_size(V)
    for at in range(0, len(cells), size):
        yield cells[at : at + size]


def block_size(V: int) -> int:
    """How many rows of the vocabulary's size are worked on at once: one of the buckets."""
    return max(size for size in BUCKETS if size == 1 or size * V <= NUMBERS)


@partial(jax.jit, static_argnames="order")
def _figures(
    logits: Array, inputs: SamplerInputs, history: History, ids: Array, *, order: str
) -> tuple[Array, Array, Array]:
    B = inputs.temperature.shape[0]
    shared = jax.tree.map(lambda x: jnp.broadcast_to(x, (B, *x.shape[1:])), history)
    final = process(jnp.broadcast_to(logits, (B, *logits.shape)), inputs, shared, order=ORDERS[order])
    logprobs, entropy = law(final)
    return logprobs[:, ids], jnp.sum(final > -jnp.inf, axis=-1, dtype=jnp.int32), entropy


#: Positions of one pass; shorter ones are padded to it, so that one program serves all.
_PIECE = 32


class _Laws(NamedTuple):
    """Of O orders at T positions."""

    logprob: np.ndarray  #: [O, T] of the token that is there, in the law drawn from
    entropy: np.ndarray  #: [O, T]
    kept: np.ndarray  #: [O, T]
    drawn: np.ndarray  #: [O, T] the token that the noise of this place draws
    distance: np.ndarray  #: [O, O, T] total variation


@partial(jax.jit, static_argnames="orders")
def _laws(
    raw: Array, targets: Array, inputs: SamplerInputs, history: History, *, orders: tuple[str, ...]
) -> tuple[Array, ...]:
    """See `_Laws`. `raw` [C, V] and `targets` [C] follow each other; inputs (but masks) and history lead with 1."""
    C, V = raw.shape

    def rows(x: Array) -> Array:
        return jnp.broadcast_to(x, (C, *x.shape[1:]))

    drawn = jax.nn.one_hot(targets, V, dtype=jnp.int32)
    grown = History(
        prompt=rows(history.prompt),
        counts=history.counts + jnp.cumsum(drawn, axis=0) - drawn,
        position=history.position + jnp.arange(C, dtype=jnp.int32),
    )
    every = jax.tree.map(rows, inputs)
    finals = [process(raw, every, grown, order=ORDERS[name]) for name in orders]
    logprobs, entropies = zip(*(law(final) for final in finals), strict=True)
    values = noise(every.seed, every.choice, grown.position, V)
    probs = [jnp.exp(x) for x in logprobs]
    return (
        jnp.stack([jnp.take_along_axis(x, targets[:, None], axis=-1)[:, 0] for x in logprobs]),
        jnp.stack(entropies),
        jnp.stack([jnp.sum(final > -jnp.inf, axis=-1, dtype=jnp.int32) for final in finals]),
        jnp.stack([draw(final, values) for final in finals]),
        jnp.stack([jnp.stack([0.5 * jnp.sum(jnp.abs(p - q), axis=-1) for q in probs]) for p in probs]),
    )
