"""Twenty thousand draws for each of twenty settings, against the exact law that the oracle gives."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from llmlab.sampling.params import SamplingParams
from llmlab.sampling.pipeline import run
from tests.sampling.cases import arrays
from tests.sampling.oracle import Case, law

V, DRAWS, BATCH = 24, 20_000, 4_000

#: The settings, fixed beforehand, as is the block of seeds of each.
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 0.3},
    {"temperature": 1.5},
    {"temperature": 2.0},
    {"top_k": 2},
    {"top_k": 10},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"min_p": 0.1},
    {"min_p": 0.02, "temperature": 1.3},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 5, "top_p": 0.99, "min_p": 0.05},
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.8},
    {"presence_penalty": -1.0},
    {"logit_bias": {3: 2.0, 7: -100.0}},
    {"logit_bias": {0: 1.5}, "repetition_penalty": 0.7, "frequency_penalty": 0.3, "presence_penalty": 0.4},
    {"temperature": 0.9, "top_p": 0.8, "repetition_penalty": 1.1, "min_tokens": 3},
    {"temperature": 1.1, "top_k": 20, "top_p": 0.97, "min_p": 0.01, "frequency_penalty": 0.2, "logit_bias": {5: 3.0}},
]


def setting(index: int) -> Case:
    """The row that the index-th setting draws from: its own logits and history."""
    rng = np.random.default_rng(1000 + index)
    return Case(
        logits=(rng.normal(size=V) * 1.5).astype(np.float32),
        params=SamplingParams(**SETTINGS[index]),
        prompt=rng.random(V) < 0.2,
        counts=np.where(rng.random(V) < 0.3, rng.integers(1, 4, V), 0),
        ends=(1,),
    )


@partial(jax.jit, static_argnames="count")
def draws(row: tuple, seeds: jax.Array, *, count: int) -> jax.Array:
    """The tokens that one row draws under `count` seeds."""
    logits, inputs, history = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), row)
    return run(logits, inputs._replace(seed=seeds), history)[0]


def chi_square(counts: np.ndarray, probs: np.ndarray) -> float:
    """The p-value of the counts under the law, with the cells that expect fewer than 5 pooled into one."""
    assert counts[probs == 0].sum() == 0
    expected = probs * counts.sum()
    small = expected < 5
    seen, due = list(counts[~small]), list(expected[~small])
    if expected[small].sum() > 0:
        seen, due = [*seen, counts[small].sum()], [*due, expected[small].sum()]
    if due[-1] < 5:  # the pool itself may be small; it joins its neighbour
        seen[-2:], due[-2:] = [seen[-2] + seen[-1]], [due[-2] + due[-1]]
    assert len(due) >= 2, "a law of one cell proves nothing"
    return float(stats.chisquare(seen, due).pvalue)


def test_draws_follow_the_exact_law(capsys: pytest.CaptureFixture[str]) -> None:
    pvalues = []
    for index in range(len(SETTINGS)):
        case = setting(index)
        seeds = np.arange(DRAWS, dtype=np.uint32) + np.uint32(index * DRAWS)
        words = np.stack([np.zeros_like(seeds), seeds], axis=1)
        row = arrays([case])
        counts = np.zeros(V, np.int64)
        for start in range(0, DRAWS, BATCH):
            tokens = draws(row, words[start : start + BATCH], count=BATCH)
            counts += np.bincount(tokens, minlength=V)
        pvalues.append(chi_square(counts, law(case).probs))
    uniform = stats.kstest(pvalues, "uniform").pvalue
    with capsys.disabled():
        print(f"\n  smallest of {len(pvalues)} p-values {min(pvalues):.4f}, uniform with p = {uniform:.3f} ", end="")
    assert min(pvalues) > 1e-4
    assert uniform > 1e-3
