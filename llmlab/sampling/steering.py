"""Stages that steer by the tokens they drew: logits [B, V] and a number per row -> logits [B, V], and that number.

Surprise is -log2 of a probability, in bits. Probabilities are those of the tokens that no earlier stage removed.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32

from llmlab.sampling.logprobs import summary_of
from llmlab.sampling.truncation import argmax, token_ids

__all__ = ["apply_adaptive_p", "apply_mirostat", "next_adaptive_mean", "next_mirostat_limit"]

_BIT = math.log(2.0)
#: The constants of adaptive-p: the distance from the target at which the penalty turns from square to linear, the logit
#: at the target, and the slope.
_WIDTH, _PEAK, _SHARPNESS = 0.3, 5.0, 10.0


def apply_mirostat(logits: Float32[Array, "B V"], *, limit: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Removes tokens whose surprise is above the limit, except the most likely one, of equal ones the lowest id.

    An infinite limit is off.

    Mirostat 2 (Basu et al. 2021, arXiv:2007.14966, algorithm 2).
    """
    kept = summary_of(logits).logprob(logits) >= -_BIT * limit[:, None]
    kept |= token_ids(logits) == argmax(logits)[:, None]
    return jnp.where(kept, logits, -jnp.inf)


def next_mirostat_limit(
    limit: Float32[Array, " B"],
    before: Float32[Array, "B V"],
    after: Float32[Array, "B V"],
    token: Int32[Array, " B"],
    *,
    target: Float32[Array, " B"],
    rate: Float32[Array, " B"],
) -> Float32[Array, " B"]:
    """The limit once a token was drawn: it falls by `rate` times what the token's surprise exceeds the target.

    The surprise is that under the tokens that were left, renormalised, as in llama.cpp. A given token that mirostat
    would have removed has its surprise before that, and one that was removed earlier leaves the limit as it is.

    Args:
        limit: the limit that the token was drawn under, in bits.
        before: the logits before `apply_mirostat`.
        after: the logits after it.
        token: what was drawn.
        target: the surprise to steer to, in bits.
        rate: the learning rate.
    """
    own, all_ = logprob_of(after, token), logprob_of(before, token)
    logprob = jnp.where(own > -jnp.inf, own, all_)
    surprise = -logprob / _BIT
    return jnp.where(logprob > -jnp.inf, limit - rate * (surprise - target), limit)


def apply_adaptive_p(
    logits: Float32[Array, "B V"], *, target: Float32[Array, " B"], mean: Float32[Array, " B"]
) -> Float32[Array, "B V"]:
    """Logits that fall with the distance of a token's probability from the one that is wanted now.

    Adaptive-p (MrJackSpade and ddh0 2025, llama.cpp pull request 17927). Wanted is 2 * target - mean, in 0..1; the
    logit is 5 - 10 d^2 / (1 + d), where d is the distance divided by 0.3. A target below 0 is off.
    """
    wanted = jnp.clip(2.0 * target - mean, 0.0, 1.0)[:, None]
    distance = jnp.abs(jnp.exp(summary_of(logits).logprob(logits)) - wanted) / _WIDTH
    left = _PEAK - _SHARPNESS * distance * distance / (1.0 + distance)
    return jnp.where((logits > -jnp.inf) & (target >= 0.0)[:, None], left, logits)


def next_adaptive_mean(
    mean: Float32[Array, " B"],
    before: Float32[Array, "B V"],
    token: Int32[Array, " B"],
    *,
    decay: Float32[Array, " B"],
) -> Float32[Array, " B"]:
    """The weighted mean of the drawn tokens' probabilities before `apply_adaptive_p`; the latest weighs 1 - decay.

    That is llama.cpp's weighted sum over its total weight, which begins at its limit 1 / (1 - decay) and stays there.
    """
    return decay * mean + (1.0 - decay) * jnp.exp(logprob_of(before, token))


def logprob_of(logits: Float32[Array, "B V"], token: Int32[Array, " B"]) -> Float32[Array, " B"]:
    """The logprob of one token of each row."""
    own = jnp.take_along_axis(logits, token[:, None], axis=-1)
    return summary_of(logits).logprob(own)[:, 0]
