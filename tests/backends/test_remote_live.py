"""The embedded model, asked in this process and over HTTP: the same lab, the same answers, the same frames."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

import llmlab
from llmlab.errors import ContextLengthError, LLMLabError, ModelNotFoundError, RequestError
from llmlab.lab.lab import Lab
from llmlab.protocol.request import ChatRequest
from tests.serve.conftest import Running, running

#: An endpoint of ours sends these values of every token to the last bit. The only entropy it sends is the raw one.
SENT = ["token_id", "bytes", "logprob", "sampling_logprob", "rank", "entropy", "kept", "choice", "position"]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def served(demo: Lab) -> Iterator[Running]:
    with running(demo.backend) as server:
        yield server


@pytest.fixture(scope="module")
def remote(served: Running) -> Iterator[Lab]:
    lab = llmlab.connect(f"{served.url}/v1", quiet=True)
    yield lab
    lab.close()


def said(result) -> list[tuple]:
    return [(c.index, c.text, c.finish_reason, [(x.name, x.arguments) for x in c.tool_calls]) for c in result.choices]


REQUESTS = {
    "plain": {},
    "sampled": {"temperature": 0.8, "top_p": 0.95, "top_k": 20, "min_p": 0.01, "n": 3},
    "greedy": {"temperature": 0},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.5, "temperature": 1.3},
    "bias": {"logit_bias": {300: -100, 400: 2.5}, "temperature": 0.7},
    "stop": {"stop": [".", ","], "n": 2},
    "stop left out": {"stop": ".", "include_stop": False},
    "length": {"max_completion_tokens": 3},
    "no end": {"min_tokens": 20, "ignore_eos": True},
    "thoughts": {"enable_thinking": True, "separate_reasoning": True},
    "logprobs": {"logprobs": True, "top_logprobs": 3},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}},
    "call": {"tools": [WEATHER], "tool_choice": "required"},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_here_and_there(demo, remote, name):
    fields = {"max_tokens": 24, "seed": 11, **REQUESTS[name]}
    if "max_completion_tokens" in fields:
        del fields["max_tokens"]
    ask = "What is the weather in Oslo?" if name == "call" else "Tell me a short story."
    here, there = demo.chat(ask, **fields), remote.chat(ask, **fields)
    assert said(here) == said(there)
    assert [c.reasoning for c in here.choices if "</think>" not in c.text] == [c.reasoning for c in there.choices]
    assert there.notes == () and there.seed == 11
    assert there.usage == here.usage
    for kind in ("logprobs_frame", "top_logprobs_frame"):
        mine, yours = getattr(here, kind)(), getattr(there, kind)()
        types = [dict(frame.dtypes.drop("token").astype(str)) for frame in (mine, yours)]
        assert types[0] == types[1] and list(mine.columns) == list(yours.columns)
    mine, yours = here.logprobs_frame(), there.logprobs_frame()
    pd.testing.assert_frame_equal(mine[SENT], yours[SENT], check_exact=True)
    assert mine.token.astype(str).tolist() == yours.token.astype(str).tolist()
    assert yours.sampling_entropy.isna().all()
    np.testing.assert_allclose(mine.margin.astype(float), yours.margin.astype(float), atol=1e-5)
    assert here.perplexities == there.perplexities
    mine, yours = here.top_logprobs_frame(), there.top_logprobs_frame()
    for column in ("token_id", "bytes", "logprob", "sampling_logprob", "sampled"):
        pd.testing.assert_series_equal(mine[column], yours[column], check_exact=True)


def test_the_tokens_that_could_be_drawn_come_back(demo, remote):
    """The frame of a connected lab is that of the local one; where they are not all listed, an error says so."""
    asked = {"temperature": 0.9, "top_p": 0.85, "seed": 3, "n": 2, "max_tokens": 12, "logprobs": True}
    here, there = demo.chat("Tell me a story.", **asked), remote.chat("Tell me a story.", **asked, kept_logprobs=True)
    for choice in (0, 1):
        ours, theirs = here.kept_frame(choice=choice), there.kept_frame(choice=choice)
        assert list(ours.columns) == list(theirs.columns) and (ours.dtypes == theirs.dtypes).all()
        for name in ("position", "token", "token_id", "bytes", "drawn"):
            assert ours[name].tolist() == theirs[name].tolist(), name
        np.testing.assert_allclose(
            ours[["logprob", "sampling_logprob"]], theirs[["logprob", "sampling_logprob"]], atol=1e-4
        )
    with remote.stream("Tell me a story.", **asked, kept_logprobs=True) as stream:
        for _ in stream:
            pass
        assert stream.result().kept_frame().token_id.tolist() == here.kept_frame().token_id.tolist()
    assert len(there.top_logprobs_frame(alternatives=2)) == len(here.top_logprobs_frame(alternatives=2))
    for fields in ({}, {"kept_logprobs": True, "top_p": 1}):
        with pytest.raises(RequestError, match="ask for kept_logprobs=True") as error:
            remote.chat("Tell me a story.", **{**asked, **fields}).kept_frame()
        assert error.value.param == "kept_logprobs"


def test_every_field_of_a_request_travels(remote):
    """None is kept back: what the endpoint is sent, it validates to the request that was asked."""
    fields = {
        "max_tokens": 9,
        "context_length_exceeded_behavior": "error",
        "n": 2,
        "seed": 5,
        "stop": ["x"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {3: 1.0},
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "text"},
        "separate_reasoning": True,
        "include_stop": False,
        "min_tokens": 2,
        "ignore_eos": True,
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "tools": [WEATHER],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "enable_thinking": False,
        "chat_template_kwargs": {"enable_thinking": False},
        "continue_final_message": True,
        "model": "demo",
        "prompt_logprobs": 1,
        "stop_token_ids": [5],
        "return_token_ids": True,
        "safety_identifier": "me",
        "prompt_cache_key": "a",
        "prompt_cache_retention": "24h",
        "reasoning_effort": "low",
        "verbosity": "low",
        "modalities": ["text"],
        "prediction": {"type": "content", "content": "a"},
        "logprob_token_ids": [3],
        "bad_words": ["sorry"],
        "allowed_token_ids": [1, 2],
        "top_n_sigma": 1.5,
        "top_h": 0.5,
        "typical_p": 0.5,
        "epsilon_cutoff": 0.1,
        "eta_cutoff": 0.1,
        "p_less": 2,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "smoothing_factor": 0.5,
        "smoothing_curve": 2.0,
        "dynatemp_range": 0.5,
        "dynatemp_exponent": 0.5,
        "mirostat": 2,
        "mirostat_tau": 3.0,
        "mirostat_eta": 0.2,
        "adaptive_target": 0.5,
        "adaptive_decay": 0.5,
        "no_repeat_ngram_size": 3,
        "dry_multiplier": 0.5,
        "dry_base": 2.0,
        "dry_allowed_length": 3,
        "dry_penalty_last_n": 10,
        "dry_sequence_breakers": ["x"],
        "guidance_scale": 1.5,
        "contrastive_strength": 0.5,
        "contrastive_alpha": 0.2,
        "negative_prompt": "c",
        "kept_logprobs": True,
    }
    unsaid = {"messages", "max_completion_tokens", "stream", "stream_options", "structured_outputs"}
    assert set(ChatRequest.model_fields) - fields.keys() == unsaid
    request = ChatRequest(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], **fields)
    asked, spare = remote.backend.endpoint.body(request, seed=5, n=2)
    assert ChatRequest(**asked) == request
    alone = ChatRequest.build("a", structured_outputs={"regex": "a+"})  # which cannot stand beside the others
    assert remote.backend.endpoint.body(alone, seed=5, n=1)[0]["structured_outputs"] == {"regex": "a+"}
    assert set(spare) == {"stream", "stream_options"}
    plain = remote.request("hello")
    asked, spare = remote.backend.endpoint.body(plain, seed=3, n=1)
    neutral = {name: getattr(plain, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    assert neutral.items() <= ChatRequest(**asked, **spare).model_dump().items()


def test_tools_and_thoughts_go_round(demo, remote):
    answers = []
    for lab in (demo, remote):
        messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
        first = lab.chat(messages, tools=[WEATHER], temperature=0)
        call = first.choices[0].tool_calls[0]
        messages += [
            first.completion.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 7}'},
        ]
        second = lab.chat(messages, tools=[WEATHER], temperature=0)
        answers.append((call.name, call.arguments, first.finish_reasons, second.text))
    assert answers[0] == answers[1] and answers[0][0] == "get_weather"


def test_a_stream_is_what_chat_gives(remote):
    fields = {"temperature": 0.9, "n": 2, "seed": 3, "max_tokens": 20, "logprobs": True, "top_logprobs": 2}
    with remote.stream("Tell me a short story.", **fields) as stream:
        texts, listed = ["", ""], [[], []]
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                listed[choice.index] += (choice.logprobs and choice.logprobs.content) or []
    streamed, whole = stream.result(), remote.chat("Tell me a short story.", **fields)
    assert texts == streamed.texts == whole.texts
    pd.testing.assert_frame_equal(streamed.logprobs_frame(), whole.logprobs_frame())
    kept = [choice.logprobs.content for choice in whole.completion.choices]
    assert [[each.token_id for each in row] for row in listed] == [[each.token_id for each in row] for row in kept]


def test_a_sweep_is_what_it_is_here(demo, remote):
    grid = {"temperature": [0.0, 0.7], "top_p": [0.8, 1.0], "n": 2, "seed": 7, "max_tokens": 12}
    here, there = demo.sweep("Name an animal.", **grid), remote.sweep("Name an animal.", **grid)
    mine, yours = here.frame(), there.frame()
    assert mine.dtypes.astype(str).to_dict() == yours.dtypes.astype(str).to_dict()
    same = ["temperature", "top_p", "choice", "seed", "text", "finish_reason"]
    pd.testing.assert_frame_equal(mine[same], yours[same])
    assert there.is_complete and all(result.notes == () for result in there.results)


def test_a_sweep_goes_on_and_is_kept(remote, tmp_path):
    path = tmp_path / "sweep.parquet"
    fields = {"temperature": [0.3, 0.9], "n": 2, "seed": 7, "max_tokens": 6}
    whole = remote.sweep("Name an animal.", save=path, **fields)
    again = remote.sweep("Name an animal.", save=path, **fields)
    pd.testing.assert_frame_equal(whole.frame(), again.frame())


def test_a_sweep_keeps_to_the_limit_and_shows_how_far_it_is(served, monkeypatch):
    from llmlab.backends.remote.attempts import Attempts
    from llmlab.sweeps import gather

    busy, most, lock, shown = [0], [0], threading.Lock(), []
    send = Attempts._send

    async def counted(self, *args, **kwargs):
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        try:
            return await send(self, *args, **kwargs)
        finally:
            with lock:
                busy[0] -= 1

    monkeypatch.setattr(Attempts, "_send", counted)
    bar = gather.progress_bar

    def watched(**options):
        found = bar(**options)
        update = found.update
        found.update = lambda count: (shown.append((count, options["total"])), update(count))
        return found

    monkeypatch.setattr(gather, "progress_bar", watched)
    lab = llmlab.connect(f"{served.url}/v1", quiet=True, concurrency=2)
    try:
        lab.sweep("Name an animal.", temperature=[0.2, 0.4, 0.6, 0.8, 1.0], n=1, seed=1, max_tokens=8)
    finally:
        lab.close()
    assert 1 <= most[0] <= 2
    # Where nobody watches, the bar is off, and is told each time how many there are by then.
    assert max(shown) == (5, 5) and {total for _, total in shown} == {5}


def test_the_same_noise_again(remote):
    result = remote.chat("Tell me a short story.", temperature=0.9, max_tokens=16)
    again = result.rerun()
    assert again.texts == result.texts and again.seed == result.seed and again.notes == ()
    cold = result.rerun(temperature=0)
    assert cold.request.temperature == 0 and cold.parent is result


def test_what_needs_the_model_says_what_to_do(remote):
    result = remote.chat("Name an animal.", max_tokens=4)
    asks = {
        "next_token": lambda: remote.next_token("hello"),
        "score": lambda: remote.score("hello", "you"),
        "a result's score": lambda: remote.score(result),
        "ledger": lambda: result.next_token(0),
        "branch": lambda: result.branch(1),
        "tree": lambda: result.tree(depth=2, width=2),
        "orders": lambda: remote.compare_orders("hello"),
        "beams": lambda: remote.beam_search("hello"),
        "compare": lambda: remote.compare(remote, "hello"),
        "drift": lambda: remote.drift("hello"),
        "a sample": lambda: remote.sample_without_replacement("hello"),
        "answers": lambda: remote.answers("hello"),
        "codes": lambda: remote.arithmetic_sample("hello"),
        "complete": lambda: remote.complete("hello"),
        "order": lambda: remote.chat("hello", order="vllm"),
    }
    for name, ask in asks.items():
        with pytest.raises(RequestError, match=r"endpoint.*llmlab\.load"):
            ask()
            pytest.fail(name)


def test_its_errors_are_the_same(demo, remote):
    for fields in (
        {"logit_bias": {10**6: 1}},
        {"chat_template_kwargs": {"nonsense": 1}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
    ):
        found = []
        for lab in (demo, remote):
            with pytest.raises(RequestError) as caught:
                lab.chat("hello", **fields)
            found.append(caught.value)
        assert found[0].param == found[1].param is not None
        assert found[0].message in found[1].message
    with pytest.raises(ContextLengthError):
        remote.chat("hello " * 2000)
    with pytest.raises(ModelNotFoundError, match="another"):
        remote.chat("hello", model="another")


def test_a_key(demo):
    with running(demo.backend, api_key="secret") as server:
        with pytest.raises(LLMLabError, match="api_key"):
            llmlab.connect(f"{server.url}/v1", quiet=True)
        lab = llmlab.connect(f"{server.url}/v1", api_key="secret", quiet=True)
        assert lab.backend.name == "demo" and "llmlab" in repr(lab)
        lab.close()
        with pytest.raises(LLMLabError, match="/v1"):
            llmlab.connect(server.url, api_key="secret", model="demo", quiet=True).chat("hello")
