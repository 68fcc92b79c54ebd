"""Given tokens: scored as if they had been sampled, continued from, and checked against the request's grammar."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmlab.errors import ContextLengthError, RequestError
from llmlab.protocol.backend import GivenTokens, LogitsBackend
from llmlab.protocol.request import ChatRequest, PromptRequest

JSON = {"type": "json_object"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
#: Answers with all kinds of segments, ends and distributions.
REQUESTS = {
    "a story cut by the length": {"messages": "Tell me a story.", "max_tokens": 40, "top_p": 0.9},
    "short answers with their end": {"messages": "Could you please tell me a tree? Only the answer."},
    "a stop": {"messages": "Tell me a story.", "stop": [". ", "a"], "top_k": 20, "temperature": 0.8},
    "a stop left out": {"messages": "Tell me a story.", "stop": "was", "include_stop": False, "max_tokens": 30},
    "penalties": {
        "messages": "Tell me a story.",
        "max_tokens": 30,
        "frequency_penalty": 1.5,
        "repetition_penalty": 1.3,
    },
    "reasoning": {"messages": "Name a tree.", "enable_thinking": True, "separate_reasoning": True, "max_tokens": 80},
    "JSON": {"messages": "Give me a person as JSON.", "response_format": JSON, "max_tokens": 60},
    "a call": {"messages": "What is the weather?", "tools": [WEATHER], "tool_choice": "required", "max_tokens": 60},
    "no end": {"messages": "Name a tree.", "ignore_eos": True, "max_tokens": 30, "min_p": 0.05},
    "a late end": {"messages": "Name a tree.", "min_tokens": 12, "max_tokens": 30, "logit_bias": {13: 2.0}},
}


@pytest.fixture(scope="module")
def answers(demo):
    """Every request's completion, three choices each."""
    requests = {name: ChatRequest.build(**{"n": 3, "seed": 5, **fields}) for name, fields in REQUESTS.items()}
    streams = {name: demo.backend.stream(request) for name, request in requests.items()}
    return {name: stream.result() for name, stream in streams.items()}


def own(completion):
    return [GivenTokens(choice.index, choice.tokens.ids, choice.finish_reason) for choice in completion.choices]


def spelled(choice):
    return choice.text, choice.reasoning, choice.tool_calls, choice.finish_reason, choice.tokens.segment


@pytest.mark.parametrize("name", REQUESTS)
def test_a_completions_own_tokens_have_the_figures_that_were_reported(demo, answers, name):
    done = answers[name]
    scored = demo.backend.score(done.request, own(done), seed=done.seed)
    assert scored.seed == done.seed and scored.prompt_ids.tolist() == done.prompt_ids.tolist()
    for before, after in zip(done.choices, scored.choices, strict=True):
        assert after.given == len(after.tokens) and before.given == 0
        assert spelled(after) == spelled(before)
        for figure in ("logprob", "sampling_logprob", "entropy", "sampling_entropy", "margin"):
            ours, theirs = getattr(after.tokens, figure), getattr(before.tokens, figure)
            np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=figure)
        for figure in ("ids", "lead", "overhang", "kept"):
            np.testing.assert_array_equal(getattr(after.tokens, figure), getattr(before.tokens, figure), figure)


def test_there_are_all_kinds_of_answers(answers):
    """What the test above is over."""
    choices = [choice for done in answers.values() for choice in done.choices]
    assert {choice.finish_reason for choice in choices} == {"stop", "length", "tool_calls"}
    assert {kind for choice in choices for kind in choice.tokens.segment} == {
        "reasoning",
        "content",
        "tool_call",
        "end",
    }


@pytest.mark.parametrize("name", REQUESTS)
def test_going_on_from_anywhere_is_what_was_there(demo, answers, name):
    """Also where the prefix holds half a character, half a stop, an open call; its text and all are the whole's."""
    done = answers[name]
    lengths = [len(choice.tokens) for choice in done.choices]
    for share in (0.0, 0.3, 0.9):
        given = [GivenTokens(c.index, c.tokens.ids[: int(share * len(c.tokens))], drawn=0) for c in done.choices]
        stream = demo.backend.continue_from(done.request, given, seed=done.seed)
        deltas = list(stream)
        again = stream.result()
        for before, after, one in zip(done.choices, again.choices, given, strict=True):
            if before.tokens.ids.tolist() != after.tokens.ids.tolist():
                # A prefix that was read at once differs in the last bits from one that was made step by step.
                at = int(np.argmax(before.tokens.ids[: len(after.tokens)] != after.tokens.ids[: len(before.tokens)]))
                print(name, share, "differs at", at, "margin", before.tokens.margin[at])
                pytest.fail("another token was drawn; its margin is printed above")
            assert spelled(after) == spelled(before)
            assert after.given == len(one.ids)
            assert "".join(delta.text for delta in deltas if delta.index == after.index) == after.text
            assert sum(len(delta.tokens) for delta in deltas if delta.index == after.index) == lengths[after.index]


def test_the_length_counts_what_was_given(demo, answers):
    done = answers["a story cut by the length"]
    given = [GivenTokens(choice.index, choice.tokens.ids, drawn=0) for choice in done.choices]
    same = demo.backend.continue_from(done.request, given, seed=done.seed).result()
    assert [choice.finish_reason for choice in same.choices] == ["length"] * 3
    assert [len(choice.tokens) for choice in same.choices] == [40] * 3
    longer = demo.backend.continue_from(done.request.replace(max_tokens=50), given, seed=done.seed).result()
    assert [len(choice.tokens) for choice in longer.choices] == [50] * 3


def test_an_end_token_ends_where_it_counts(demo, answers):
    done = answers["short answers with their end"]
    ids = done.choices[0].tokens.ids
    assert done.choices[0].tokens.segment[-1] == "end"
    ended = demo.backend.continue_from(done.request, [GivenTokens(0, ids)], seed=5).result().choices[0]
    assert ended.finish_reason == "stop" and len(ended.tokens) == len(ids)
    ignoring = done.request.replace(ignore_eos=True, max_tokens=len(ids) + 5)
    on = demo.backend.continue_from(ignoring, [GivenTokens(0, ids)], seed=5).result().choices[0]
    assert len(on.tokens) == len(ids) + 5 and "end" not in on.tokens.segment


@pytest.mark.parametrize("include", [True, False])
def test_stops_that_the_kept_tokens_hold_do_not_count(demo, include):
    """One that the last token completes counts if that token stands for a sampled one, and so does one that begins in
    the kept tokens and ends after them."""
    kept = np.array(demo.backend.encode("One. Two."), np.int32)
    (space,) = demo.backend.encode(" ")
    request = ChatRequest.build("Count.", stop=[". ", "."], include_stop=include, max_tokens=len(kept) + 6, seed=1)
    on = demo.backend.continue_from(request, [GivenTokens(0, kept, drawn=0)], seed=1).result().choices[0]
    assert on.text.startswith("One. Two.") and len(on.tokens) > len(kept)
    ended = demo.backend.continue_from(request, [GivenTokens(0, kept, drawn=1)], seed=1).result().choices[0]
    assert (ended.text, ended.finish_reason) == ("One. Two." if include else "One. Two", "stop")
    across = request.replace(stop=[". "], logit_bias={space: 100.0})
    ended = demo.backend.continue_from(across, [GivenTokens(0, kept, drawn=0)], seed=1).result().choices[0]
    assert (ended.text, ended.finish_reason) == ("One. Two. " if include else "One. Two", "stop")
    assert len(ended.tokens) == len(kept) + 1


def test_a_grammar_is_where_the_given_tokens_leave_it(demo, answers):
    done = answers["JSON"]
    whole = [choice for choice in done.choices if choice.finish_reason == "stop"]
    assert whole, "no choice ended by itself"
    for choice in whole:
        found = demo.backend.grammar_masks(done.request, prompt=done.prompt_ids, made=choice.tokens.ids)
        bits = np.unpackbits(found.view(np.uint8), axis=1, bitorder="little")[:, : len(demo.backend.token_bytes)]
        assert bits.shape[0] == len(choice.tokens) + 1
        assert bits[np.arange(len(choice.tokens)), choice.tokens.ids].all()
        for at in range(0, len(choice.tokens), 5):
            alone = demo.backend.allowed_tokens(done.request, prompt=done.prompt_ids, made=choice.tokens.ids[:at])
            np.testing.assert_array_equal(bits[at].astype(bool), alone)
        assert not bits[-1].any()
        half = GivenTokens(7, choice.tokens.ids[: len(choice.tokens) // 2], drawn=0)
        other = demo.backend.continue_from(done.request.replace(max_tokens=200), [half], seed=99).result().choices[0]
        if other.finish_reason == "stop":
            assert isinstance(json.loads(other.text), dict)


def test_a_token_that_the_grammar_forbids_is_named_with_what_is_possible(demo, answers):
    done = answers["JSON"]
    bad = np.array(demo.backend.encode("Once"), np.int32)
    for ask in (demo.backend.score, demo.backend.continue_from):
        with pytest.raises(
            RequestError, match=r"'Once' is forbidden at position 0 by .* response_format, .*'{'"
        ) as told:
            ask(done.request, [GivenTokens(0, bad)], seed=1)
        assert told.value.param == "token"
    call = answers["a call"].request
    with pytest.raises(RequestError, match="tool_choice"):
        demo.backend.score(call, [GivenTokens(0, bad)], seed=1)


def test_what_does_not_fit_the_context(demo):
    request = PromptRequest.build("Once", seed=1)
    with pytest.raises(ContextLengthError, match="given ones exceed the context of 512"):
        demo.backend.score(request, [GivenTokens(0, np.ones(512, np.int32))], seed=1)


def test_the_ways_on_are_a_generations_alternatives(demo, answers):
    done = answers["a story cut by the length"]
    choice = done.choices[1]
    places = [0, 1, 7, 23]
    ways = demo.backend.next_candidates(done.request, [choice.tokens.ids[:at] for at in places])
    for at, found in zip(places, ways, strict=True):
        assert found.ids[:5].tolist() == choice.tokens.top_ids[at, :5].tolist()
        np.testing.assert_allclose(found.logprob, choice.tokens.top_logprob[at], atol=1e-4)
        finite = np.isfinite(choice.tokens.top_sampling_logprob[at])
        np.testing.assert_array_equal(np.isfinite(found.sampling_logprob), finite)
        np.testing.assert_allclose(
            found.sampling_logprob[finite], choice.tokens.top_sampling_logprob[at][finite], atol=1e-4
        )


def test_no_way_on(demo, answers):
    """A beginning that the grammar forbids, a whole that nothing may follow, a full context."""
    done = answers["JSON"]
    bad = np.array(demo.backend.encode("Once"), np.int32)
    whole = next(choice.tokens.ids for choice in done.choices if choice.finish_reason == "stop")
    full = np.ones(512 - len(done.prompt_ids), np.int32)
    assert demo.backend.next_candidates(done.request, [bad, whole, whole[:3]])[:2] == [None, None]
    assert demo.backend.next_candidates(done.request.replace(response_format=None), [full, full[:-1]])[0] is None
    assert demo.backend.next_candidates(done.request, []) == []


def test_an_order_that_is_none(demo):
    with pytest.raises(RequestError, match="order must be one of"):
        demo.backend.score(PromptRequest.build("Once"), [GivenTokens(0, np.ones(1, np.int32))], seed=1, order="theirs")


def test_the_backend_says_that_it_can(demo):
    assert isinstance(demo.backend, LogitsBackend)
