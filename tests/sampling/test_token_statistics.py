"""The statistics of tokens, on distributions small enough to write down."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.sampling.logprobs import TokenStatistics, token_statistics

INF = math.inf

compiled = jax.jit(token_statistics, static_argnames="alternatives")


def of(raw: list[float], left: list[float] | None, token: int, **options: int) -> TokenStatistics:
    """The statistics of a row, from its probabilities; of one row, as plain numbers and lists."""
    with np.errstate(divide="ignore"):
        laws = [
            np.log(np.array(law, np.float64)).astype(np.float32)[None] for law in (raw, raw if left is None else left)
        ]
    step = compiled(jnp.asarray(laws[0]), jnp.asarray(laws[1]), jnp.array([token], jnp.int32), **options)
    return TokenStatistics(*(value[0].tolist() for value in step if value is not None))


def close(a: float | list[float], b: float | list[float]) -> bool:
    return bool(np.allclose(a, b, rtol=0, atol=1e-6))


def test_the_plain_law() -> None:
    step = of([0.5, 0.25, 0.25, 0.0], None, 1)
    assert close(step.logprob, math.log(0.25)) and close(step.sampling_logprob, math.log(0.25))
    assert close(step.entropy, 1.5 * math.log(2)) and close(step.sampling_entropy, 1.5 * math.log(2))
    assert step.rank == 2
    assert close(step.margin, -math.log(2))
    assert step.kept == 3
    assert step.top_ids == [0, 1, 2, 3]
    assert close(step.top_logprobs[:3], np.log([0.5, 0.25, 0.25]).tolist()) and step.top_logprobs[3] == -INF


def test_ranks_break_ties_by_id_and_margins_see_them() -> None:
    law = [0.1, 0.4, 0.1, 0.4]
    assert [of(law, None, token).rank for token in range(4)] == [3, 1, 4, 2]
    assert [of(law, None, token).margin for token in (1, 3)] == [0.0, 0.0]
    assert close(of(law, None, 0).margin, -math.log(4))
    assert of(law, None, 0).top_ids == [1, 3, 0, 2]
    # The best token's margin is its lead.
    assert close(of([0.2, 0.8, 0.0, 0.0], None, 1).margin, math.log(4))


def test_ranks_keep_apart_what_the_logprobs_round_together() -> None:
    V = 151936
    raw = np.random.default_rng(0).normal(0.0, 0.3, V).astype(np.float32)
    ranking = np.argsort(-raw, kind="stable")
    wide = raw.astype(np.float64)
    rounded = (wide - np.log(np.exp(wide).sum())).astype(np.float32)
    # The places at which the order of the float32 logprobs, ties to the lower id, has another token.
    places = np.flatnonzero(np.argsort(-rounded, kind="stable") != ranking)[:24]
    assert len(places) == 24
    rows = jnp.broadcast_to(raw, (24, V))
    step = compiled(rows, rows, jnp.asarray(ranking[places], jnp.int32))
    assert step.rank.tolist() == (places + 1).tolist()


def test_sampling_figures_are_of_the_law_drawn_from() -> None:
    step = of([0.5, 0.25, 0.25, 0.0], [2 / 3, 0.0, 1 / 3, 0.0], 2)
    assert close(step.logprob, math.log(0.25)) and close(step.sampling_logprob, math.log(1 / 3))
    assert close(step.sampling_entropy, -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert close(step.entropy, 1.5 * math.log(2))
    assert step.kept == 2
    # A banned token has its true raw value, and no sampling one; the list is by raw logprob all the same.
    assert step.top_ids == [0, 1, 2, 3]
    assert close(step.top_logprobs[1], math.log(0.25)) and step.top_sampling_logprobs[1] == -INF
    assert close(step.top_sampling_logprobs[:4:2], [math.log(2 / 3), math.log(1 / 3)])


def test_one_token_left_is_certain() -> None:
    step = of([0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0], 2)
    assert (step.sampling_logprob, step.sampling_entropy, step.kept) == (0.0, 0.0, 1)
    assert step.rank == 3


def test_what_the_model_itself_rules_out() -> None:
    step = of([1.0, 0.0, 0.0, 0.0], None, 0)
    assert (step.logprob, step.entropy, step.kept, step.rank, step.margin) == (0.0, 0.0, 1, 1, INF)
    assert step.top_logprobs == [0.0, -INF, -INF, -INF]
    assert step.top_ids == [0, 1, 2, 3]


def test_a_row_in_which_nothing_is_left_says_so() -> None:
    step = of([0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0], 0)
    assert (step.kept, step.sampling_logprob, step.sampling_entropy) == (0, -INF, 0.0)
    assert close(step.logprob, math.log(0.5))
    assert step.top_sampling_logprobs == [-INF] * 4


@pytest.mark.parametrize("alternatives", [0, 1, 2, 5])
def test_as_many_alternatives_as_asked_for(alternatives: int) -> None:
    step = of([0.1, 0.2, 0.3, 0.4], None, 3, alternatives=alternatives)
    assert step.top_ids == [3, 2, 1, 0][:alternatives]
    assert close(step.margin, math.log(4 / 3))


def test_a_vocabulary_of_one() -> None:
    step = of([1.0], None, 0)
    assert (step.logprob, step.entropy, step.rank, step.margin, step.kept) == (0.0, 0.0, 1, INF, 1)
    assert step.top_ids == [0]


def test_entropy_of_a_uniform_law_over_a_large_vocabulary() -> None:
    V = 151936
    step = compiled(jnp.full((1, V), 7.0), jnp.full((1, V), 7.0), jnp.array([V - 1], jnp.int32))
    np.testing.assert_allclose(step.entropy, math.log(V), rtol=1e-6)
    np.testing.assert_allclose(step.logprob, -math.log(V), rtol=1e-6)
    assert step.rank.tolist() == [V]
    assert step.top_ids[0].tolist() == list(range(20))


def test_raw_figures_ignore_a_constant_and_extreme_logits() -> None:
    row = np.array([[1000.0, 999.0, -3e38, -np.inf]], np.float32)
    step = jax.tree.map(np.asarray, compiled(jnp.asarray(row), jnp.asarray(row), jnp.array([1], jnp.int32)))
    assert np.isfinite(step.entropy).all()
    np.testing.assert_allclose(step.logprob, -1 - math.log1p(math.exp(-1)), rtol=1e-6)
    assert step.kept.tolist() == [3]
