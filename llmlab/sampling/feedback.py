"""The stages of the library that steer by what they drew; their arithmetic is in `steering`.

In llama.cpp (`common/sampling.cpp`) a request with mirostat runs logit_bias, the grammar, the temperature and mirostat,
and none of its other samplers; adaptive_p comes last in the place of the plain draw. Here both come last in every
order, and whatever else a request asks for runs before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmlab.sampling.fields import Control, integer, number
from llmlab.sampling.stage import LAST, Inputs, Seen, Stage, State
from llmlab.sampling.states import state_of

if TYPE_CHECKING:
    from jax import Array

__all__ = ["ADAPTIVE_P", "MIROSTAT"]


def _first_surprise(inputs: Inputs) -> Array:
    limit: Array = 2.0 * inputs.mirostat_tau
    return limit


def _next_surprise(limit: Array, before: Array, after: Array, token: Array, inputs: Inputs) -> Array:
    from llmlab.sampling.steering import next_mirostat_limit

    return next_mirostat_limit(
        limit, before, after, token, target=inputs.mirostat_tau, rate=inputs.mirostat_eta
    )  # fmt: skip


def _apply_mirostat(logits: Array, inputs: Inputs, history: Seen) -> Array:
    import jax.numpy as jnp

    from llmlab.sampling.steering import apply_mirostat

    limit = state_of("mirostat", _SURPRISE, inputs, history)
    return apply_mirostat(logits, limit=jnp.where(inputs.mirostat == 2, limit, jnp.inf))


_SURPRISE = State(_first_surprise, _next_surprise)

MIROSTAT = Stage(
    "mirostat",
    "truncation",
    (
        integer(
            "mirostat", 0, 2, default=0, extension=True,
            refused={1: "only version 2 is offered; give 2 for it, or 0 for none"},
            text="2 keeps the tokens whose surprise is below a limit that follows the surprise of the drawn ones; "
            "0 is off.",
            control=Control("more", step=2),
        ),
        number(
            "mirostat_tau", 0, 20, default=5.0, extension=True,
            text="The surprise per token, in bits, that mirostat steers to; its limit begins at twice this.",
            control=Control("more", step=0.1),
        ),
        number(
            "mirostat_eta", 0, 1, default=0.1, extension=True,
            text="How far mirostat moves its limit after a token: this share of how far its surprise was off.",
            control=Control("more", step=0.01),
        ),
    ),
    lambda inputs: inputs.mirostat == 2,
    _apply_mirostat,
    after=(("", LAST),),
    state=_SURPRISE,
)  # fmt: skip


def _first_mean(inputs: Inputs) -> Array:
    import jax.numpy as jnp

    return jnp.clip(inputs.adaptive_target, 0.0, 1.0)


def _next_mean(mean: Array, before: Array, after: Array, token: Array, inputs: Inputs) -> Array:
    from llmlab.sampling.steering import next_adaptive_mean

    return next_adaptive_mean(mean, before, token, decay=inputs.adaptive_decay)


def _apply_adaptive_p(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.steering import apply_adaptive_p

    mean = state_of("adaptive_p", _MEAN, inputs, history)
    return apply_adaptive_p(logits, target=inputs.adaptive_target, mean=mean)


_MEAN = State(_first_mean, _next_mean)

ADAPTIVE_P = Stage(
    "adaptive_p",
    "temperature",
    (
        number(
            "adaptive_target", -1, 1, default=-1.0, extension=True,
            text="Prefers tokens near a probability that keeps the mean of the drawn ones at this; below 0 is off.",
            control=Control("more", step=0.01),
        ),
        number(
            "adaptive_decay", 0, 0.99, default=0.9, extension=True,
            text="How slowly the mean that adaptive_target steers forgets earlier tokens.",
            control=Control("more", step=0.01),
        ),
    ),
    lambda inputs: inputs.adaptive_target >= 0.0,
    _apply_adaptive_p,
    after=(("", LAST),),
    state=_MEAN,
)  # fmt: skip
