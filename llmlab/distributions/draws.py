"""How often two laws draw the same token from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, Int64

from llmlab.distributions.figures import blocks
from llmlab.distributions.step import bucket
from llmlab.sampling.draw import draw, noise
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from llmlab.sampling.pipeline import ORDERS, process

__all__ = ["Noise", "coupled_difference", "drawn", "perturb"]


def coupled_difference(p: Float64[np.ndarray, " V"], q: Float64[np.ndarray, " W"]) -> float:
    """The probability that Gumbel-max draws different tokens from two laws under one and the same noise.

    1 - sum over i kept in both of 1 / sum over j of max(p_j / p_i, q_j / q_i): token i wins in both where its noise
    beats that of each j by the larger of the two log ratios, and of independent Gumbel variables with shifts a_j the
    i-th is the largest with probability exp(a_i) / sum of exp(a_j). It is never less than the total variation, which
    the best of all couplings reaches, and at most about twice that.

    Args:
        p: one law's probabilities; zero where a token is cut.
        q: the other's, over the same tokens.

    Raises:
        ValueError: they are not over the same tokens.
    """
    if p.shape != q.shape:
        raise ValueError(f"the laws are over {len(p)} and {len(q)} tokens")
    some = (p > 0) | (q > 0)
    p, q = p[some] / p.sum(), q[some] / q.sum()
    with np.errstate(divide="ignore"):
        ratio = p / q
    # Where p_j / q_j is at least p_i / q_i it is p's ratio that is the larger: sorted by it, that is two running sums.
    order = np.argsort(ratio, kind="stable")
    p, q = p[order], q[order]
    from_here, before = np.cumsum(p[::-1])[::-1], np.cumsum(q) - q
    both = (p > 0) & (q > 0)
    return float(1.0 - np.sum(1.0 / (from_here[both] / p[both] + before[both] / q[both])))


class Noise(NamedTuple):
    """Which noise a step draws with."""

    seed: int | None  #: None: nothing is drawn
    choice: int
    position: int

    def values(self, vocab_size: int) -> Float32[np.ndarray, " V"] | None:
        """The Gumbel noise of every token."""
        import jax.numpy as jnp

        from llmlab.sampling.draw import noise
        from llmlab.sampling.params import seed_words

        if self.seed is None:
            return None
        seed = jnp.array([seed_words(self.seed)], jnp.uint32)
        choice, position = jnp.array([self.choice], jnp.int32), jnp.array([self.position], jnp.int32)
        return np.asarray(noise(seed, choice, position, vocab_size))[0]


def drawn(
    final: Float32[np.ndarray, " V"], seeds: Sequence[Sequence[int]], *, choice: int, position: int
) -> Int64[np.ndarray, " S"]:
    """The token that is drawn under each of S seeds (their high and low words), from the logits of a law."""
    parts = []
    for block in blocks(seeds, V=len(final)):
        words = np.zeros((bucket(len(block)), 2), np.uint32)
        words[: len(block)] = block
        parts.append(np.asarray(_drawn(final, words, np.int32(choice), np.int32(position)))[: len(block)])
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


@jax.jit
def _drawn(final: Array, seeds: Array, choice: Array, position: Array) -> Array:
    S = seeds.shape[0]
    rows = noise(seeds, jnp.broadcast_to(choice, (S,)), jnp.broadcast_to(position, (S,)), final.shape[0])
    return draw(jnp.broadcast_to(final, rows.shape), rows)


def perturb(
    logits: Float32[np.ndarray, " V"],
    params: SamplingParams,
    *,
    prompt: np.ndarray,
    made: np.ndarray,
    ends: Sequence[int],
    mask: np.ndarray | None,
    order: str,
) -> tuple[Float32[np.ndarray, " V"], Float32[np.ndarray, " V"]]:
    """The logits of the law of the token behind `made`, and the same with the noise of that place."""
    V = len(logits)
    inputs = stack([params], vocab_size=V, ends=ends)
    if mask is not None:
        inputs = inputs._replace(mask=mask[None, :], masked=np.array([True]))
    seen = np.zeros((1, V), bool)
    seen[0, prompt] = True
    counts = np.bincount(made, minlength=V).astype(np.int32)[None, :]
    history = History(seen, counts, np.array([len(made)], np.int32))
    final, values = _perturbed(logits[None, :], inputs, history, order=order)
    return np.asarray(final), np.asarray(final) + np.asarray(values)


@partial(jax.jit, static_argnames="order")
def _perturbed(logits: Array, inputs: SamplerInputs, history: History, *, order: str) -> tuple[Array, Array]:
    final = process(logits, inputs, history, order=ORDERS[order])
    return final[0], noise(inputs.seed, inputs.choice, history.position, logits.shape[-1])[0]
