"""The API's shapes, of answers made by hand: every kind of text, calls, control tokens, what JSON cannot say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmlab.protocol.chunks import chunks
from llmlab.protocol.completion import CallDelta, Choice, Completion, Delta, ToolCall
from llmlab.protocol.wire import MINUS_INFINITY, chat_completion
from tests.backends.client import accumulated
from tests.completions import make_completion, make_tokens

#: <think> a </think> Once upon "é" <script> <|im_end|>
IDS = (34, 2, 35, 0, 1, 24, 16, 37)
SEGMENTS = ("reasoning", "reasoning", "reasoning", "content", "content", "content", "tool_call", "end")
CALLS = (ToolCall("call_1", "get_weather", '{"city": "Paris"}'), ToolCall("call_2", "get_time", "{}"))


def answer(*, ids: tuple[int, ...] = IDS, segments: tuple[str, ...] = SEGMENTS, **fields: Any) -> Completion:
    completion = make_completion(make_tokens(ids, segment=segments), finish="tool_calls", **fields)
    separate = fields.get("separate_reasoning", False)
    text = "Once upon" if separate else "<think> a</think>Once upon"
    choice = replace(completion.choices[0], text=text, reasoning=" a", tool_calls=CALLS)
    return replace(completion, choices=(choice,))


class Scripted:
    """A stream of deltas written down beforehand."""

    def __init__(self, completion: Completion, *deltas: Delta) -> None:
        self.header, self._deltas = completion, deltas

    def __iter__(self) -> Iterator[Delta]:
        return iter(self._deltas)

    def on_wait(self, tell: Any) -> None: ...

    def on_restart(self, tell: Any) -> None: ...

    def result(self) -> Completion:
        return self.header

    def close(self) -> None: ...


def read(*deltas: Delta, **fields: Any) -> list[dict[str, Any]]:
    """The choices of the chunks; chunks and the whole are valid for the openai package."""
    completion = answer(**fields)
    made = list(chunks(Scripted(completion, *deltas)))
    accumulated(map(ChatCompletionChunk.model_validate, made), completion.request)
    return [choice for chunk in made for choice in chunk["choices"]]


def part(first: int, last: int, *, finish: str | None = None, **text: Any) -> Delta:
    """A delta with some of the tokens."""
    tokens = make_tokens(IDS[first:last], segment=SEGMENTS[first:last])
    return Delta(index=0, tokens=tokens, finish_reason=finish, **({"text": ""} | text))


@pytest.mark.parametrize("separate", [True, False])
def test_each_token_is_in_one_list(separate: bool) -> None:
    response = chat_completion(answer(logprobs=True, separate_reasoning=separate))
    message, logprobs = response.choices[0].message, response.choices[0].logprobs
    spelled = {name: [entry["token"] for entry in getattr(logprobs, name)] for name in ("reasoning", "tool_calls")}
    content = [entry.token for entry in logprobs.content]
    thought = ["<think>", " a", "</think>"]
    assert spelled == {"reasoning": thought if separate else [], "tool_calls": ["<script>"]}
    assert content == ([] if separate else thought) + ["Once", " upon", "é"]
    assert (message.model_extra or {}).get("reasoning_content", "absent") == (" a" if separate else "absent")
    assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls] == [
        (call.id, call.name, call.arguments) for call in CALLS
    ]


def test_a_call_alone_has_no_content() -> None:
    completion = answer()
    alone = replace(completion, choices=(replace(completion.choices[0], text=""),))
    assert chat_completion(alone).choices[0].message.content is None
    silent = replace(completion, choices=(replace(completion.choices[0], text="", tool_calls=()),))
    assert chat_completion(silent).choices[0].message.content == ""


def test_a_control_token_goes_by_its_name() -> None:
    response = chat_completion(answer(ids=(0, 38), segments=("content",) * 2, logprobs=True, top_logprobs=20))
    named = [entry for entry in response.choices[0].logprobs.content if entry.bytes is None]
    assert [(entry.token, entry.token_id) for entry in named] == [("<|endoftext|>", 38)]
    others = [other for entry in response.choices[0].logprobs.content for other in entry.top_logprobs]
    assert {other.token for other in others if other.bytes is None} <= {"<|im_end|>", "<|endoftext|>"}
    nameless = replace(answer(ids=(0, 38), segments=("content",) * 2, logprobs=True), control_tokens={})
    assert chat_completion(nameless).choices[0].logprobs.content[1].token == "<id 38>"


def test_json_has_neither_infinity_nor_nan() -> None:
    completion = answer(logprobs=True, top_logprobs=20)
    tokens = completion.choices[0].tokens
    unknown = replace(tokens, entropy=np.full(len(tokens), np.nan, np.float32), rank=np.full(len(tokens), -1, np.int32))
    response = chat_completion(replace(completion, choices=(replace(completion.choices[0], tokens=unknown),)))
    text = response.model_dump_json()
    json.loads(text, parse_constant=pytest.fail)
    assert ChatCompletion.model_validate_json(text) == response
    entries = response.choices[0].logprobs.content
    assert {(entry.entropy, entry.rank) for entry in entries} == {(None, None)}
    cut = [other.sampling_logprob for entry in entries for other in entry.top_logprobs if other.sampling_logprob < -99]
    assert set(cut) == {MINUS_INFINITY}, "top_k left six"


def test_a_chunk_holds_one_kind_of_text() -> None:
    first = CallDelta(0, '{"city"', id="call_1", name="get_weather")
    calls = (first, CallDelta(0, ': "Paris"}'), CallDelta(1, "{}", id="call_2", name="get_time"))
    everything = part(0, 8, finish="tool_calls", text="Once upon", reasoning=" a", calls=calls)
    role, *pieces, finish = read(everything, logprobs=True, separate_reasoning=True)
    assert role["delta"] == {"role": "assistant", "content": None} and finish["delta"] == {}
    assert [list(piece["delta"]) for piece in pieces] == [["reasoning_content"], ["content"], ["tool_calls"]]
    assert [len(pieces[k]["logprobs"][name]) for k, name in enumerate(("reasoning", "content", "tool_calls"))] == [
        3,
        3,
        1,
    ]
    entries = pieces[2]["delta"]["tool_calls"]
    assert [entry["index"] for entry in entries] == [0, 1], "two entries of one chunk are two calls to a client"
    assert entries[0]["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert finish["finish_reason"] == "tool_calls"


def test_tokens_without_text_are_told_where_they_are_asked_for() -> None:
    deltas = (part(0, 1), part(1, 4, text="Once", reasoning=" a"), part(4, 8, finish="stop"))
    with_logprobs = read(*deltas, logprobs=True, separate_reasoning=True)
    assert [choice["delta"] for choice in with_logprobs[1:-1]] == [
        {},
        {"reasoning_content": " a"},
        {"content": "Once"},
        {},
        {},
    ]
    assert [len(with_logprobs[-1]["logprobs"][name]) for name in ("content", "end")] == [0, 1]
    without = read(*deltas, separate_reasoning=True)
    assert [choice["delta"] for choice in without[1:]] == [{"reasoning_content": " a"}, {"content": "Once"}, {}]
    assert all(choice["logprobs"] is None for choice in without)


def test_nothing_said_is_an_empty_content() -> None:
    assert read(part(7, 8, finish="stop"))[-1]["delta"] == {"content": ""}
    call = CallDelta(0, "{}", id="call_1", name="get_time")
    assert read(part(6, 8, finish="tool_calls", calls=(call,)))[-1]["delta"] == {}


def test_an_interrupted_choice_says_length() -> None:
    completion = answer()
    cut: Choice = replace(completion.choices[0], finish_reason="interrupted")
    assert chat_completion(replace(completion, choices=(cut,))).choices[0].finish_reason == "length"
