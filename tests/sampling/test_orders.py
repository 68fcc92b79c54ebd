"""The orders: ours and the peers', on laws where each result was worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from llmlab.sampling.pipeline import ORDER, ORDERS, run, trace

NAMES = ["llmlab", "vllm", "sglang", "llama.cpp"]


V = 8

#: One program an order, for every test here.
sample = jax.jit(run, static_argnames=("order", "alternatives"))


def arguments(
    logits: np.ndarray, params: SamplingParams, *, generated: list[int] | None = None
) -> tuple[jax.Array, SamplerInputs, History]:
    """A row over a vocabulary of 8, of which the first few occur; it has generated each so many times."""
    row = np.full((1, V), -np.inf, np.float32)
    row[0, : len(logits)] = logits
    counts = np.zeros((1, V), np.int32)
    counts[0, : len(logits)] = generated or 0
    history = History(np.zeros((1, V), bool), counts, counts.sum(axis=1, dtype=np.int32))
    return jnp.asarray(row), stack([params], vocab_size=V), history


def final(logits: np.ndarray, params: SamplingParams, order: str, *, generated: list[int] | None = None) -> np.ndarray:
    """The logits that the last stage leaves."""
    lefts = trace(*arguments(logits, params, generated=generated), order=ORDERS[order])
    return np.asarray(list(lefts.values())[-1][0, : len(logits)])


# What each order makes of (law, parameters), by hand. Written as weights; a law is its weights over their sum.
CUTS = {
    # top_k leaves .4 and .3. Over those two the mass before the second is 4/7, over the whole law .4.
    "top_p sees the distribution before top_k, or after": (
        [0.4, 0.3, 0.2, 0.1],
        {"top_k": 2, "top_p": 0.5},
        {"llmlab": [1, 0, 0, 0], "vllm": [1, 0, 0, 0], "sglang": [4, 3, 0, 0], "llama.cpp": [1, 0, 0, 0]},
    ),
    # min_p 0.3 drops what is under .15. After that the mass before the second is 5/8, before it .5.
    "top_p sees the distribution before min_p, or after": (
        [0.5, 0.3, 0.1, 0.1],
        {"top_p": 0.6, "min_p": 0.3},
        {"llmlab": [5, 3, 0, 0], "vllm": [1, 0, 0, 0], "sglang": [5, 3, 0, 0], "llama.cpp": [5, 3, 0, 0]},
    ),
    # At temperature 2 the weights are 8, 4, 4, 2 of 18: .444 before the second, .667 before the third. At 1: .64.
    "top_p sees the distribution before the temperature, or after": (
        [0.64, 0.16, 0.16, 0.04],
        {"temperature": 2.0, "top_p": 0.6},
        {"llmlab": [2, 1, 0, 0], "vllm": [2, 1, 0, 0], "sglang": [2, 1, 0, 0], "llama.cpp": [1, 0, 0, 0]},
    ),
    # At temperature 2 the ratios to the first are 1/2, 1/2, 1/4; at 1, 1/4, 1/4, 1/16.
    "min_p sees the distribution before the temperature, or after": (
        [0.64, 0.16, 0.16, 0.04],
        {"temperature": 2.0, "min_p": 0.4},
        {"llmlab": [2, 1, 1, 0], "vllm": [2, 1, 1, 0], "sglang": [2, 1, 1, 0], "llama.cpp": [1, 0, 0, 0]},
    ),
    # With min_p SGLang renormalises after top_k as well, and so agrees with ours: 4/7 before the second.
    "a row with min_p takes the other way in sglang": (
        [0.4, 0.3, 0.2, 0.1],
        {"top_k": 2, "top_p": 0.5, "min_p": 0.1},
        {"llmlab": [1, 0, 0, 0], "vllm": [1, 0, 0, 0], "sglang": [1, 0, 0, 0], "llama.cpp": [1, 0, 0, 0]},
    ),
    # Weights 16, 9, 9, 4, 1 at temperature 1; 4, 3, 3, 2, 1 of 13 at 2.
    # ours: top_k 4, 3, 3 of 10; before the third .7 < .75, all three stay.
    # vLLM: min_p .7 leaves 4, 3, 3 of 10, then the same. SGLang has min_p, so as ours. llama.cpp: at temperature 1,
    # top_k leaves 16, 9, 9 of 34, before the third 25/34 = .735 < .75; min_p .7: 9/16 is dropped, only the first stays.
    "everything at once": (
        [16 / 39, 9 / 39, 9 / 39, 4 / 39, 1 / 39],
        {"temperature": 2.0, "top_k": 3, "top_p": 0.75, "min_p": 0.7},
        {
            "llmlab": [4, 3, 3, 0, 0],
            "vllm": [4, 3, 3, 0, 0],
            "sglang": [4, 3, 3, 0, 0],
            "llama.cpp": [1, 0, 0, 0, 0],
        },
    ),
}


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize(("probs", "fields", "results"), CUTS.values(), ids=CUTS.keys())
def test_cuts_by_hand(probs: list[float], fields: dict, results: dict[str, list[int]], order: str) -> None:
    weights = results[order]
    expected = [float(Fraction(weight, sum(weights))) for weight in weights]
    left = final(np.log(probs), SamplingParams(**fields), order)
    np.testing.assert_allclose(np.exp(left) / np.exp(left).sum(), expected, atol=1e-6)


# The last stage of 1 to 5 that ran leaves these logits. Token 0 was generated once, token 1 never.
PENALTIES = {
    # 2 / 2 - 1 = 0; or (2 - 1) / 2.
    "additive before scaling": (
        [2.0, 0.0],
        {"repetition_penalty": 2.0, "frequency_penalty": 1.0},
        {"llmlab": 0.0, "vllm": 0.0, "sglang": 0.5, "llama.cpp": 0.0},
    ),
    # (2 + 2) / 2 = 2; or 2 / 2 + 2 = 3.
    "the bias before scaling, or last": (
        [2.0, 0.0],
        {"repetition_penalty": 2.0, "logit_bias": {0: 2.0}},
        {"llmlab": 2.0, "vllm": 2.0, "sglang": 3.0, "llama.cpp": 2.0},
    ),
    # (1 - 2) * 2 = -2, where ours is 1 / 2 - 2 = -1.5: a penalty that makes a logit negative turns the scaling round.
    "presence before scaling": (
        [1.0, 0.0],
        {"repetition_penalty": 2.0, "presence_penalty": 2.0},
        {"llmlab": -1.5, "vllm": -1.5, "sglang": -2.0, "llama.cpp": -1.5},
    ),
}


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize(("logits", "fields", "results"), PENALTIES.values(), ids=PENALTIES.keys())
def test_penalties_by_hand(logits: list[float], fields: dict, results: dict[str, float], order: str) -> None:
    left = final(np.array(logits), SamplingParams(**fields), order, generated=[1, 0])
    assert left.tolist() == [results[order], 0.0]


@pytest.mark.parametrize("order", NAMES)
def test_every_order_runs_and_traces_the_same_stages(order: str) -> None:
    rng = np.random.default_rng(3)
    params = SamplingParams(
        temperature=0.7,
        top_k=6,
        top_p=0.9,
        min_p=0.01,
        repetition_penalty=1.2,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        logit_bias={3: 1.0},
        min_tokens=9,
        seed=4,
    )
    row = arguments(rng.normal(size=V) * 2, params, generated=[0, 1, 2, 0, 0, 1, 0, 0])
    lefts = trace(*row, order=ORDERS[order])
    assert list(lefts) == ["raw", *(stage.name for stage in ORDERS[order])]
    np.testing.assert_array_equal(lefts["raw"], row[0])
    left = list(lefts.values())[-1]
    token, figures = sample(*row, order=ORDERS[order])
    assert left[0, token[0]] > -np.inf
    assert figures.kept.tolist() == [int((left > -np.inf).sum())]
    np.testing.assert_allclose(figures.sampling_logprob, jax.nn.log_softmax(left)[0, token], rtol=1e-5)


@pytest.mark.parametrize("order", NAMES)
def test_every_order_agrees_on_the_greedy_token(order: str) -> None:
    rng = np.random.default_rng(5)
    for fields in ({}, {"top_k": 2, "top_p": 0.3, "min_p": 0.5}, {"frequency_penalty": 2.0}):
        logits = rng.normal(size=V).astype(np.float32)
        generated = [0, 0, 3, 0, 0, 1, 0, 0]
        row = arguments(logits, SamplingParams(temperature=0.0, **fields), generated=generated)
        penalised = logits - fields.get("frequency_penalty", 0.0) * np.array(generated)
        assert sample(*row, order=ORDERS[order])[0].tolist() == [int(penalised.argmax())]


def test_ours_is_the_documented_order() -> None:
    import llmlab.sampling.stages as stages

    assert stages.__doc__ is not None
    numbered = [line.split() for line in stages.__doc__.splitlines() if line[:2].strip().isdigit() and line[2] == "."]
    assert [words[1] for words in numbered] == [*(stage.name for stage in ORDER), "draw"]
    assert [int(words[0].rstrip(".")) for words in numbered] == list(range(1, len(ORDER) + 2))
    assert ORDERS["llmlab"] is ORDER
