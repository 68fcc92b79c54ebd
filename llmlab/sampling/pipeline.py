"""The order in which a token is chosen. Everything is float32, [B, V] -> [B, V], and a removed token has -inf.

 1. logit_bias    l += bias; additive even at -100
 2. repetition    tokens of the prompt and the output: l / r where l > 0, l * r elsewhere
 3. frequency     l -= f * count, over the generated tokens
 4. presence      l -= p where count > 0, over the generated tokens
 5. mask          what the grammar forbids is removed, and the end tokens while fewer than min_tokens are generated
 6. temperature   l / t; under 1e-5 only the largest is left, the lowest id among equals
 7. top_k         exactly k are left, ties going to the lower id
 8. top_p         of what is left, kept iff the mass strictly before it (probability falling, id rising) is < p
 9. min_p         removed iff its probability is < min_p times the largest
10. draw          argmax(l + Gumbel noise), the noise a function of (seed, choice, position, token)

A stage that no row asks for is skipped, and a row that does not ask for it goes through bit for bit: what a row gets
never depends on the rows beside it. Of the figures (`logprobs`), the raw ones are taken before 1, the others after 9.

`run` is what the engine compiles into its step; `trace` keeps what every stage left; both walk the same `Stage`s.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Float32, Int32

from llmlab.sampling.draw import draw, noise
from llmlab.sampling.logprobs import ALTERNATIVES, Figures, figures
from llmlab.sampling.params import GREEDY, History, SamplerInputs
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
) -> tuple[Int32[Array, " B"], Figures]:
    """Draw a token for each row, and its figures. To be compiled: only `order` and `alternatives` are static.

    Args:
        logits: the model's, of any float type; taken to float32.
        inputs: what the rows ask for.
        history: what they have seen; it is not advanced.
        order: one of `ORDERS`, or any tuple of stages.
        alternatives: how many of the best tokens the figures list.
    """
    inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
    raw = logits.astype(jnp.float32)
    final = process(raw, inputs, history, order=order)
    # Where one token is left there is nothing to draw, and the noise is most of the cost of a greedy batch.
    values = lax.cond(
        jnp.any(inputs.temperature >= GREEDY),
        lambda: noise(inputs.seed, inputs.choice, history.position, raw.shape[-1]),
        lambda: jnp.zeros_like(raw),
    )
    token = draw(final, values)
    return token, figures(raw, final, token, alternatives=alternatives)


def process(
    logits: Float[Array, "B V"], inputs: SamplerInputs, history: History, *, order: Order = ORDER
) -> Float32[Array, "B V"]:
    """The logits of the law that a token is drawn from; -inf where a token was removed."""
    return _walk(logits, inputs, history, order=order)[-1]


def trace(
    logits: Float[Array, "B V"], inputs: SamplerInputs, history: History, *, order: Order = ORDER
) -> dict[str, Float32[Array, "B V"]]:
    """What each stage left, by its name, in the order in which they ran; "raw" comes first. The last is `process`'s.

    Compiled in here, because a dict that leaves a compiled function has forgotten the order of its keys.
    """
    names = ("raw", *(stage.name for stage in order))
    return dict(zip(names, _compiled_walk(logits, inputs, history, order=order), strict=True))


def _walk(logits: Array, inputs: SamplerInputs, history: History, *, order: Order) -> tuple[Array, ...]:
    """The raw logits, and what each stage left of them."""
    inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
    lefts = [logits.astype(jnp.float32)]
    for stage in order:

        def apply(logits: Array, stage: Stage = stage) -> Array:
            return stage.apply(logits, inputs, history)

        lefts.append(lax.cond(jnp.any(stage.active(inputs)), apply, lambda logits: logits, lefts[-1]))
    return tuple(lefts)


_compiled_walk = jax.jit(_walk, static_argnames="order")
