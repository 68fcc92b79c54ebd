"""Schemas and tools, as the `openai` client asks for them, over HTTP and in-process."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from pydantic import BaseModel, Field

WAKE = [{"role": "user", "content": "Wake me in 43 minutes."}]
TIMER = {
    "type": "function",
    "function": {
        "name": "set_timer",
        "description": "Count down some minutes",
        "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
    },
}


class Animal(BaseModel):
    name: str = Field(max_length=12)
    legs: int = Field(ge=0, le=8)
    colour: Literal["brown", "grey"]


@pytest.fixture(params=["over HTTP", "in-process"])
def client(request, server, demo):
    return server.client() if request.param == "over HTTP" else demo.client()


def test_an_answer_parses_into_a_class(client):
    fields = {"messages": [{"role": "user", "content": "Describe an animal."}], "temperature": 1.5, "seed": 1}
    for seed in (1, 2):
        answer = client.chat.completions.parse(model="demo", response_format=Animal, **{**fields, "seed": seed})
        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(answer.choices[0].message.parsed, Animal)
    with client.chat.completions.stream(model="demo", response_format=Animal, **fields) as stream:
        seen = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in seen and seen[-1] == "content.done"
    assert isinstance(final.choices[0].message.parsed, Animal)


def test_a_tool_goes_round(client):
    ask = {"model": "demo", "tools": [TIMER], "temperature": 0, "seed": 1}
    first = client.chat.completions.create(messages=WAKE, **ask).choices[0]
    assert first.finish_reason == "tool_calls" and first.message.content is None
    (call,) = first.message.tool_calls
    assert call.function.name == "set_timer" and json.loads(call.function.arguments) == {"minutes": 43}
    result = {"role": "tool", "tool_call_id": call.id, "content": "The timer runs."}
    second = client.chat.completions.create(messages=[*WAKE, first.message, result], max_tokens=40, **ask).choices[0]
    assert second.finish_reason in ("stop", "length") and second.message.content and not second.message.tool_calls


def test_a_streamed_call_is_the_whole_one(client):
    ask = {"model": "demo", "messages": WAKE, "tools": [TIMER], "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**ask).choices[0].message.tool_calls[0]
    pieces = [
        call
        for chunk in client.chat.completions.create(**ask, stream=True)
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    assert (pieces[0].id, pieces[0].function.name) == (whole.id, "set_timer")
    assert "".join(call.function.arguments for call in pieces) == whole.function.arguments


def test_a_named_tool_is_called_whatever_was_said(client):
    named = {"type": "function", "function": {"name": "set_timer"}}
    ask = {"model": "demo", "messages": [{"role": "user", "content": "Name an animal."}], "tools": [TIMER], "seed": 2}
    choice = client.chat.completions.create(**ask, tool_choice=named, temperature=1.5, max_tokens=200).choices[0]
    (call, *_) = choice.message.tool_calls
    assert call.function.name == "set_timer"
    assert choice.finish_reason == "length" or isinstance(json.loads(call.function.arguments)["minutes"], int)
