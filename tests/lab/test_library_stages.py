"""The library's stages through the engine: what is generated, scored and shown under them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmlab.lab.lab import Lab
from tests.engine.test_recompilation import compiled

ASK = "Tell me a story about a cat and a dog and a cat and a dog."


@pytest.mark.parametrize(
    "fields",
    [
        {"no_repeat_ngram_size": 2},
        pytest.param(
            {"dry_multiplier": 5.0, "dry_allowed_length": 1, "dry_sequence_breakers": []},
            marks=[pytest.mark.slow, pytest.mark.exhaustive],
        ),
    ],
    ids=["ngram", "dry"],
)
def test_no_pair_of_tokens_occurs_twice(demo: Lab, fields: dict[str, Any]) -> None:
    few = dict.fromkeys(range(300, 320), 40)  # so that the answer repeats itself
    asked: dict[str, Any] = {"seed": 5, "n": 3, "max_tokens": 40, "logit_bias": few, "ignore_eos": True}
    plain, r = demo.chat(ASK, **asked), demo.chat(ASK, **asked, **fields)
    repeats = []
    for result in (plain, r):
        count = 0
        for choice in result.choices:
            text = [*result.prompt_ids.tolist(), *choice.tokens.ids.tolist()]
            pairs = list(zip(text, text[1:], strict=False))
            first = len(result.prompt_ids) - 1
            count += sum(pair in pairs[: first + at] for at, pair in enumerate(pairs[first:]))
        repeats.append(count)
    assert repeats[0] > 5 * (repeats[1] + 1)
    if "no_repeat_ngram_size" in fields:
        assert repeats[1] == 0

    # The same distributions from teacher forcing, and from one step.
    scored = demo.score(r).logprobs_frame()
    np.testing.assert_allclose(scored["sampling_logprob"], r.logprobs_frame()["sampling_logprob"], atol=2e-3)
    at = r.next_token(20, choice=1)
    assert at.sampling_logprobs()[r.choices[1].tokens.ids[20]] == pytest.approx(
        r.logprobs_frame().query("choice == 1 and position == 20")["sampling_logprob"].item(), abs=2e-3
    )
    assert r.rerun().texts == r.texts
    tail = r.branch(10, choice=1)
    assert tail.choices[0].tokens.ids.tolist()[:10] == r.choices[1].tokens.ids.tolist()[:10]
    assert demo.chat(ASK, **asked, **fields, order="llama.cpp").order == "llama.cpp"


def test_a_sweep_over_stages_compiles_each_order_once(demo: Lab) -> None:
    asked: dict[str, Any] = {"n": 2, "seed": 3, "max_tokens": 4}
    demo.sweep(ASK, typical_p=[0.5, 1.0], **asked)
    before = len(compiled())
    again = demo.sweep(ASK, typical_p=[0.2, 0.9, 1.0], **asked)
    assert len(compiled()) == before and len(again.frame()) == 6


def test_xtc_keeps_the_promise_of_seeds(demo: Lab) -> None:
    fields: dict[str, Any] = {"xtc_probability": 0.5, "xtc_threshold": 0.05, "max_tokens": 12, "temperature": 1.3}
    alone = [demo.chat(ASK, seed=seed, **fields).text for seed in range(4)]
    together = demo.chat([demo.request(ASK, seed=seed, **fields) for seed in range(4)])
    assert [one.text for one in together] == alone
    assert demo.chat(ASK, seed=2, n=3, **fields).texts[0] == alone[2]
