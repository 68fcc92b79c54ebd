"""One program for every value of every field; rows that do not see each other; arrays that are made without JAX."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.sampling.logprobs import TokenStatistics
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from llmlab.sampling.pipeline import ORDER, process, run

V, B = 40, 8
traces = 0


@jax.jit
def sample(logits: jax.Array, inputs: SamplerInputs, history: History) -> tuple[jax.Array, jax.Array, TokenStatistics]:
    """The law, the token and the figures; counts how often it is traced, which is how often it can be compiled."""
    global traces
    traces += 1
    return process(logits, inputs, history), *run(logits, inputs, history)


#: Two stages, for what any two would show.
SHORT = tuple(stage for stage in ORDER if stage.name in ("temperature", "min_p"))

ACTIVE = {
    "logit_bias": {"logit_bias": {2: 3.0}},
    "repetition": {"repetition_penalty": 1.7},
    "frequency": {"frequency_penalty": 1.0},
    "presence": {"presence_penalty": -1.0},
    "mask": {"min_tokens": 5},
    "temperature": {"temperature": 0.4},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.5},
    "min_p": {"min_p": 0.2},
}


def rows(*params: SamplingParams) -> tuple[jax.Array, SamplerInputs, History]:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(len(params), V)).astype(np.float32))
    counts = rng.integers(0, 3, (len(params), V)).astype(np.int32)
    history = History(jnp.asarray(rng.random((len(params), V)) < 0.3), jnp.asarray(counts), jnp.asarray(counts[:, 0]))
    return logits, stack(params, vocab_size=V, ends=(1, 7)), history


def test_no_value_of_any_field_compiles_anything() -> None:
    jax.block_until_ready(sample(*rows(*[SamplingParams()] * B)))
    before = traces
    rng = np.random.default_rng(1)
    for trial in range(30):
        params = [
            SamplingParams(
                temperature=float(rng.choice([0.0, 1.0, rng.uniform(0, 2)])),
                top_k=int(rng.integers(0, 129)),
                top_p=float(rng.uniform(0.01, 1)),
                min_p=float(rng.uniform(0, 1)),
                repetition_penalty=float(rng.uniform(0.1, 2)),
                frequency_penalty=float(rng.uniform(-2, 2)),
                presence_penalty=float(rng.uniform(-2, 2)),
                logit_bias={int(t): float(rng.uniform(-100, 100)) for t in rng.integers(0, V, trial)},
                min_tokens=int(rng.integers(0, 9)),
                seed=int(rng.integers(-(2**63), 2**63)),
                choice=trial,
            )
            for _ in range(B)
        ]
        jax.block_until_ready(sample(*rows(*params)))
    assert traces == before


@pytest.mark.parametrize("stage", ORDER, ids=lambda stage: stage.name)
def test_a_stage_acts_in_the_rows_that_ask_and_leaves_the_others_bit_for_bit(stage) -> None:
    asks = SamplingParams(**ACTIVE[stage.name])
    logits, inputs, history = rows(SamplingParams(), asks, SamplingParams())
    history = history._replace(position=jnp.zeros(3, jnp.int32))
    assert np.asarray(stage.active(inputs)).tolist() == [False, True, False]
    left = np.asarray(jax.jit(stage.apply)(logits, inputs, history))
    for row in (0, 2):
        assert left[row].tobytes() == np.asarray(logits[row]).tobytes()
    assert (left[1] != np.asarray(logits[1])).any()


def test_nothing_asked_for_changes_nothing() -> None:
    logits, inputs, history = rows(*[SamplingParams()] * B)
    left, _, figures = sample(logits, inputs, history)
    assert np.asarray(left).tobytes() == np.asarray(logits).tobytes()
    np.testing.assert_array_equal(figures.logprob, figures.sampling_logprob)
    np.testing.assert_array_equal(figures.entropy, figures.sampling_entropy)
    assert figures.kept.tolist() == [V] * B


def test_logits_of_another_float_type_are_taken_to_float32() -> None:
    logits, inputs, history = rows(*[SamplingParams(temperature=0.5, min_p=0.1)] * B)
    half = logits.astype(jnp.bfloat16)
    left, exact = (process(x, inputs, history, order=SHORT) for x in (half, half.astype(jnp.float32)))
    assert left.dtype == jnp.float32
    np.testing.assert_array_equal(left, exact)


def test_the_choices_of_a_seed_and_the_seeds_of_a_choice_differ_and_come_back() -> None:
    flat = jnp.zeros((8, V))
    params = [SamplingParams(seed=seed, choice=choice) for seed in (1, 2) for choice in range(4)]
    _, inputs, history = rows(*params)
    history = History(history.prompt, history.counts, jnp.zeros(8, jnp.int32))
    first, again = (sample(flat, inputs, history)[1].tolist() for _ in range(2))
    assert first == again
    assert len(set(first)) > 4
    later = sample(flat, inputs, history._replace(position=jnp.ones(8, jnp.int32)))[1].tolist()
    assert later != first


def test_stack_makes_rows_of_numbers() -> None:
    params = [SamplingParams(), SamplingParams(logit_bias={3: -1.5, 0: 2.0}, seed=-1, choice=4, top_k=9, min_tokens=2)]
    inputs = stack(params, vocab_size=5, ends=(1, 4))
    assert all(isinstance(leaf, np.ndarray) and leaf.shape[0] == 2 for leaf in jax.tree.leaves(inputs))
    assert inputs.bias.tolist() == [[0.0] * 5, [2.0, 0.0, 0.0, -1.5, 0.0]]
    assert inputs.biased.tolist() == [False, True]
    assert inputs.seed.tolist() == [[0, 0], [0xFFFFFFFF, 0xFFFFFFFF]]
    assert inputs.ends.tolist() == [[False, True, False, False, True]] * 2
    assert inputs.mask is None and inputs.masked.tolist() == [False, False]
    assert (inputs.top_k.tolist(), inputs.choice.tolist(), inputs.min_tokens.tolist()) == ([0, 9], [0, 4], [0, 2])
    # The defaults leave the law alone: no stage is active.
    assert not any(np.asarray(stage.active(stack([SamplingParams()], vocab_size=5))).any() for stage in ORDER)


def test_stack_of_no_rows_and_of_bad_ids() -> None:
    assert stack([], vocab_size=5).seed.shape == (0, 2)
    for token in (-1, 5):
        with pytest.raises(ValueError, match=f"token {token}"):
            stack([replace(SamplingParams(), logit_bias={token: 1.0})], vocab_size=5)
        with pytest.raises(ValueError, match=f"end token {token}"):
            stack([SamplingParams()], vocab_size=5, ends=(token,))


def test_stack_compiles_nothing() -> None:
    # In a process of its own: no backend may have been started by the time the arrays are there.
    code = (
        "from jax._src import xla_bridge\n"
        "from llmlab.sampling.params import SamplingParams, stack\n"
        "stack([SamplingParams(logit_bias={3: 1.0})], vocab_size=100, ends=(1,))\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})


def test_rows_that_are_not_active_ask_for_no_stage() -> None:
    """A slot whose row has ended keeps its settings until another row takes it."""
    poison = ORDER[0]._replace(
        name="poison", active=lambda inputs: inputs.top_k > 0, apply=lambda logits, inputs, history: logits * jnp.nan
    )
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, V)), jnp.float32)
    inputs = stack([SamplingParams(top_k=3, seed=1), SamplingParams(seed=2)], vocab_size=V)
    history = History(np.zeros((2, V), bool), np.zeros((2, V), np.int32), np.zeros(2, np.int32))
    token, figures = run(logits, inputs, history, order=(poison,), active=jnp.array([False, True]))
    alone = run(logits[1:], jax.tree.map(lambda x: x[1:], inputs), jax.tree.map(lambda x: x[1:], history), order=())
    assert int(token[1]) == int(alone[0][0]) and float(figures.sampling_entropy[1]) == float(
        alone[1].sampling_entropy[0]
    )
    _, sick = run(logits, inputs, history, order=(poison,))
    assert np.isnan(sick.sampling_entropy).all(), "the stage does run where a row asks for it"
