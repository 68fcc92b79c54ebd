"""Row by row, as a CPU samples from a large vocabulary: the oracle's distributions, and nothing runs for the others."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmlab.sampling.draw import noise, noise_of
from llmlab.sampling.history import history_of
from llmlab.sampling.logprobs import TokenStatistics
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from llmlab.sampling.pipeline import ORDER, ORDERS, process, run
from tests.sampling.cases import arrays, case
from tests.sampling.oracle import Case, law
from tests.sampling.test_oracle import check_figures, check_law

#: Settings of every kind, and how many tokens they leave: one, a few, many, all.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "warm": {"temperature": 0.7},
    "top_k": {"top_k": 50, "temperature": 1.3},
    "top_p": {"top_p": 0.9, "temperature": 0.5},
    "wide top_p": {"top_p": 0.99, "temperature": 2.0},
    "min_p": {"min_p": 0.05},
    "cuts": {"top_k": 20, "top_p": 0.8, "min_p": 0.02, "temperature": 0.8},
    "moved": {"logit_bias": {3: 4.0}, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": -0.3},
    "held": {"min_tokens": 9, "top_k": 1},
}
V = 5000


@partial(jax.jit, static_argnames=("order", "by_rows"))
def sampled(
    logits: jax.Array, inputs: SamplerInputs, history: History, active: jax.Array, *, order: str, by_rows: bool
) -> tuple[jax.Array, TokenStatistics]:
    return run(logits, inputs, history, order=ORDERS[order], active=active, by_rows=by_rows)


@jax.jit
def program(logits: Any, inputs: Any, history: Any) -> tuple[Any, Any, TokenStatistics]:
    return process(logits, inputs, history, by_rows=True), *run(logits, inputs, history, by_rows=True)


def batch(rows: list[SamplingParams], *, seed: int = 0) -> tuple[jax.Array, SamplerInputs, History]:
    """Rows over `V` tokens, steep and flat in turn, with a history."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(len(rows), V)) * np.where(np.arange(len(rows)) % 2, 6.0, 2.0)[:, None]).astype(
        np.float32
    )
    seen = history_of(rng.integers(0, V, 40), rng.integers(0, 9, 6), vocab_size=V)
    history = jax.tree.map(lambda x: np.repeat(x, len(rows), axis=0), seen)
    return jnp.asarray(logits), stack(rows, vocab_size=V, ends=(1, 7)), history


@pytest.mark.parametrize(("vocab_size", "examples"), [(1, 4), (33, 24), (500, 30), (4096, 12)])
def test_the_oracles_distributions_and_statistics(vocab_size: int, examples: int) -> None:
    tally: Counter[str] = Counter()

    @settings(max_examples=examples, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(cases=st.lists(case(vocab_size=vocab_size), min_size=8, max_size=8))
    def check(cases: list[Case]) -> None:
        logits, tokens, figures = jax.tree.map(np.asarray, program(*arrays(cases)))
        for i, one in enumerate(cases):
            expected = law(one)
            same = check_law(expected, logits[i], tally)
            check_figures(one, expected, int(tokens[i]), TokenStatistics(*(f[i] for f in figures)), same=same)

    check()
    otherwise = sum(n for what, n in tally.items() if what.startswith("decided"))
    assert otherwise <= 0.05 * tally["cases"] + 1


@pytest.mark.parametrize("order", ORDERS)
def test_the_tokens_and_statistics_of_a_whole_batch(order: str) -> None:
    """Both ways draw with one noise from one distribution, so that they draw one token."""
    rows = [SamplingParams(**fields, seed=5, choice=i) for i, fields in enumerate(SETTINGS.values())]
    every = jnp.ones(len(rows), bool)
    for seed in range(6):
        token, figures = sampled(*batch(rows, seed=seed), every, order=order, by_rows=True)
        expected, theirs = sampled(*batch(rows, seed=seed), every, order=order, by_rows=False)
        assert token.tolist() == expected.tolist()
        for name, ours, other in zip(figures._fields, figures, theirs, strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_a_token_does_not_depend_on_who_asks_for_statistics(order: str, by_rows: bool) -> None:
    fields = [SamplingParams(**fields, seed=9, choice=i) for i, fields in enumerate(SETTINGS.values())]
    every = jnp.ones(len(fields), bool)
    logits, inputs, history = batch(fields)
    rng = np.random.default_rng(0)
    asked = jax.tree.map(np.asarray, sampled(logits, inputs, history, every, order=order, by_rows=by_rows))
    for wanted in (np.zeros(len(fields), bool), *(rng.random(len(fields)) < 0.5 for _ in range(4))):
        some = inputs._replace(statistics=wanted)
        token, figures = sampled(logits, some, history, every, order=order, by_rows=by_rows)
        assert token.tolist() == asked[0].tolist()
        for ours, theirs in zip(figures, asked[1], strict=True):
            np.testing.assert_array_equal(np.asarray(ours)[wanted], theirs[wanted])


def test_a_row_has_its_bits_alone_in_any_slot_and_beside_any_rows() -> None:
    fields = [SamplingParams(**fields, seed=2, choice=i) for i, fields in enumerate(SETTINGS.values())]
    logits, inputs, history = batch(fields)
    every = jnp.ones(len(fields), bool)
    together = jax.tree.map(np.asarray, sampled(logits, inputs, history, every, order="llmlab", by_rows=True))
    for i in range(len(fields)):
        turned = jax.tree.map(lambda x, i=i: np.roll(x, -i, axis=0), (logits, inputs, history))
        alone = sampled(*turned, jnp.arange(len(fields)) == 0, order="llmlab", by_rows=True)
        for mixed, lonely in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(mixed[i], lonely[0])
            assert not np.asarray(lonely[1:]).any(), "the other rows did not run"


def test_what_runs_is_what_the_active_rows_ask_for() -> None:
    """Counted where it runs: a stage once for each active row that asks for it, and for no other."""
    ran: list[float] = []

    def counted(logits: Any, inputs: Any, history: Any) -> Any:
        jax.debug.callback(lambda value: ran.append(float(value[0])), inputs.presence_penalty)
        return logits

    stage = next(one for one in ORDER if one.name == "presence")._replace(apply=counted)
    rows = [SamplingParams(presence_penalty=value) for value in (0.0, 0.5, 0.25, 0.0, 0.75, 1.0)]
    logits, inputs, history = batch(rows)
    step = jax.jit(partial(run, order=(stage,), by_rows=True))
    for active, expected in (
        ([0, 0, 0, 0, 0, 0], []),
        ([1, 0, 0, 1, 0, 0], []),
        ([1, 1, 0, 0, 1, 0], [0.5, 0.75]),
        ([1, 1, 1, 1, 1, 1], [0.5, 0.25, 0.75, 1.0]),
    ):
        ran.clear()
        jax.block_until_ready(step(logits, inputs, history, active=jnp.array(active, bool)))
        jax.effects_barrier()
        assert ran == expected


def test_the_noise_of_some_tokens_is_to_the_bit_that_of_all() -> None:
    rng = np.random.default_rng(3)
    size = 151_936
    seed, choice, position = np.array([[7, 2**31 + 5]], np.uint32), np.array([3], np.int32), np.array([11], np.int32)
    every = np.asarray(jax.jit(noise, static_argnums=3)(seed, choice, position, size))
    for count in (1, 20, 128, 1000):
        ids = np.sort(rng.choice(size, (1, count), replace=False)).astype(np.int32)
        some = np.asarray(jax.jit(noise_of)(seed, choice, position, ids))
        np.testing.assert_array_equal(some, np.take_along_axis(every, ids, axis=-1))


def test_logits_that_are_not_numbers_are_told_without_statistics() -> None:
    logits = jnp.asarray(np.array([[0.0, 1.0], [np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0]], np.float32))
    inputs = stack([SamplingParams(statistics=False)] * 4, vocab_size=2)
    history = History(np.zeros((4, 2), bool), np.zeros((4, 2), np.int32), np.zeros(4, np.int32))
    for by_rows in (True, False):
        _, figures = jax.jit(partial(run, by_rows=by_rows))(logits, inputs, history)
        assert np.isnan(figures.entropy).tolist() == [False, True, True, False]
