"""The sampler compiled: a token for each row, and what every stage left on the way to it.

`run` is what the engine compiles into its step; `trace` keeps what every stage left; both walk the same `Stage`s, which
`llmlab.sampling.stages` lists and numbers. Everything is float32, [B, V] -> [B, V], and a removed token has -inf.

A stage that no row asks for is skipped, and a row that does not ask for it goes through bit for bit: what a row gets
never depends on the rows beside it. Of the token's statistics (`logprobs`), the raw ones are taken before the first
stage, the others after the last.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Float32, Int32

from llmlab.sampling.draw import draw, noise
from llmlab.sampling.fields import GREEDY
from llmlab.sampling.logprobs import ALTERNATIVES, TokenStatistics, token_statistics
from llmlab.sampling.params import History, SamplerInputs
from llmlab.sampling.stage import Order, Stage
from llmlab.sampling.stages import ORDER, ORDERS

__all__ = ["ORDER", "ORDERS", "Order", "Stage", "process", "run", "trace"]


def run(
    logits: Float[Array, "B V"],
    inputs: SamplerInputs,
    history: History,
    *,
    order: Order = ORDER,
    alternatives: int = ALTERNATIVES,
    active: Bool[Array, " B"] | None = None,
) -> tuple[Int32[Array, " B"], TokenStatistics]:
    """Draws a token for each row; returns the tokens [B] and their statistics.

    To be compiled: only `order` and `alternatives` are static.

    Args:
        logits: the model's, of any float type; they are converted to float32.
        inputs: the settings of the rows.
        history: the tokens that the rows have seen; it is not advanced.
        order: one of `ORDERS`, or any tuple of stages.
        alternatives: how many of the most likely tokens the statistics list.
        active: the rows whose token is wanted; by default all. The others ask for no stage, no noise and no watched
            tokens. In a loop of steps it should be the same at every step: whether a stage runs is then computed once.
    """
    inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
    raw = logits.astype(jnp.float32)
    final = _walk(raw, inputs, history, order=order, active=active)[-1]
    # A greedy row has one token left and needs no noise, which is most of the cost of a greedy batch.
    values = lax.cond(
        _asked(inputs.temperature >= GREEDY, active),
        lambda: noise(inputs.seed, inputs.choice, history.position, raw.shape[-1]),
        lambda: jnp.zeros_like(raw),
    )
    token = draw(final, values)
    watched = inputs.watched if active is None else jnp.where(active[:, None], inputs.watched, -1)
    return token, token_statistics(raw, final, token, alternatives=alternatives, watched=watched)


def process(
    logits: Float[Array, "B V"], inputs: SamplerInputs, history: History, *, order: Order = ORDER
) -> Float32[Array, "B V"]:
    """The logits [B, V] of the distribution that a token is sampled from; -inf where a token was removed."""
    return _walk(logits, inputs, history, order=order)[-1]


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


_compiled_walk = jax.jit(_walk, static_argnames="order")
