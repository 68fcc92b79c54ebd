from __future__ import annotations

import pickle

import numpy as np
import pytest

from llmlab.errors import RequestError
from llmlab.frames.distribution import STAGES_COLUMNS
from llmlab.results.result import Result
from llmlab.sampling.pipeline import ORDERS

PROMPT = "Tell me a story about a fox."
FIELDS = {
    "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "frequency_penalty": 0.4, "presence_penalty": 0.2,
    "repetition_penalty": 1.1, "logit_bias": {300: 2.0}, "min_tokens": 4, "max_tokens": 14,
}  # fmt: skip


def assert_the_stages_end_in_the_distribution_sampled_from(result: Result, *, step: int) -> None:
    for choice in result.choices:
        tokens = choice.tokens
        for at in range(0, len(tokens), step):
            next_token = result.next_token(at, choice=choice.index)
            assert next_token.drawn == tokens.ids[at] and next_token.made.tolist() == tokens.ids[:at].tolist()
            last = next_token.stages_frame(tokens=[next_token.drawn]).iloc[-1]
            assert last["removed_by"] is None or last.isna()["removed_by"]
            assert last["logprob"] == pytest.approx(tokens.sampling_logprob[at], abs=1e-6)
            frame = next_token.frame(top=None).set_index("token_id")
            assert frame["kept"].sum() == tokens.kept[at]
            assert frame.loc[next_token.drawn, "logprob"] == pytest.approx(tokens.logprob[at], abs=1e-6)
            ids = tokens.top_ids[at].tolist()
            found = np.exp(frame.loc[ids, "sampling_logprob"].to_numpy(dtype=float))
            np.testing.assert_allclose(found, np.exp(tokens.top_sampling_logprob[at].astype(float)), atol=1e-6)
            assert next_token.sample([result.seed])[0] == next_token.drawn, (
                "the noise is that of the choice and the position"
            )


@pytest.mark.parametrize("order", ORDERS)
def test_its_last_stage_is_the_distribution_that_the_token_was_sampled_from(demo, order: str) -> None:
    result = demo.chat(PROMPT, seed=3, n=2, order=order, **FIELDS)
    assert_the_stages_end_in_the_distribution_sampled_from(result, step=5)
    frame = result.next_token(5).stages_frame(top=3)
    assert list(frame.columns) == list(STAGES_COLUMNS)
    assert frame["stage"].tolist()[: len(ORDERS[order]) + 1] == ["raw", *(stage.name for stage in ORDERS[order])]


def test_with_a_grammar(demo) -> None:
    result = demo.chat("Give me JSON.", seed=3, max_tokens=12, response_format={"type": "json_object"})
    assert_the_stages_end_in_the_distribution_sampled_from(result, step=4)
    frame = result.next_token(0).stages_frame(top=50)
    masked = frame.loc[frame["removed_by"] == "mask", "token_id"].nunique()
    assert 0 < masked < 50


def test_the_first_position_is_what_next_token_says(demo) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    for fields in ({"temperature": 0.7}, {"response_format": schema}):
        result = demo.chat(PROMPT, seed=5, max_tokens=2, **fields)
        before, after = demo.next_token(PROMPT, seed=5, **fields), result.next_token(0)
        a, b = (
            next_token.frame(top=None).sort_values("token_id")["sampling_logprob"].to_numpy(float)
            for next_token in (before, after)
        )
        np.testing.assert_allclose(np.exp(a), np.exp(b), atol=1e-5)
        assert before.sample([5])[0] == after.drawn


def test_a_branch_has_the_steps_of_its_own_and_those_of_before(demo) -> None:
    result = demo.chat(PROMPT, seed=3, max_tokens=8, temperature=0.9)
    branch = result.branch(position=3, token=int(result.choices[0].tokens.top_ids[3, 1]), max_tokens=8)
    tokens = branch.choices[0].tokens
    for at in (1, 5):
        next_token = branch.next_token(at)
        assert next_token.stages_frame(tokens=[next_token.drawn])["logprob"].iloc[-1] == pytest.approx(
            tokens.sampling_logprob[at], abs=1e-6
        )
    assert branch.next_token(5).sample([3])[0] == tokens.ids[5]


def test_positions_count_from_the_end_too(demo) -> None:
    result = demo.chat(PROMPT, seed=3, max_tokens=4)
    assert result.next_token(-1).made.tolist() == result.choices[0].tokens.ids[:-1].tolist()
    flips = result.next_token(-1).flip_points_frame(result.next_token(-1).drawn)
    rows = flips[(flips["event"] == "drawn") & (flips["parameter"] != "temperature < 1e-5")]
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    for position in (4, -5):
        with pytest.raises(IndexError, match="outside the 4 tokens"):
            result.next_token(position)
    with pytest.raises(IndexError, match="choice 1"):
        result.next_token(0, choice=1)


def test_results_whose_steps_cannot_be_read(demo, story) -> None:
    result = demo.chat(PROMPT, seed=3, max_tokens=2)
    with pytest.raises(RequestError, match="has no lab"):
        pickle.loads(pickle.dumps(result)).next_token(0)
    elsewhere = Result(story, demo)
    with pytest.raises(RequestError, match="did not make this result"):
        elsewhere.next_token(0)
    far = type("Far", (), {"backend": object(), "last": None})()
    with pytest.raises(RequestError, match="gives no logits"):
        Result(story, far).next_token(0)
