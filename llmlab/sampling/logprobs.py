"""The figures of a step: what the model thought of the drawn token, and what the law it was drawn from did.

Natural logarithms, entropies in nats, 0 log 0 = 0. *Raw* is the log-softmax of the model's own logits, before every
stage; *sampling* is that of the law the token was drawn from. Raw figures never depend on the sampling parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float32, Int32

from llmlab.sampling.truncation import finite_max, token_ids

#: The API's largest top_logprobs. How many of them a request wants is for the host to cut.
ALTERNATIVES = 20


class Figures(NamedTuple):
    """A step's figures for each row: JAX's arrays on a device, numpy's on the host. Minus infinity is -inf."""

    logprob: Float32[Any, " B"]  #: raw, also of a token that a stage banned
    sampling_logprob: Float32[Any, " B"]
    rank: Int32[Any, " B"]  #: in the raw law, from 1, equal logits to the lower id
    entropy: Float32[Any, " B"]  #: of the raw law
    sampling_entropy: Float32[Any, " B"]
    margin: Float32[Any, " B"]  #: the raw logprob less that of the best other token; inf where there is none
    kept: Int32[Any, " B"]  #: how many tokens the law drawn from has
    top_ids: Int32[Any, "B A"]  #: the A best by raw logprob, then id; the drawn token is not forced in
    top_logprobs: Float32[Any, "B A"]
    top_sampling_logprobs: Float32[Any, "B A"]


def figures(
    raw: Float32[Array, "B V"],
    processed: Float32[Array, "B V"],
    token: Int32[Array, " B"],
    *,
    alternatives: int = ALTERNATIVES,
) -> Figures:
    """The figures of `token`, from the model's logits and those of the law it was drawn from.

    There are `alternatives` of them, or V if that is less. A row in which nothing is left has kept 0.
    """
    vocab_size = raw.shape[-1]
    count = min(alternatives, vocab_size)
    logprobs, entropy = law(raw)
    sampling_logprobs, sampling_entropy = law(processed)
    # At least two, which the margin wants. And barriers: XLA turns a top_k whose results are sliced into a full sort
    # of the vocabulary, fifty times as slow. One for each: over both at once, XLA dies where it partitions a program.
    top, ids = map(lax.optimization_barrier, lax.top_k(logprobs, min(max(count, 2), vocab_size)))
    column = token[:, None]
    own = jnp.take_along_axis(logprobs, column, axis=-1)
    # Ranked by the logits: subtracting the total rounds tokens together that the model keeps apart, one in twenty of a
    # large vocabulary's tail.
    logit = jnp.take_along_axis(raw, column, axis=-1)
    ahead = (raw > logit) | ((raw == logit) & (token_ids(raw) < column))
    second = top[:, 1] if vocab_size > 1 else jnp.full_like(top[:, 0], -jnp.inf)
    other = jnp.where(ids[:, 0] == token, second, top[:, 0])
    return Figures(
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
    )


def law(logits: Float32[Array, "B V"]) -> tuple[Float32[Array, "B V"], Float32[Array, " B"]]:
    """The log-softmax and its entropy. Of a row in which nothing is left: -inf everywhere, and 0."""
    shifted = logits - finite_max(logits)
    weights = jnp.exp(shifted)
    # The total is 0 only where nothing is left, and the least float keeps -inf - log(total) from being a NaN.
    total = jnp.maximum(jnp.sum(weights, axis=-1), jnp.finfo(jnp.float32).tiny)
    # A removed token is 0 * -inf here; exp has underflowed long before -1000.
    mean = jnp.sum(jnp.where(shifted > -1000.0, weights * shifted, 0.0), axis=-1) / total
    log_total = jnp.log(total)
    return shifted - log_total[:, None], jnp.maximum(log_total - mean, 0.0)
