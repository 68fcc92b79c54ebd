"""What is given is scored: a result's own tokens, texts, token ids, raw prompts and the prompts of chats."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmlab.errors import RequestError
from llmlab.frames.schema import PROMPT_COLUMNS, SURPRISAL_COLUMNS
from llmlab.lab.lab import Lab
from llmlab.metrics import perplexity
from llmlab.protocol.backend import Backend, Stream
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import Request
from llmlab.results.result import Result
from tests.columns import assert_declared
from tests.completions import STORY, make_completion, make_tokens

QUESTION = "Could you please tell me a tree? Only the answer."


@pytest.fixture(scope="module")
def result(demo):
    return demo.chat(QUESTION, n=5, seed=8, temperature=1.3, top_p=0.98)


def test_a_results_own_tokens_are_as_they_were_reported(demo, result):
    for scored in (demo.score(result), demo.score(result.request, result), demo.score(QUESTION, result)):
        before, after = result.logprobs_frame(), scored.logprobs_frame()
        exact = ["choice", "position", "segment", "token", "token_id", "bytes", "kept"]
        pd.testing.assert_frame_equal(after[exact], before[exact])
        for name in ("logprob", "sampling_logprob", "entropy", "sampling_entropy", "margin"):
            np.testing.assert_allclose(after[name].to_numpy(float), before[name].to_numpy(float), atol=1e-4)
        assert scored.texts == result.texts and scored.finish_reasons == result.finish_reasons
        assert (after["segment"] == "end").sum() == 5, "the end tokens are there"
        assert list(scored.top_logprobs_frame().columns) == list(result.top_logprobs_frame().columns)
        assert scored.seed == result.seed and scored.lab is demo


def test_under_other_parameters_only_the_processed_figures_change(demo, result):
    own = demo.score(result)
    for other in (demo.score(result, temperature=0.5, top_p=None), own.rerun(temperature=0.5, top_p=None)):
        before, after = own.logprobs_frame(), other.logprobs_frame()
        np.testing.assert_array_equal(after["logprob"], before["logprob"])
        assert not np.allclose(after["sampling_logprob"].to_numpy(float), before["sampling_logprob"].to_numpy(float))
    assert demo.score(result, order="llama.cpp").order == "llama.cpp"


def test_after_another_prompt(demo, result):
    other = demo.score("Name a colour.", result)
    assert other.texts == result.texts
    assert other.request.temperature == 1.3, "its own fields count where no others are given"
    assert other.perplexity > demo.score(result).perplexity


def test_texts_and_token_ids(demo, result):
    end = demo.backend.token_names[demo.backend.end_ids[0]]
    texts = ["Oak", "Birch", "A quark"]
    scored = demo.score(QUESTION, texts, temperature=1.3, top_p=0.98)
    assert scored.texts == texts and scored.request.n == 3 and set(scored.finish_reasons) == {"length"}
    assert scored.perplexities[0] < scored.perplexities[2]
    ids = [demo.backend.encode(text) for text in texts]
    for given in (ids, [np.array(one) for one in ids]):
        by_ids = demo.score(QUESTION, given)
        assert by_ids.texts == texts and by_ids.perplexities == scored.perplexities
    one = demo.score(QUESTION, ids[1])
    np.testing.assert_allclose(one.perplexity, scored.perplexities[1], rtol=1e-5)
    whole = demo.score(QUESTION, f"Oak{end}")
    assert whole.text == "Oak" and whole.finish_reasons == ["stop"]
    assert whole.logprobs_frame()["segment"].tolist()[-1] == "end"
    # What is likely to be drawn is likely to be scored: the text of a choice, tokenized again, is the choice here.
    chosen = result.choices[0]
    again = demo.score(QUESTION, f"{chosen.text}{end}", temperature=1.3, top_p=0.98)
    assert again.choices[0].tokens.ids.tolist() == chosen.tokens.ids.tolist()
    np.testing.assert_allclose(again.choices[0].tokens.sampling_logprob, chosen.tokens.sampling_logprob, atol=1e-4)


def test_segments_are_those_of_an_answer(demo):
    text = "<think>\nAn oak.\n</think>\n\nOak"
    scored = demo.score("Name a tree.", text, enable_thinking=True, separate_reasoning=True)
    frame = scored.logprobs_frame()
    assert set(frame["segment"]) == {"reasoning", "content"}
    assert "oak" in scored.reasoning and scored.text == "Oak"


def test_a_raw_text_from_its_second_token(demo):
    text = "Once upon a time there was a cat."
    ids = demo.backend.encode(text)
    scored = demo.score(prompt=text)
    assert scored.prompt_ids.tolist() == ids[:1] and scored.choices[0].tokens.ids.tolist() == ids[1:]
    for at in (1, 4, len(ids) - 1):
        law = demo.next_token(prompt=ids[:at]).logprobs
        np.testing.assert_allclose(scored.choices[0].tokens.logprob[at - 1], law[ids[at]], atol=1e-4)
    continued = demo.score(prompt=ids[:3], given=ids[3:])
    np.testing.assert_allclose(continued.choices[0].tokens.logprob, scored.choices[0].tokens.logprob[2:], atol=1e-4)
    on = scored.branch(len(ids) - 1, max_tokens=len(ids) + 4)
    assert on.choices[0].tokens.ids[: len(ids) - 1].tolist() == ids[1:] and len(on.choices[0].tokens) > len(ids) - 1


def test_the_prompts_own_logprobs(demo, result):
    frame = result.prompt_logprobs_frame()
    assert_declared(frame, PROMPT_COLUMNS)
    assert frame["token_id"].tolist() == result.prompt_ids.tolist()
    assert frame.loc[0, ["logprob", "rank", "entropy", "margin"]].isna().all()
    assert frame.loc[1:, "logprob"].notna().all()
    raw = demo.score(prompt=result.prompt_ids)
    np.testing.assert_array_equal(frame["logprob"].iloc[1:].to_numpy(float), raw.choices[0].tokens.logprob)
    alone = demo.complete([5], max_tokens=1, seed=1).prompt_logprobs_frame()
    assert len(alone) == 1 and alone["logprob"].isna().all() and list(alone.columns) == list(frame.columns)


def test_perplexity_and_surprisal(demo, result):
    frame = result.surprisal_frame()
    assert_declared(frame, SURPRISAL_COLUMNS)
    logprobs = result.logprobs_frame()
    for choice, found in enumerate(result.perplexities):
        own, theirs = frame[frame["choice"] == choice], logprobs[logprobs["choice"] == choice]
        assert found == pytest.approx(perplexity(theirs)) == pytest.approx(2 ** own["bits"].mean())
        np.testing.assert_allclose(own["surprisal"], -theirs["logprob"])
        assert own["total_bits"].iloc[-1] == pytest.approx(own["bits"].sum())
    assert result.perplexity == result.perplexities[0]


def test_surprisal_of_a_certain_token_and_of_one_that_is_not_known() -> None:
    tokens = make_tokens([0, 1, 2, 3])
    logprob = np.array([0.0, -math.log(2), np.nan, -1.0], np.float32)
    frame = Result(make_completion(replace(tokens, logprob=logprob), tokens)).surprisal_frame()
    own, other = (frame[frame["choice"] == choice] for choice in (0, 1))
    for name in ("surprisal", "bits", "total_bits"):
        assert own[name].iloc[0] == 0 and not np.signbit(own[name].iloc[0])
    assert own["total_bits"].iloc[1] == pytest.approx(1.0)
    assert own[["surprisal", "bits"]].isna().sum().tolist() == [1, 1]
    assert own["total_bits"].iloc[2:].isna().all()  # nothing made up for the one in between
    assert other["total_bits"].notna().all()


@pytest.mark.parametrize(
    ("arguments", "fields", "param", "said"),
    [
        (("Hello",), {}, "given", "given is missing"),
        (("Hello", ""), {}, "given", "not a single token"),
        (("Hello", []), {}, "given", "not a single token"),
        (("Hello", [["a"]]), {}, "given", "'a' is not a token id"),
        (("Hello", [3, 99999]), {}, "given", "99999 is not a token id"),
        (("Hello", ["a"] * 129), {}, "given", "at most 128"),
        (("Hello", "a"), {"stop": "x"}, "stop", "here they are given"),
        (("Hello", "a"), {"max_tokens": 4}, "max_tokens", "here they are given"),
        (("Hello", "a"), {"temperature": 3}, "temperature", "0"),
        ((), {"prompt": [5]}, "prompt", "at least two"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_scored(demo, arguments, fields, param, said):
    with pytest.raises(RequestError, match=said) as told:
        demo.score(*arguments, **fields)
    assert told.value.param == param


class Endpoint(Backend):
    """Who answers elsewhere, and gives neither logits nor tokens."""

    name = "theirs"

    def complete(self, request: Request, *, order: str = "llmlab") -> Completion:
        raise AssertionError("nobody should ask")

    def stream(self, request: Request, *, order: str = "llmlab") -> Stream:
        raise AssertionError("nobody should ask")

    def describe(self) -> dict[str, Any]:
        return {"model": self.name}


def test_an_endpoint_without_tokens_is_a_clear_error(make_completion, make_tokens):
    lab = Lab(Endpoint())
    answer = Result(make_completion(make_tokens(STORY)), lab)
    for ask in (
        lambda: lab.score("Hello", "there"),
        lambda: lab.score(answer),
        lambda: answer.branch(2, "a"),
        lambda: answer.tree(),
        lambda: answer.prompt_logprobs_frame(),
        lambda: lab.compare_orders("Hello"),
    ):
        with pytest.raises(RequestError, match=r"theirs is an endpoint .*llmlab\.load a model"):
            ask()


def test_runs_of_an_endpoint_are_compared_without_a_reason(make_completion, make_tokens):
    lab = Lab(Endpoint())
    before = Result(make_completion(make_tokens(STORY)), lab)
    after = Result(make_completion(make_tokens((0, 1, 2, 8, 9, 37)), temperature=0.2), lab, before)
    found = after.diff().frame().iloc[0]
    assert found["position"] == 3
    assert found["cause"] == "temperature, as far as it can be told without logits"
    assert len(after.diff().why_frame()) == 0
