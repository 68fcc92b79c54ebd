"""Gumbel noise and what it samples: tokens under many seeds, and how often two distributions sample different ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, Int64

from llmlab.distributions.blocks import blocks, bucket
from llmlab.sampling.compiled import PerOrder
from llmlab.sampling.draw import draw, noise
from llmlab.sampling.history import history_of
from llmlab.sampling.orders import order_of, placed
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, seed_words, stack
from llmlab.sampling.pipeline import process
from llmlab.sampling.stage import reads_negative
from llmlab.sampling.trail import Masks, Trail

__all__ = ["Noise", "coupled_difference", "perturb", "sample_ids"]


def coupled_difference(p: Float64[np.ndarray, " V"], q: Float64[np.ndarray, " W"]) -> float:
    """The probability that Gumbel-max samples different tokens from two distributions with the same noise.

    It is 1 - sum over i kept in both of 1 / sum over j of max(p_j / p_i, q_j / q_i). Token i wins in both distributions
    where its noise exceeds that of each j by the larger of the two log ratios, and of independent Gumbel variables with
    shifts a_j the i-th is the largest with probability exp(a_i) / sum of exp(a_j). The result is never less than the
    total variation, which the best of all couplings reaches, and at most about twice that.

    Args:
        p: probabilities of one distribution; zero where a token is removed.
        q: those of the other, over the same tokens.

    Raises:
        ValueError: they are not over the same tokens.
    """
    if p.shape != q.shape:
        raise ValueError(f"the distributions are over {len(p)} and {len(q)} tokens")
    some = (p > 0) | (q > 0)
    p, q = p[some] / p.sum(), q[some] / q.sum()
    with np.errstate(divide="ignore"):
        ratio = p / q
    # max(p_j / p_i, q_j / q_i) is the ratio of p where p_j / q_j >= p_i / q_i: sorted by that, two running sums do.
    order = np.argsort(ratio, kind="stable")
    p, q = p[order], q[order]
    from_here, before = np.cumsum(p[::-1])[::-1], np.cumsum(q) - q
    both = (p > 0) & (q > 0)
    return float(1.0 - np.sum(1.0 / (from_here[both] / p[both] + before[both] / q[both])))


class Noise(NamedTuple):
    """Which Gumbel noise a step samples with: it is a function of seed, choice and position."""

    seed: int | None  #: None: nothing is sampled
    choice: int
    position: int

    def values(self, vocab_size: int) -> Float32[np.ndarray, " V"] | None:
        """The noise of every token; None without a seed."""
        if self.seed is None:
            return None
        seed = jnp.array([seed_words(self.seed)], jnp.uint32)
        choice, position = jnp.array([self.choice], jnp.int32), jnp.array([self.position], jnp.int32)
        return np.asarray(noise(seed, choice, position, vocab_size))[0]


def sample_ids(
    final: Float32[np.ndarray, " V"], seeds: Sequence[Sequence[int]], *, choice: int, position: int
) -> Int64[np.ndarray, " S"]:
    """The token that each of S seeds samples.

    Args:
        final: the logits after the last stage.
        seeds: the high and the low word of each seed, as `seed_words` returns them.
        choice: the index of the choice, which the noise depends on.
        position: the position in the answer, which the noise depends on.
    """
    parts = []
    for block in blocks(seeds, V=len(final)):
        words = np.zeros((bucket(len(block)), 2), np.uint32)
        words[: len(block)] = block
        parts.append(np.asarray(_sample(final, words, np.int32(choice), np.int32(position)))[: len(block)])
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


@jax.jit
def _sample(final: Array, seeds: Array, choice: Array, position: Array) -> Array:
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
    trail: Trail | None = None,
    masks: Masks | None = None,
) -> tuple[Float32[np.ndarray, " V"], Float32[np.ndarray, " V"]]:
    """The logits after the last stage, and the same plus the noise of the position; the largest of these is sampled.

    Args:
        logits: the model's, of the token after `made`.
        params: the settings of the row, its seed and choice among them.
        prompt: the prompt's token ids [L].
        made: the token ids generated after it [T].
        ends: the tokens that end an answer.
        mask: the tokens that the grammar allows, packed into words [W]; None without a grammar.
        order: the name of the order of the sampler's stages.
        trail: the logits that `made` were drawn from, for stages with a state; those after a negative prompt too.
        masks: what the grammar allowed at each of `made`.
    """
    V = len(logits)
    order = placed(order, [params])
    inputs = stack([params], vocab_size=V, ends=ends, order=order_of(order))
    states = None if trail is None else trail.states(inputs, order=order, rows=[params], masks=[masks])
    if mask is not None:
        inputs = inputs._replace(mask=mask[None, :], masked=np.array([True]))
    if trail is not None and reads_negative(order_of(order)):
        inputs = inputs._replace(negative=trail.negative(len(made))[None, :])
    history = history_of(prompt, made, vocab_size=V, order=order_of(order), states=states)
    final, values = _perturbed(logits[None, :], inputs, history, order=order)
    return np.asarray(final), np.asarray(final) + np.asarray(values)


@PerOrder
def _perturbed(logits: Array, inputs: SamplerInputs, history: History, *, order: str) -> tuple[Array, Array]:
    final = process(logits, inputs, history, order=order_of(order))
    return final[0], noise(inputs.seed, inputs.choice, history.position, logits.shape[-1])[0]
