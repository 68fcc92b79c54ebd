"""The sampler compiled: a token for each row, and what every stage left on the way to it.

`step` is what the engine compiles; `run` is the same without the states of stages; `trace` keeps what every stage left.
All walk the same `Stage`s, which `llmlab.sampling.stages` lists and numbers. Everything is float32, [B, V] -> [B, V],
and a removed token has -inf.

A stage that no row asks for is skipped, and a row that does not ask for it goes through bit for bit: what a row gets
never depends on the rows beside it. Of the token's statistics (`logprobs`), the raw ones are taken before the first
stage, the others after the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Float32, Int32

from llmlab.sampling.compiled import PerOrder
from llmlab.sampling.draw import draw, noise
from llmlab.sampling.fields import GREEDY
from llmlab.sampling.history import joined
from llmlab.sampling.logprobs import ALTERNATIVES, TokenStatistics, no_statistics, token_statistics
from llmlab.sampling.params import History, SamplerInputs
from llmlab.sampling.rows import process_rows, run_rows, walk_rows
from llmlab.sampling.stage import Order, Stage
from llmlab.sampling.stages import ORDER, ORDERS
from llmlab.sampling.states import advanced

__all__ = ["ORDER", "ORDERS", "ROW_BY_ROW", "Order", "Stage", "is_by_rows", "process", "replay", "run", "step", "trace"]

#: The vocabulary from which on a CPU takes the rows one after the other. Measured: at 32,768 tokens that is as fast for
#: plain rows and up to seven times as fast for others; at 4,096 tokens the steps of the loop cost 32 plain rows as much
#: again as the work in them.
ROW_BY_ROW = 16_384


def step(
    logits: Float[Array, "B V"],
    inputs: SamplerInputs,
    history: History,
    *,
    order: Order = ORDER,
    alternatives: int = ALTERNATIVES,
    active: Bool[Array, " B"] | None = None,
    by_rows: bool | None = None,
) -> tuple[Int32[Array, " B"], TokenStatistics, Mapping[str, Array] | None]:
    """Draws a token for each row; returns the tokens [B], their statistics, and the states of the stages after them.

    A row that does not ask for statistics gets zeros, and a NaN as entropy where its logits are not numbers.

    The states are None where no stage of the order has one, which then costs nothing.

    To be compiled: only `order`, `alternatives` and `by_rows` are static.

    Args:
        logits: the model's, of any float type; they are converted to float32.
        inputs: the settings of the rows.
        history: the tokens that the rows have seen; it is not advanced.
        order: one of `ORDERS`, or any tuple of stages.
        alternatives: how many of the most likely tokens the statistics list.
        active: the rows whose token is wanted; by default all. The others ask for no stage, no noise and no statistics.
            In a loop of steps over whole batches it should be the same at every step: whether a stage runs is then
            computed once. Row by row it should be as few as possible: the others do not run at all.
        by_rows: whether the rows are taken one after the other (see `is_by_rows`, the default).
    """
    inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
    raw = logits.astype(jnp.float32)
    if is_by_rows(raw.shape[-1]) if by_rows is None else by_rows:
        return run_rows(raw, inputs, history, order=order, alternatives=alternatives, active=active)
    lefts = _walk(raw, inputs, history, order=order, active=active)
    final = lefts[-1]
    # A greedy row has one token left and needs no noise, which is most of the cost of a greedy batch.
    values = lax.cond(
        _asked(inputs.temperature >= GREEDY, active),
        lambda: noise(inputs.seed, inputs.choice, history.position, raw.shape[-1]),
        lambda: jnp.zeros_like(raw),
    )
    token = draw(final, values)
    watched = inputs.watched if active is None else jnp.where(active[:, None], inputs.watched, -1)
    statistics: TokenStatistics = lax.cond(
        _asked(inputs.statistics, active),
        lambda: token_statistics(raw, final, token, alternatives=alternatives, watched=watched),
        lambda: no_statistics(raw, alternatives=alternatives, watched=watched),
    )
    return token, statistics, advanced(order, lefts, token, inputs, history)


def run(
    logits: Float[Array, "B V"],
    inputs: SamplerInputs,
    history: History,
    *,
    order: Order = ORDER,
    alternatives: int = ALTERNATIVES,
    active: Bool[Array, " B"] | None = None,
    by_rows: bool | None = None,
) -> tuple[Int32[Array, " B"], TokenStatistics]:
    """What `step` returns except the states."""
    return step(
        logits, inputs, history, order=order, alternatives=alternatives, active=active, by_rows=by_rows
    )[:2]  # fmt: skip


def is_by_rows(vocab_size: int) -> bool:
    """Whether rows over such a vocabulary are taken one after the other here: on a CPU, where it is large.

    Not where a batch is spread over devices: a loop over its rows would fetch each of them from its device.
    """
    return vocab_size >= ROW_BY_ROW and jax.default_backend() == "cpu"


def process(
    logits: Float[Array, "B V"],
    inputs: SamplerInputs,
    history: History,
    *,
    order: Order = ORDER,
    by_rows: bool | None = None,
) -> Float32[Array, "B V"]:
    """The logits [B, V] of the distribution that a token is sampled from; -inf where a token was removed.

    `by_rows` is as in `run`.
    """
    if is_by_rows(logits.shape[-1]) if by_rows is None else by_rows:
        inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
        return process_rows(logits.astype(jnp.float32), inputs, history, order=order)
    return _walk(logits, inputs, history, order=order)[-1]


def replay(
    logits: Float[Array, "C V"],
    targets: Int32[Array, " C"],
    counts: Bool[Array, " C"],
    inputs: SamplerInputs,
    history: History,
    *,
    order: Order,
    masks: tuple[Array, Array] | None = None,
    negative: Float[Array, "C V"] | None = None,
    keeps: bool = True,
    by_rows: bool | None = None,
) -> tuple[History, Float32[Array, "C B V"] | None]:
    """What B rows have seen, states included, once they have the same C tokens; and the processed logits before each.

    One step after the other, as they are sampled. To be compiled, where an order has stages with a state.

    Args:
        logits: the model's before each of the tokens.
        targets: the tokens.
        counts: whether each is a token of the rows; the others change nothing.
        inputs: the settings of the rows.
        history: what they have seen before.
        order: the stages.
        masks: the packed masks of a grammar [C, B, W] and whether they count [C, B]; by default those of `inputs`.
        negative: the logits after the negative prompt before each of the tokens, where a stage reads them.
        keeps: whether the processed logits are wanted; None is returned otherwise.
        by_rows: as in `step`.
    """
    inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
    rows = inputs.temperature.shape[0]
    by_rows = is_by_rows(logits.shape[-1]) if by_rows is None else by_rows

    def one(seen: History, at: tuple[Array, Array, Array, Any, Any]) -> tuple[History, Array | None]:
        raw, target, counted, mask, other = at
        under = inputs if mask is None else inputs._replace(mask=mask[0], masked=mask[1])
        if other is not None:
            under = under._replace(negative=jnp.broadcast_to(other.astype(jnp.float32), (rows, *other.shape)))
        every = jnp.broadcast_to(raw.astype(jnp.float32), (rows, *raw.shape))
        lefts = walk_rows(every, under, seen, order=order) if by_rows else _walk(every, under, seen, order=order)
        token = jnp.broadcast_to(target, (rows,))
        states = advanced(order, lefts, token, under, seen)
        after = joined(seen, token, jnp.broadcast_to(counted, (rows,)), states)
        return after, lefts[-1] if keeps else None

    return lax.scan(one, history, (logits, targets, counts, masks, negative))


def trace(
    logits: Float[Array, "B V"], inputs: SamplerInputs, history: History, *, order: Order = ORDER
) -> dict[str, Float32[Array, "B V"]]:
    """The logits [B, V] after each stage by its name, in the order in which they ran, "raw" first.

    The last are those of `process`. This function is not to be compiled: it compiles the stages itself, because a dict
    that leaves a compiled function has lost the order of its keys.
    """
    names = ("raw", *(stage.name for stage in order))
    return dict(zip(names, _compiled_walk(logits, inputs, history, order=order), strict=True))


def _asked(asks: Array, active: Array | None) -> Array:
    """Whether some row asks, of those that are active."""
    return jnp.any(asks if active is None else asks & active)


def _lefts(logits: Array, inputs: SamplerInputs, history: History, *, order: Order) -> tuple[Array, ...]:
    """The raw logits, and the logits after each stage, computed as `process` does."""
    if not is_by_rows(logits.shape[-1]):
        return _walk(logits, inputs, history, order=order)
    inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
    return walk_rows(logits.astype(jnp.float32), inputs, history, order=order)


def _walk(
    logits: Array, inputs: SamplerInputs, history: History, *, order: Order, active: Array | None = None
) -> tuple[Array, ...]:
    """The raw logits, and the logits after each stage."""
    inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
    lefts = [logits.astype(jnp.float32)]
    for stage in order:

        def apply(logits: Array, stage: Stage = stage) -> Array:
            return stage.apply(logits, inputs, history)

        lefts.append(lax.cond(_asked(stage.active(inputs), active), apply, lambda logits: logits, lefts[-1]))
    return tuple(lefts)


_compiled_walk = PerOrder(_lefts)
