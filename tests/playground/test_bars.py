"""The bars of a decoding step hold the values of its distribution, and the token that the engine would draw."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.playground.bars import distribution_bars
from llmlab.text.spelling import label

CUTS = {"top_k": 8, "top_p": 0.9, "min_p": 0.02}


@pytest.fixture(scope="module")
def step(demo):
    return demo.next_token("Name an animal.")


@pytest.mark.parametrize("order", ["llmlab", "vllm", "sglang", "llama.cpp"])
def test_the_values_are_those_of_the_distribution(step, order) -> None:
    fields = {"temperature": 1.4, **CUTS}
    bars = distribution_bars(step, place="the first token", order=order, seed=5, **fields)
    frame = step.frame(top=None, order=order, **fields).set_index("token_id").loc[list(bars.token_ids)]
    np.testing.assert_allclose(bars.raw, np.exp(frame.logprob), atol=1e-6)
    np.testing.assert_allclose(bars.final, np.exp(frame.sampling_logprob), atol=1e-6)
    assert [by == "" for by in bars.removed_by] == frame.kept.tolist()
    assert bars.kept == step.frame(top=None, order=order, **fields).kept.sum()
    assert bars.kept + sum(count for count, _ in bars.removed.values()) == bars.vocab_size == len(step.logits)
    assert all(by in ("", *CUTS) for by in bars.removed_by) and any(bars.removed_by)
    assert len(bars.labels) == 12 and not step.drawn


def test_the_noise_draws_what_the_engine_draws(demo, step) -> None:
    for seed in range(4):
        bars = distribution_bars(step, place="the first token", order="llmlab", seed=seed, temperature=1.5)
        token = demo.chat("Name an animal.", seed=seed, temperature=1.5, max_tokens=1).choices[0].tokens.ids[0]
        assert bars.would == (token, label(step.token_names.bytes_of(int(token)), name="<|im_end|>"))
    assert distribution_bars(step, place="the first token", order="llmlab", seed=None).would is None
