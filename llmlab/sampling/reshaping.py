"""Stages of the library that reshape all logits at once: logits [B, V] -> logits [B, V], removed tokens at -inf."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32

from llmlab.sampling.fields import GREEDY
from llmlab.sampling.logprobs import summary_of
from llmlab.sampling.truncation import finite_max

#: What stays of a logit that would otherwise become infinite, because only removed tokens have -inf.
_LEAST = jnp.finfo(jnp.float32).min


def apply_dynamic_temperature(
    logits: Float32[Array, "B V"],
    *,
    temperature: Float32[Array, " B"],
    reach: Float32[Array, " B"],
    exponent: Float32[Array, " B"],
) -> Float32[Array, "B V"]:
    """Makes the temperature depend on the entropy; to be followed by the stage that divides by `temperature`.

    Dynamic temperature (kalomaze 2023; llama.cpp's `dynatemp_range` and `dynatemp_exponent`): between t - range (at
    least 0) and t + range, at the share (entropy / ln of the number of tokens left)^exponent. It multiplies by t over
    that temperature. A range of 0 is off, and so is a temperature below 1e-5, which leaves one token in any case.
    """
    left = jnp.sum(logits > -jnp.inf, axis=-1, dtype=jnp.float32)
    most = jnp.log(jnp.maximum(left, 2.0))
    share = jnp.clip(summary_of(logits).entropy / most, 0.0, 1.0)
    low = jnp.maximum(temperature - reach, 0.0)
    wanted = low + (temperature + reach - low) * share**exponent
    # As for a temperature of 0, the least one is that below which a single token is left.
    factor = temperature / jnp.maximum(wanted, GREEDY)
    on = (reach > 0.0) & (temperature >= GREEDY) & (left > 1.0)
    scaled = jnp.maximum((logits - finite_max(logits)) * factor[:, None], _LEAST)
    return jnp.where(on[:, None] & (logits > -jnp.inf), scaled, logits)


def apply_quadratic(
    logits: Float32[Array, "B V"], *, factor: Float32[Array, " B"], curve: Float32[Array, " B"]
) -> Float32[Array, "B V"]:
    """Bends the logits: with d = l - max, max - f ((3 - c) / 2 d^2 - (c - 1) / 2 d^3); a factor of 0 is off.

    Quadratic smoothing (kalomaze 2024; `smoothing_factor` and `smoothing_curve` of text-generation-webui and
    Aphrodite). Near the largest logit it makes a distribution flatter, and far from it steeper.
    """
    f, c = factor[:, None], curve[:, None]
    top = finite_max(logits)
    d = jnp.where(logits > -jnp.inf, logits - top, 0.0)
    bent = top - f * (0.5 * (3.0 - c) * d**2 - 0.5 * (c - 1.0) * d**3)
    on = (f > 0.0) & (logits > -jnp.inf)
    return jnp.where(on, jnp.maximum(bent, _LEAST), logits)
