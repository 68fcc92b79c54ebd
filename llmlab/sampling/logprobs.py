"""Statistics of sampled tokens: logprobs, ranks and entropies in the raw and in the sampling distribution.

Natural logarithms, entropies in nats, 0 log 0 = 0. *Raw* values come from the log-softmax of the model's own logits,
before every stage; *sampling* values from the distribution that the token was sampled from. Raw values do not depend on
the sampling parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float32, Int32

from llmlab.sampling.front import leading
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


def unknown_statistics(count: int) -> TokenStatistics:
    """Returns the statistics of tokens that nothing is known of, on the host: NaN, and -1 for ranks and counts."""
    nan, none = np.full(count, np.nan, np.float32), np.full(count, -1, np.int32)
    ids, logprobs = np.zeros((count, 0), np.int32), np.zeros((count, 0), np.float32)
    return TokenStatistics(nan, nan, none, nan, nan, nan, none, ids, logprobs, logprobs)


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
    top, ids = leading(logprobs, max(count, 2))  # at least two, because the margin needs them
    column = token[:, None]
    own = jnp.take_along_axis(logprobs, column, axis=-1)
    second = top[:, 1] if vocab_size > 1 else jnp.full_like(top[:, 0], -jnp.inf)
    other = jnp.where(ids[:, 0] == token, second, top[:, 0])
    of_watched = (None, None) if watched is None else _watched_logprobs(logprobs, sampling_logprobs, watched)
    return TokenStatistics(
        logprob=own[:, 0],
        sampling_logprob=jnp.take_along_axis(sampling_logprobs, column, axis=-1)[:, 0],
        rank=rank_of(raw, token),
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
    """The logprobs of the watched tokens in both distributions."""
    given = watched >= 0

    def gathered(of: Array) -> Array:
        return jnp.where(given, jnp.take_along_axis(of, jnp.maximum(watched, 0), axis=-1), 0.0)

    return gathered(logprobs), gathered(sampling_logprobs)


class Summary(NamedTuple):
    """What turns the logits of a row into logprobs, and the row's entropy."""

    top: Float32[Array, " B"]  #: the largest logit; 0 where none is left
    log_total: Float32[Array, " B"]  #: the log of the sum of exp(logit - top)
    entropy: Float32[Array, " B"]  #: in nats; 0 where no token is left

    def logprob(self, logits: Float32[Array, "B N"]) -> Float32[Array, "B N"]:
        """The logprobs of some of the row's logits; -inf of a removed one."""
        return (logits - self.top[:, None]) - self.log_total[:, None]


def summary_of(logits: Float32[Array, "B V"]) -> Summary:
    """The summary of each row."""
    top = finite_max(logits)
    shifted = logits - top
    weights = jnp.exp(shifted)
    # The total is 0 only where no token is left, and the least float keeps -inf - log(total) from being a NaN.
    total = jnp.maximum(jnp.sum(weights, axis=-1), jnp.finfo(jnp.float32).tiny)
    # A removed token is 0 * -inf here; exp has underflowed long before -1000.
    mean = jnp.sum(jnp.where(shifted > -1000.0, weights * shifted, 0.0), axis=-1) / total
    log_total = jnp.log(total)
    return Summary(top[:, 0], log_total, jnp.maximum(log_total - mean, 0.0))


def logprobs_and_entropy(logits: Float32[Array, "B V"]) -> tuple[Float32[Array, "B V"], Float32[Array, " B"]]:
    """Returns the log-softmax [B, V] and its entropy [B], in nats; -inf and 0 for a row in which no token is left."""
    summary = summary_of(logits)
    return summary.logprob(logits), summary.entropy


def top_logprobs(
    raw: Float32[Array, "B V"], summary: Summary, count: int
) -> tuple[Float32[Array, "B A"], Int32[Array, "B A"]]:
    """The largest logprobs of each row and their ids, ties to the lower id; A is `count`, or V if that is less."""
    return leading(lax.optimization_barrier(summary.logprob(raw)), count)


def rank_of(raw: Float32[Array, "B V"], token: Int32[Array, " B"]) -> Int32[Array, " B"]:
    """The rank of each row's token, from 1.

    Ranked by the logits: subtracting the total makes logits equal that the model keeps apart, one in twenty in the
    tail of a large vocabulary.
    """
    column = token[:, None]
    logit = jnp.take_along_axis(raw, column, axis=-1)
    ahead = (raw > logit) | ((raw == logit) & (token_ids(raw) < column))
    return 1 + jnp.sum(ahead, axis=-1, dtype=jnp.int32)


def no_statistics(
    raw: Float32[Array, "B V"], *, alternatives: int = ALTERNATIVES, watched: Int32[Array, "B W"]
) -> TokenStatistics:
    """What stands in place of statistics that nobody asked for: zeros, and a NaN where logits are not numbers."""
    rows, count = raw.shape[0], min(alternatives, raw.shape[-1])
    # Not the logits themselves: their entropy is NaN where the largest is a NaN or infinite, and so is this.
    sound = jnp.max(raw, axis=-1) < jnp.inf
    zeros, wide = jnp.zeros(rows, jnp.float32), jnp.zeros((rows, count), jnp.float32)
    whole, named = zeros.astype(jnp.int32), jnp.zeros(watched.shape, jnp.float32)
    return TokenStatistics(
        logprob=zeros,
        sampling_logprob=zeros,
        rank=whole,
        entropy=jnp.where(sound, zeros, jnp.float32(jnp.nan)),
        sampling_entropy=zeros,
        margin=zeros,
        kept=whole,
        top_ids=wide.astype(jnp.int32),
        top_logprobs=wide,
        top_sampling_logprobs=wide,
        watched_logprobs=named,
        watched_sampling_logprobs=named,
    )


def unknown(count: int) -> TokenStatistics:
    """Statistics [T] of tokens for which none were asked, on the host: NaN, 0 for counts, and no alternatives."""
    numbers, counts = np.full(count, np.nan, np.float32), np.zeros(count, np.int32)
    wide = np.zeros((count, 0), np.float32)
    return TokenStatistics(
        logprob=numbers,
        sampling_logprob=numbers,
        rank=counts,
        entropy=numbers,
        sampling_entropy=numbers,
        margin=numbers,
        kept=counts,
        top_ids=wide.astype(np.int32),
        top_logprobs=wide,
        top_sampling_logprobs=wide,
        watched_logprobs=wide,
        watched_sampling_logprobs=wide,
    )
