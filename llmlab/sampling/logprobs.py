"""Statistics of sampled tokens: logprobs, ranks and entropies in the raw and in the sampling distribution.

Natural logarithms, entropies in nats, 0 log 0 = 0. *Raw* values come from the log-softmax of the model's own logits,
before every stage; *sampling* values from the distribution that the token was sampled from. Raw values do not depend on
the sampling parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float32, Int32

from llmlab.sampling.truncation import finite_max, token_ids

#: The API's largest top_logprobs. The host drops those that a request does not ask for.
ALTERNATIVES = 20


class TokenStatistics(NamedTuple):
    """The statistics of one token per row: JAX's arrays on a device, NumPy's on the host."""

    logprob: Float32[Any, " B"]  #: raw, also of a token that a stage removed
    sampling_logprob: Float32[Any, " B"]
    rank: Int32[Any, " B"]  #: in the raw distribution, from 1; of equal logits the lower id comes first
    entropy: Float32[Any, " B"]  #: of the raw distribution
    sampling_entropy: Float32[Any, " B"]
    margin: Float32[Any, " B"]  #: the raw logprob minus that of the best other token; inf if there is none
    kept: Int32[Any, " B"]  #: how many tokens can be sampled
    top_ids: Int32[Any, "B A"]  #: the A most likely by raw logprob, then id; the sampled token need not be one of them
    top_logprobs: Float32[Any, "B A"]
    top_sampling_logprobs: Float32[Any, "B A"]
    watched_logprobs: Float32[Any, "B W"] | None = None  #: raw, of tokens that were named; None where none could be
    watched_sampling_logprobs: Float32[Any, "B W"] | None = None


def token_statistics(
    raw: Float32[Array, "B V"],
    processed: Float32[Array, "B V"],
    token: Int32[Array, " B"],
    *,
    alternatives: int = ALTERNATIVES,
    watched: Int32[Array, "B W"] | None = None,
) -> TokenStatistics:
    """Returns the statistics of `token` in the raw and in the sampling distribution.

    Args:
        raw: the model's logits.
        processed: the logits after all stages; a row in which no token is left gets `kept` 0.
        token: one token per row.
        alternatives: how many of the most likely tokens to list; V if that is less.
        watched: further tokens to give the logprobs of; -1 stands for none, and gets 0.
    """
    vocab_size = raw.shape[-1]
    count = min(alternatives, vocab_size)
    logprobs, entropy = logprobs_and_entropy(raw)
    sampling_logprobs, sampling_entropy = logprobs_and_entropy(processed)
    # At least two, because the margin needs them. And barriers: XLA turns a top_k whose results are sliced into a full
    # sort of the vocabulary, fifty times as slow. One for each: over both, XLA crashes when it partitions a program.
    top, ids = map(lax.optimization_barrier, lax.top_k(logprobs, min(max(count, 2), vocab_size)))
    column = token[:, None]
    own = jnp.take_along_axis(logprobs, column, axis=-1)
    # Ranked by the logits: subtracting the total makes logits equal that the model keeps apart, one in twenty in the
    # tail of a large vocabulary.
    logit = jnp.take_along_axis(raw, column, axis=-1)
    ahead = (raw > logit) | ((raw == logit) & (token_ids(raw) < column))
    second = top[:, 1] if vocab_size > 1 else jnp.full_like(top[:, 0], -jnp.inf)
    other = jnp.where(ids[:, 0] == token, second, top[:, 0])
    of_watched = (None, None) if watched is None else _watched_logprobs(logprobs, sampling_logprobs, watched)
    return TokenStatistics(
        logprob=own[:, 0],
        sampling_logprob=jnp.take_along_axis(sampling_logprobs, column, axis=-1)[:, 0],
        rank=1 + jnp.sum(ahead, axis=-1, dtype=jnp.int32),
        entropy=entropy,
        sampling_entropy=sampling_entropy,
        margin=own[:, 0] - other,
        kept=jnp.sum(processed > -jnp.inf, axis=-1, dtype=jnp.int32),
        top_ids=ids[:, :count],
        top_logprobs=top[:, :count],
        top_sampling_logprobs=jnp.take_along_axis(sampling_logprobs, ids[:, :count], axis=-1),
        watched_logprobs=of_watched[0],
        watched_sampling_logprobs=of_watched[1],
    )


def _watched_logprobs(
    logprobs: Float32[Array, "B V"], sampling_logprobs: Float32[Array, "B V"], watched: Int32[Array, "B W"]
) -> tuple[Float32[Array, "B W"], Float32[Array, "B W"]]:
    """The logprobs of the watched tokens in both distributions. Mostly no row watches any, and nothing is gathered."""
    given, nothing = watched >= 0, jnp.zeros(watched.shape, jnp.float32)

    def gathered(of: Array) -> Array:
        return jnp.where(given, jnp.take_along_axis(of, jnp.maximum(watched, 0), axis=-1), nothing)

    found: tuple[Array, Array] = lax.cond(
        jnp.any(given), lambda: (gathered(logprobs), gathered(sampling_logprobs)), lambda: (nothing, nothing)
    )
    return found


def logprobs_and_entropy(logits: Float32[Array, "B V"]) -> tuple[Float32[Array, "B V"], Float32[Array, " B"]]:
    """Returns the log-softmax [B, V] and its entropy [B], in nats; -inf and 0 for a row in which no token is left."""
    shifted = logits - finite_max(logits)
    weights = jnp.exp(shifted)
    # The total is 0 only where no token is left, and the least float keeps -inf - log(total) from being a NaN.
    total = jnp.maximum(jnp.sum(weights, axis=-1), jnp.finfo(jnp.float32).tiny)
    # A removed token is 0 * -inf here; exp has underflowed long before -1000.
    mean = jnp.sum(jnp.where(shifted > -1000.0, weights * shifted, 0.0), axis=-1) / total
    log_total = jnp.log(total)
    return shifted - log_total[:, None], jnp.maximum(log_total - mean, 0.0)
