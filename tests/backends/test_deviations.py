"""Each deviation of an endpoint from the request is noted, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from llmlab.backends.remote.choice_parser import ChoiceParser
from llmlab.backends.remote.deviations import deviations
from llmlab.backends.remote.logprobs import TokenTexts
from llmlab.protocol.completion import NO_END_TOKEN
from llmlab.protocol.request import ChatRequest
from tests.backends.endpoint import entry, piece

LONG = "The same words again, and more than a few of them."
ADD = {"type": "function", "function": {"name": "add"}}
SUB = {"type": "function", "function": {"name": "sub"}}
ONLY_ADD = {"type": "function", "function": {"name": "add"}}


def noted(*said: dict[str, Any], model: str | None = None, seed: int | None = None, made: int | None = None, **fields):
    request = ChatRequest.build("hello", **fields)
    answers = [ChoiceParser(index) for index in range(request.n)]
    for each in said:
        answers[each["index"]].feed(each, texts=TokenTexts(), whole="message" in each)
    meta = {name: value for name, value in (("model", model), ("seed", seed)) if value is not None}
    return list(deviations(request, answers, reported=meta, generated=made))


def text(
    content: str, *, finish: str | None = "stop", index: int = 0, tokens: Any = None, raw: bool = True, **delta: Any
) -> dict[str, Any]:
    listed = [entry(each, -1.0, raw=raw) for each in (tokens or [content or "{}"])]
    return piece(content, index=index, finish=finish, logprobs={"content": listed, "end": []}, **delta)


def called(*names: str, finish: str = "tool_calls") -> dict[str, Any]:
    calls = [{"index": at, "id": name, "function": {"name": name, "arguments": "{}"}} for at, name in enumerate(names)]
    return text("", finish=finish, tool_calls=calls)


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        (text("Hi."), {}),
        (text("Hi."), {"stop": "."}),
        (text("Hi.", finish="length"), {"stop": "!"}),
        (text("Hi"), {"stop": ".", "include_stop": False}),
        (text("<think>a.b</think>Hi."), {"stop": "."}),
        (text('{"a": 1}'), {"response_format": {"type": "json_object"}}),
        (text("<think>a</think>[1]"), {"response_format": {"type": "json_object"}}),
        (text('{"a":', finish="length"), {"response_format": {"type": "json_object"}}),
        (text("Hi"), {"response_format": {"type": "text"}}),
        (text("Hi"), {"max_tokens": 1}),
        (called("add"), {"tools": [ADD], "tool_choice": "required"}),
        (called("add"), {"tools": [ADD, SUB], "tool_choice": ONLY_ADD}),
        (called("add", "sub"), {"tools": [ADD, SUB]}),
        (text("Hi", finish="length"), {"tools": [ADD], "tool_choice": "required"}),
        (text("Hi", reasoning="hm"), {"separate_reasoning": True}),
        (piece("", finish="stop"), {}),
    ],
)
def test_what_is_as_asked_is_not_noted(said, fields):
    assert noted(said, **fields) == []


@pytest.mark.parametrize(
    ("note", "said", "fields"),
    [
        ("finish_reason: 'content_filter'", text("Hi", finish="content_filter"), {}),
        ("refusal: I cannot do that.", piece("", refusal="I cannot do that.", finish="stop"), {}),
        ("stop: ignored", text("a. b"), {"stop": "."}),
        ("stop: ignored", text("a.b."), {"stop": "."}),
        ("stop: its text may", text("a"), {"stop": "."}),
        ("include_stop: ignored", text("a."), {"stop": ".", "include_stop": False}),
        ("response_format: ignored", text("a"), {"response_format": {"type": "json_object"}}),
        ("max_tokens: 2 tokens", text("ab", tokens="ab"), {"max_tokens": 1}),
        ("tools: calls 'mul'", called("mul"), {"tools": [ADD]}),
        ("tools: calls 'add'", called("add"), {}),
        ("tool_choice: ignored, 'add' is called", called("add"), {"tools": [ADD], "tool_choice": "none"}),
        ("tool_choice: ignored, another", called("sub"), {"tools": [ADD, SUB], "tool_choice": ONLY_ADD}),
        ("tool_choice: ignored, nothing", text("Hi"), {"tools": [ADD], "tool_choice": "required"}),
        ("parallel_tool_calls: ignored", called("add", "add"), {"tools": [ADD], "parallel_tool_calls": False}),
        ("separate_reasoning: the reasoning is sent separately", text("Hi", reasoning="hm"), {}),
        ("separate_reasoning: ignored", text("<think>hm</think>Hi"), {"separate_reasoning": True}),
        ("logprobs: none were sent", piece("Hi", finish="stop"), {}),
        ("logprobs: sent without bytes", text("Hi", raw=False), {}),
        ("logprobs: their tokens do not join", text("Hi", tokens="i"), {}),
        ("finish_reason: none was sent", text("Hi", finish=None), {}),
    ],
)  # fmt: skip
def test_what_is_not_as_asked_is_noted_once(note, said, fields):
    [found] = noted(said, **fields)
    assert found.startswith(note)


def test_what_the_answer_says_of_itself():
    assert noted(text("Hi"), model="gpt-4o-2024-08-06") == ["model: the answer says it is gpt-4o-2024-08-06's"]
    assert noted(text("Hi"), seed=7, model=None) == []
    assert noted(text("Hi"), seed=3) == []


@pytest.mark.parametrize(("said", "words"), [(None, "does not say"), (8, "of seed 8"), (7, None)])
def test_a_seed_that_may_not_count(said, words):
    request = ChatRequest.build("hello", seed=7)
    answer = ChoiceParser(0)
    answer.feed(text("Hi"), texts=TokenTexts())
    found = list(deviations(request, [answer], reported={} if said is None else {"seed": said}, generated=None))
    assert [words in note for note in found] == ([True] if words else [])


def test_choices_that_are_all_the_same():
    same = [text(LONG, index=0), text(LONG, index=1)]
    assert noted(*same, n=2) == ["n: all 2 choices have the same text, as if nothing were sampled"]
    assert noted(*same, n=2, temperature=0) == []
    assert noted(text("42", index=0), text("42", index=1), n=2) == []


def test_fewer_logprobs_than_tokens():
    assert noted(text("Hi"), made=2) == []  # the end token is counted, and not listed
    assert noted(text("Hi"), made=9) == ["logprobs: sent for 1 of 9 generated tokens"]


def test_an_end_token_that_is_not_listed():
    """Noted where the answer ended with one: not at its length, not after a stop, and not where a list of them came."""

    def said(content="Hi.", finish="stop", **logprobs):
        return piece(content, finish=finish, logprobs={"content": [entry(content, -1.0)], **logprobs})

    assert noted(said()) == noted(said(finish="eos")) == [NO_END_TOKEN]
    assert noted(said(end=[])) == noted(said(end=[entry("</s>", -1.0)])) == []
    assert noted(said(finish="length")) == noted(said(), stop=".") == []
