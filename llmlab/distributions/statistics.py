"""Statistics of many next-token distributions in one compiled program: logprobs, entropies, counts, distances."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llmlab.sampling.compiled import PerOrder
from llmlab.sampling.draw import draw, noise
from llmlab.sampling.history import grown
from llmlab.sampling.logprobs import logprobs_and_entropy
from llmlab.sampling.orders import order_of
from llmlab.sampling.params import History, SamplerInputs
from llmlab.sampling.pipeline import process, replay

#: The states of the stages of each of several orders; None for an order without such a stage.
States: TypeAlias = tuple[Mapping[str, Any] | None, ...]

#: The fewest tokens whose logprobs are computed, so that most frames and all summaries run one program.
FEWEST_IDS = 32
#: The number of positions of one call of `order_statistics`; shorter pieces are padded to it.
POSITIONS = 32


@PerOrder
def row_statistics(
    logits: Array, inputs: SamplerInputs, history: History, ids: Array, *, order: str
) -> tuple[Array, Array, Array]:
    """Statistics of one step's distribution under the settings of B rows.

    Args:
        logits: the model's [V].
        inputs: the settings of B rows.
        history: the tokens before the step, with a leading dimension of 1.
        ids: the K tokens whose logprobs are returned.
        order: the name of the order of the sampler's stages.

    Returns:
        Logprobs [B, K] in nats (-inf for a removed token), the number of tokens kept [B], entropies [B] in nats.
    """
    B = inputs.temperature.shape[0]
    shared = jax.tree.map(lambda x: jnp.broadcast_to(x, (B, *x.shape[1:])), history)
    final = process(jnp.broadcast_to(logits, (B, *logits.shape)), inputs, shared, order=order_of(order))
    logprobs, entropy = logprobs_and_entropy(final)
    return logprobs[:, ids], jnp.sum(final > -jnp.inf, axis=-1, dtype=jnp.int32), entropy


class OrderStatistics(NamedTuple):
    """The distributions of O orders of the sampler's stages at T positions."""

    logprob: np.ndarray  #: [O, T] of the token at that position, in the distribution that the order samples from
    entropy: np.ndarray  #: [O, T] nats
    kept: np.ndarray  #: [O, T] how many tokens can be sampled
    drawn: np.ndarray  #: [O, T] the token that the order samples there with the noise of the position
    distance: np.ndarray  #: [O, O, T] total variation between two orders' distributions, 0..1


@partial(PerOrder, static="orders")
def order_statistics(
    raw: Array,
    targets: Array,
    inputs: SamplerInputs,
    history: History,
    states: States,
    count: Array,
    *,
    orders: tuple[str, ...],
) -> tuple[tuple[Array, ...], States]:
    """The fields of an `OrderStatistics` for C consecutive positions, and the states of each order after them.

    Args:
        raw: logits [C, V] of the positions.
        targets: the tokens [C] that are there; each counts as generated for the positions after it.
        inputs: settings with a leading dimension of 1, or C for the masks and the logits after a negative prompt.
        history: the tokens before the first position, with a leading dimension of 1.
        states: for each order, the states of its stages before the first position; None where no stage has one.
        count: how many positions there are; the rest is padding.
        orders: the names of O orders.
    """
    C, V = raw.shape

    def rows(x: Array) -> Array:
        return jnp.broadcast_to(x, (C, *x.shape[1:]))

    seen = grown(history, jnp.asarray(targets, jnp.int32), jnp.ones(C, jnp.int32))
    every = jax.tree.map(rows, inputs)
    finals: list[Array] = []
    after: list[Mapping[str, Any] | None] = []
    for name, held in zip(orders, states, strict=True):
        if held is None:
            finals.append(process(raw, every, seen, order=order_of(name)))
            after.append(held)
            continue
        one = jax.tree.map(lambda x: x[:1], inputs._replace(mask=None, negative=None))
        masks = None if inputs.mask is None else (inputs.mask[:, None], inputs.masked[:, None])
        ended, left = replay(
            raw, jnp.asarray(targets, jnp.int32), jnp.arange(C) < count, one, history._replace(states=held),
            order=order_of(name), masks=masks, negative=inputs.negative,
        )  # fmt: skip
        assert left is not None
        finals.append(left[:, 0])
        after.append(ended.states)
    logprobs, entropies = zip(*(logprobs_and_entropy(final) for final in finals), strict=True)
    values = noise(every.seed, every.choice, seen.position, V)
    probs = [jnp.exp(x) for x in logprobs]
    found = (
        jnp.stack([jnp.take_along_axis(x, targets[:, None], axis=-1)[:, 0] for x in logprobs]),
        jnp.stack(entropies),
        jnp.stack([jnp.sum(final > -jnp.inf, axis=-1, dtype=jnp.int32) for final in finals]),
        jnp.stack([draw(final, values) for final in finals]),
        jnp.stack([jnp.stack([0.5 * jnp.sum(jnp.abs(p - q), axis=-1) for q in probs]) for p in probs]),
    )
    return found, tuple(after)
