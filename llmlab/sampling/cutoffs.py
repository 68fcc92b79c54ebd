"""Truncations of the library: logits [B, V] -> logits [B, V], removed tokens at -inf. Nothing is sorted.

Each keeps at least the most likely token, and its value at which it does nothing leaves every bit. Probabilities are
those of the tokens that no earlier stage removed.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float32, Int32

from llmlab.sampling.front import leading
from llmlab.sampling.logprobs import summary_of
from llmlab.sampling.truncation import Last, finite_max, keep_up_to, token_ids

#: How many of the most likely tokens top_h looks at.
TOP_H_TOKENS = 100


def apply_top_n_sigma(logits: Float32[Array, "B V"], *, top_n_sigma: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Keeps a token iff its logit is at least the largest minus n standard deviations of those that are left; 0 is off.

    Tang et al. 2024 (arXiv:2411.07641). The standard deviation is that of the population, over the tokens that no
    earlier stage removed.
    """
    n = top_n_sigma[:, None]
    left = logits > -jnp.inf
    top = finite_max(logits)
    # Differences from the largest logit, because the squares of large logits would cancel.
    below = jnp.where(left, logits - top, 0.0)
    count = jnp.maximum(jnp.sum(left, axis=-1, keepdims=True, dtype=jnp.float32), 1.0)
    mean = jnp.sum(below, axis=-1, keepdims=True) / count
    variance = jnp.sum(jnp.where(left, (below - mean) ** 2, 0.0), axis=-1, keepdims=True) / count
    kept = logits - top >= -n * jnp.sqrt(variance)
    return jnp.where(kept | (n <= 0.0), logits, -jnp.inf)


def apply_typical_p(logits: Float32[Array, "B V"], *, typical_p: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Keeps a token iff the tokens whose surprise is closer to the entropy have less than p together; 1 is off.

    Locally typical sampling (Meister et al. 2022, arXiv:2202.00666). Tokens that are equally close stay or go together.
    """
    summary = summary_of(logits)
    logprobs = summary.logprob(logits)
    distance = jnp.where(logits > -jnp.inf, jnp.abs(-logprobs - summary.entropy[:, None]), jnp.inf)
    limit = _least_reaching(distance, weights=jnp.exp(logprobs), budget=typical_p)
    return jnp.where((distance <= limit[:, None]) | (typical_p >= 1.0)[:, None], logits, -jnp.inf)


def _least_reaching(
    values: Float32[Array, "B V"], *, weights: Float32[Array, "B V"], budget: Float32[Array, " B"]
) -> Float32[Array, " B"]:
    """The least value (>= 0) up to which the weights add up to the budget; infinite where they never do.

    The bits of floats that are not negative are ordered as the floats are, so that 31 halvings of an integer range find
    the value exactly.
    """
    bits = lax.bitcast_convert_type(values, jnp.int32)

    def halve(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = state  # up to `low` the weights fall short, up to `high` they reach the budget
        middle = low + (high - low) // 2
        weight = jnp.sum(jnp.where(bits <= middle[:, None], weights, 0.0), axis=-1)
        reached = weight >= budget
        return jnp.where(reached, low, middle), jnp.where(reached, middle, high)

    infinite = lax.bitcast_convert_type(jnp.full(budget.shape, jnp.inf, jnp.float32), jnp.int32)
    _, high = lax.fori_loop(0, 31, halve, (jnp.full_like(infinite, -1), infinite))
    return lax.bitcast_convert_type(high, jnp.float32)


def apply_epsilon_cutoff(logits: Float32[Array, "B V"], *, epsilon: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Removes tokens whose probability is less than epsilon; 0 is off.

    Epsilon sampling (Hewitt et al. 2022, arXiv:2210.15191). The most likely tokens stay in any case.
    """
    return _cut_below(logits, jnp.log(epsilon), off=epsilon <= 0.0)


def apply_eta_cutoff(logits: Float32[Array, "B V"], *, epsilon: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Removes tokens whose probability is less than min(epsilon, sqrt(epsilon) * exp(-entropy)); 0 is off.

    Eta sampling (Hewitt et al. 2022, arXiv:2210.15191). The most likely tokens stay in any case.
    """
    log_epsilon = jnp.log(epsilon)
    least = jnp.minimum(log_epsilon, 0.5 * log_epsilon - summary_of(logits).entropy)
    return _cut_below(logits, least, off=epsilon <= 0.0)


def apply_p_less(
    logits: Float32[Array, "B V"], *, p_less: Int32[Array, " B"], vocab_size: int
) -> Float32[Array, "B V"]:
    """Removes tokens whose probability is less than the sum of all squared probabilities; 0 is off.

    p-less sampling (Tan et al. 2025, arXiv:2509.23234), which has no parameter: 1 is the threshold L = sum of p^2, and
    2 the normalised (V L - 1) / (V - 1), with V the size of the vocabulary.
    """
    logprobs = summary_of(logits).logprob(logits)
    collision = jnp.sum(jnp.exp(2.0 * logprobs), axis=-1)
    size = float(vocab_size)
    normalised = jnp.maximum(size * collision - 1.0, 0.0) / max(size - 1.0, 1.0)
    return _cut_below(logits, jnp.log(jnp.where(p_less == 2, normalised, collision)), off=p_less <= 0)


def _cut_below(
    logits: Float32[Array, "B V"], least: Float32[Array, " B"], *, off: Bool[Array, " B"]
) -> Float32[Array, "B V"]:
    """Removes tokens whose logprob is below `least`, except those with the largest logit."""
    kept = (summary_of(logits).logprob(logits) >= least[:, None]) | (logits >= finite_max(logits))
    return jnp.where(kept | off[:, None], logits, -jnp.inf)


def apply_top_h(logits: Float32[Array, "B V"], *, top_h: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Keeps the most likely tokens while their share of the entropy is at most h; 0 is off.

    Top-H decoding (Potraghloo et al. 2025, arXiv:2509.02510) as its authors wrote it for transformers: of the
    distribution over the 100 most likely tokens, the terms -p ln p are added up in falling order of p, and a token
    stays iff the sum up to it is at most h times the whole. The first always stays, ties go to the lower id.
    """
    off = top_h <= 0.0
    first, ids = leading(logits, TOP_H_TOKENS)
    logprobs = summary_of(first).logprob(first)
    terms = jnp.where(logprobs > -1000.0, -jnp.exp(logprobs) * logprobs, 0.0)
    through = jnp.cumsum(terms, axis=-1)
    # A removed token adds nothing, and the last kept one is looked for among those that are left.
    stays = (through <= top_h[:, None] * through[:, -1:]) & (first > -jnp.inf)
    at = jnp.maximum(jnp.sum(stays, axis=-1, keepdims=True), 1) - 1
    last = Last(jnp.take_along_axis(first, at, axis=-1)[:, 0], jnp.take_along_axis(ids, at, axis=-1)[:, 0])
    return keep_up_to(logits, last, off=off)


def apply_xtc(
    logits: Float32[Array, "B V"], *, threshold: Float32[Array, " B"], chosen: Bool[Array, " B"]
) -> Float32[Array, "B V"]:
    """Removes all tokens whose probability is at least the threshold except the least likely one of them.

    XTC, exclude top choices (P. E. Weidmann 2024, text-generation-webui pull request 6335), in the rows `chosen` for
    it. Nothing happens where fewer than two tokens reach the threshold; of equal ones that with the highest id is last.
    """
    reaches = summary_of(logits).logprob(logits) >= jnp.log(threshold)[:, None]
    reaches &= logits > -jnp.inf
    least = jnp.min(jnp.where(reaches, logits, jnp.inf), axis=-1, keepdims=True)
    ids = token_ids(logits)
    last = jnp.max(jnp.where(reaches & (logits == least), ids, -1), axis=-1, keepdims=True)
    return jnp.where(chosen[:, None] & reaches & (ids != last), -jnp.inf, logits)
