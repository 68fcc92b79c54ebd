"""The distributions at all positions of an answer from one pass: those of `next_token`, and asked of the model once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.results.next_tokens import NextTokens
from tests.backends.endpoint import Endpoint, entry, spoken

PROMPT = "Tell me a story about a fox."
FIELDS = {"temperature": 0.9, "top_k": 30, "repetition_penalty": 1.1, "frequency_penalty": 0.3, "max_tokens": 9}


def assert_the_same(result: Any, *, choice: int = 0) -> NextTokens:
    found = result.next_tokens(choice=choice)
    tokens = result.choices[choice].tokens
    assert len(found) == len(list(found)) == len(tokens)
    for at, step in enumerate(found):
        exact = result.next_token(at, choice=choice)
        np.testing.assert_allclose(step.logprobs, exact.logprobs, atol=1e-4)
        assert (step.drawn, step.made.tolist()) == (exact.drawn, exact.made.tolist())
        assert (step.seed, step.choice, step.order) == (exact.seed, exact.choice, exact.order)
        np.testing.assert_allclose(np.exp(step.sampling_logprobs()), np.exp(exact.sampling_logprobs()), atol=1e-4)
        if at >= result[choice].given:
            assert step.sample([result.seed])[0] == tokens.ids[at]
        assert step.entropy == pytest.approx(tokens.entropy[at], abs=1e-3)
    np.testing.assert_allclose(found.entropies, tokens.entropy, atol=1e-3)
    return found


@pytest.mark.parametrize("order", ["llmlab", "vllm"])
def test_each_is_what_next_token_says(demo: Lab, order: str) -> None:
    result = demo.chat(PROMPT, seed=3, n=2, order=order, **FIELDS)
    for choice in (0, 1):
        assert_the_same(result, choice=choice)


def test_of_a_branch_a_score_a_grammar_and_a_raw_prompt(demo: Lab) -> None:
    result = demo.chat(PROMPT, seed=3, **FIELDS)
    assert_the_same(result.branch(3, " then"))
    assert_the_same(demo.complete("Once upon a", seed=2, max_tokens=5))
    assert_the_same(demo.chat("Give me JSON.", seed=3, max_tokens=6, response_format={"type": "json_object"}))
    scored = demo.score("Name an animal.", "A green cat.")
    found = scored.next_tokens()
    np.testing.assert_allclose([step.logprobs[step.drawn] for step in found], scored[0].tokens.logprob, atol=1e-4)


def test_the_model_reads_the_answer_once(demo: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    result = demo.chat(PROMPT, seed=3, **FIELDS)
    passes: list[int] = []
    ask = demo.backend.logits
    monkeypatch.setattr(demo.backend, "logits", lambda *args, **names: passes.append(1) or ask(*args, **names))
    for name in ("next_logits", "step_logits"):
        monkeypatch.setattr(demo.backend, name, lambda *_, **__: pytest.fail("another pass"))
    found = result.next_tokens()
    found.frame(top=3)
    found[2].flip_points_frame(found[2].drawn)
    assert passes == [1]


def test_they_are_a_sequence_with_a_frame(demo: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    result = demo.chat(PROMPT, seed=3, **FIELDS)
    found = result.next_tokens()
    T, V = found.logits.shape
    assert len(result.tokens) == T and found.logprobs.shape == (T, V)
    assert found[-1].made.tolist() == result[0].tokens.ids[:-1].tolist()
    assert len(found[2:4]) == 2 and found[2:4][0] is found[2]
    with pytest.raises(IndexError, match="position 9 is outside"):
        found[T]
    frame = found.frame(top=3, temperature=0.5)
    assert frame["position"].tolist() == [at for at in range(T) for _ in range(3)]
    one = found[4].frame(top=3, temperature=0.5)
    own = frame[frame["position"] == 4].drop(columns="position").reset_index(drop=True)
    pd.testing.assert_frame_equal(own, one, check_categorical=False)
    assert own.dtypes.astype(str).tolist() == one.dtypes.astype(str).tolist()
    with pytest.raises(RequestError, match="ask for fewer with top="):
        monkeypatch.setattr("llmlab.results.next_tokens.MOST_ROWS", 26)
        found.frame(top=3)
    assert repr(found) == f"<the next-token distributions at {T} positions of an answer over a vocabulary of {V:,}>"
    assert list(found[:0].frame().columns) == list(frame.columns)


def test_which_tokens_were_kept_by_id(demo: Lab) -> None:
    """As many as the engine counted, and those that top_k and min_p leave in float64."""
    result = demo.chat(PROMPT, seed=3, n=2, temperature=1.3, top_k=12, min_p=0.02, max_tokens=9)
    for choice in (0, 1):
        found = result.next_tokens(choice=choice)
        mask, frame = found.kept(), result.kept_frame(choice=choice)
        assert mask.shape == found.logits.shape and mask.sum(axis=1).tolist() == result[choice].tokens.kept.tolist()
        for at, logits in enumerate(found.logits.astype(np.float64)):
            first = np.argsort(-logits, kind="stable")[:12]
            likely = first[(logits[first] - logits.max()) / 1.3 >= np.log(0.02)]
            own = frame[frame["position"] == at]
            assert own["token_id"].tolist() == likely.tolist() and np.flatnonzero(mask[at]).tolist() == sorted(likely)
            assert own.loc[own["drawn"], "token_id"].tolist() == [result[choice].tokens.ids[at]]
            expected = logits[likely] / 1.3 - np.log(np.exp(logits[likely] / 1.3).sum())
            np.testing.assert_allclose(own["sampling_logprob"], expected, atol=1e-4)
    assert (found.kept(top_k=1, min_p=0.0).sum(axis=1) == 1).all()
    assert not len(found[:0].kept_frame()) and found[:0].kept().shape == (0, mask.shape[1])


def test_what_a_grammar_forbids_was_not_kept(demo: Lab) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["Red", "Blue"]}}}
    result = demo.chat("Name a colour.", seed=3, response_format=form, max_tokens=12)
    frame = result.kept_frame()
    counts = frame.groupby("position").size().tolist()
    assert counts == result[0].tokens.kept.tolist() and max(counts) < 60
    assert frame.groupby("position")["drawn"].sum().eq(1).all()


def test_where_there_are_none(demo: Lab) -> None:
    result = demo.chat(PROMPT, seed=3, max_tokens=3)
    with pytest.raises(IndexError, match="choice 1 is outside"):
        result.next_tokens(choice=1)
    lab = Lab(Endpoint(lambda body: spoken(entry("Hel", -0.3), entry("lo", -0.2))).backend())
    with pytest.raises(RequestError, match="endpoint that gives no logits"):
        lab.chat("hi").next_tokens()
