"""`/v1/responses`: answers and events that the `openai` package's types accept, and that say what a chat would."""

from __future__ import annotations

import json

import jsonschema
import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from llmlab.errors import LLMLabError
from llmlab.serve.responses.request import ResponsesRequest
from tests.serve.bodies import http
from tests.serve.puppet import Puppet

ANIMAL = "Name an animal."
STORY = "Tell me a short story."
SUM = "What is 12 + 30?"
WEATHER = "What is the weather in Oslo?"
PAIR = "What is the weather in Oslo and in Rome?"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": CITY,
    },
    {"type": "function", "name": "get_time", "description": "Get the current time in a city.", "parameters": CITY},
]
LOGPROBS = ["message.output_text.logprobs"]
EVENT = pydantic.TypeAdapter(ResponseStreamEvent)


@pytest.fixture
def client(server):
    return server.client()


def ask(client, given, **fields):
    """A whole answer, validated strictly: the client itself takes whatever comes."""
    extra = {name: fields.pop(name) for name in list(fields) if name in EXTRA}
    answer = client.responses.create(model="demo", input=given, extra_body=extra, **fields)
    Response.model_validate(answer.model_dump(exclude_unset=True, by_alias=True))
    return answer


EXTRA = ("seed", "top_k", "min_p", "enable_thinking", "stop", "include_stop", "ignore_eos", "min_tokens")


def streamed(client, given, **fields):
    """The events of a streamed answer, each validated strictly, numbered without a gap."""
    extra = {name: fields.pop(name) for name in list(fields) if name in EXTRA}
    got = list(client.responses.create(model="demo", input=given, extra_body=extra, stream=True, **fields))
    for event in got:
        EVENT.validate_python(event.model_dump(exclude_unset=True, by_alias=True))
    assert [event.sequence_number for event in got] == list(range(len(got)))
    return got


def plain(response):
    """A response without what differs between two runs of one request."""
    got = response.model_dump(exclude_unset=True)
    name = got.pop("id").removeprefix("resp_")
    for key in ("created_at", "completed_at"):
        got.pop(key, None)
    return json.loads(json.dumps(got).replace(name, "NAME"))


def test_an_answer_is_the_chats(client):
    answer = ask(client, ANIMAL, temperature=0, max_output_tokens=20)
    chat = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": ANIMAL}], temperature=0, max_tokens=20
    )
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.status, answer.incomplete_details, answer.error) == ("completed", None, None)
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert answer.usage.output_tokens == chat.usage.completion_tokens
    assert answer.usage.total_tokens == chat.usage.total_tokens
    assert [item.type for item in answer.output] == ["message"] and answer.model == "demo"


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        (ANIMAL, {}),
        (STORY, {"max_output_tokens": 12}),
        (STORY, {"max_output_tokens": 12, "include": LOGPROBS, "top_logprobs": 3}),
        (STORY, {"max_output_tokens": 30, "stop": " was", "include_stop": False, "include": LOGPROBS}),
        (SUM, {"enable_thinking": True, "include": LOGPROBS}),
        (SUM, {"enable_thinking": True, "reasoning": {"summary": "auto"}}),
        (SUM, {"enable_thinking": True, "max_output_tokens": 6}),
        (WEATHER, {"tools": TOOLS}),
        (PAIR, {"tools": TOOLS, "include": LOGPROBS}),
        (PAIR, {"tools": TOOLS, "max_output_tokens": 18}),
        (ANIMAL, {"text": {"format": {"type": "json_object"}}, "max_output_tokens": 30}),
    ],
)
def test_the_events_add_up_to_the_whole_answer(client, given, fields):
    whole = ask(client, given, temperature=0, seed=1, **fields)
    got = streamed(client, given, temperature=0, seed=1, **fields)
    assert [event.type for event in got[:2]] == ["response.created", "response.in_progress"]
    assert got[-1].type == f"response.{whole.status}" and plain(got[-1].response) == plain(whole)
    assert all(event.response.status == "in_progress" and event.response.output == [] for event in got[:2])
    assert built(got[2:-1]) == got[-1].response.model_dump(exclude_unset=True)["output"]


def built(got):
    """The output as the events between the first and the last build it; their order is checked."""
    items, state = [], "done"
    for event in got:
        kind = event.type.removeprefix("response.")
        if kind == "output_item.added":
            assert state == "done" and event.output_index == len(items) and event.item.status == "in_progress"
            items.append(event.item.model_dump(exclude_unset=True))
            state = "added"
            continue
        item = items[event.output_index]
        assert event.output_index == len(items) - 1 and getattr(event, "item_id", item["id"]) == item["id"]
        if kind in ("content_part.added", "reasoning_summary_part.added"):
            assert state == "added" and item[kind.partition("_")[0].replace("reasoning", "summary")] == []
            item["summary" if "summary" in kind else "content"] = [event.part.model_dump(exclude_unset=True)]
            state = "part"
        elif kind.endswith(".delta"):
            part = part_of(item)
            part["arguments" if "arguments" in kind else "text"] += event.delta
            if kind == "output_text.delta":
                part["logprobs"] += [entry.model_dump(exclude_unset=True) for entry in event.logprobs]
        elif kind in ("output_text.done", "reasoning_text.done", "reasoning_summary_text.done"):
            assert state == "part" and event.text == part_of(item)["text"]
            state = "text"
        elif kind == "function_call_arguments.done":
            assert state == "added" and event.arguments == item["arguments"]
            state = "text"
        elif kind in ("content_part.done", "reasoning_summary_part.done"):
            assert state == "text" and event.part.model_dump(exclude_unset=True) == part_of(item)
        else:
            assert kind == "output_item.done" and state == "text"
            final = event.item.model_dump(exclude_unset=True)
            assert final.pop("status") in ("completed", "incomplete") and item.pop("status") == "in_progress"
            assert final == item
            items[-1] = event.item.model_dump(exclude_unset=True)
            state = "done"
    assert state == "done"
    return items


def part_of(item):
    return item if item["type"] == "function_call" else (item.get("content") or item["summary"])[0]


def test_events_come_as_they_are_made(running):
    puppet = Puppet()
    with running(puppet) as server:
        stream = server.client().responses.create(model="puppet", input="Hi", stream=True)
        assert [next(stream).type for _ in range(2)] == ["response.created", "response.in_progress"]
        puppet.streams[0].say("One")
        assert [next(stream).type for _ in range(2)] == ["response.output_item.added", "response.content_part.added"]
        assert next(stream).delta == "One"
        puppet.streams[0].say(" two")
        assert next(stream).delta == " two"
        puppet.streams[0].finish()
        assert list(stream)[-1].response.output_text == "One two"


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_names_the_fields_of_this_request(client, stream):
    for given, param, message in [
        ({"input": "owl " * 600}, "input", "the prompt has"),
        ({"input": [{"role": "user", "content": "Hi"}, {"role": "robot", "content": "Hi"}]}, "input", "input[1].role"),
        ({"input": "Hi", "temperature": 3}, "temperature", "temperature"),
        ({"input": "Hi", "extra_body": {"max_tokens": 3}}, "max_tokens", "'max_output_tokens'"),
        ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id", "previous_response_id"),
    ]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="demo", stream=stream, **given)
        assert caught.value.param == param and message in caught.value.body["message"]
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="other", input="Hi", stream=stream)


# ---- the package's own helpers


class Animal(pydantic.BaseModel):
    name: str
    legs: int


def test_parse_gives_an_object(client):
    answer = client.responses.parse(model="demo", input=ANIMAL, text_format=Animal, temperature=0, max_output_tokens=60)
    assert isinstance(answer.output_parsed, Animal) and answer.text.format.name == "Animal"


def test_parse_gives_the_arguments_of_a_call(client):
    class GetWeather(pydantic.BaseModel):
        """Get the current weather in a city."""

        city: str

    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")["function"]
    answer = client.responses.parse(model="demo", input=WEATHER, temperature=0, tools=[{"type": "function", **tool}])
    assert answer.output[0].parsed_arguments == {"city": "Oslo"}


@pytest.mark.parametrize(
    "fields", [{"text_format": Animal}, {"tools": TOOLS}, {"extra_body": {"enable_thinking": True}}]
)
def test_the_stream_helper_gives_the_whole_answer(client, fields):
    ask = {"model": "demo", "input": SUM if "extra_body" in fields else WEATHER, "temperature": 0}
    with client.responses.stream(**ask, **fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    helper = client.responses.parse(**ask, **fields)
    assert kinds[-1] == "response.completed" and final.output_text == helper.output_text
    assert final.output_parsed == helper.output_parsed
    assert [item.type for item in final.output] == [item.type for item in helper.output]


def test_an_output_is_an_input(client):
    """A client goes on by sending the items of an answer back, as objects or as JSON."""
    first = ask(client, WEATHER, temperature=0, tools=TOOLS)
    [call] = first.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 7, "sky": "rainy"}'}
    for items in (first.output, [item.model_dump() for item in first.output]):
        trip = [{"role": "user", "content": WEATHER}, *items, result]
        assert ask(client, trip, temperature=0, tools=TOOLS).output_text == "It is 7 degrees and rainy in Oslo."


def test_in_this_process_it_is_the_same(client, demo):
    here = demo.client()
    for given, fields in [
        (STORY, {"max_output_tokens": 12}),
        (WEATHER, {"tools": TOOLS}),
        (SUM, {"enable_thinking": True}),
    ]:
        assert plain(ask(here, given, seed=1, **fields)) == plain(ask(client, given, seed=1, **fields))
        assert plain(streamed(here, given, seed=1, **fields)[-1].response) == plain(ask(here, given, seed=1, **fields))


# ---- what the OpenAPI document says of them


@pytest.fixture(scope="module")
def document(server):
    return http.get(server.url + "/openapi.json").json()


def valid(document, name, value):
    jsonschema.validate(value, {"$ref": f"#/components/schemas/{name}", "components": document["components"]})


@pytest.mark.parametrize(
    "fields",
    [
        {
            "max_output_tokens": 3,
            "include": LOGPROBS,
            "top_logprobs": 2,
            "prompt_logprobs": 1,
            "return_token_ids": True,
        },
        {"input": SUM, "enable_thinking": True, "metadata": {"a": "b"}},
        {"input": SUM, "reasoning": {"effort": "high", "summary": "auto"}},
        {"input": WEATHER, "tools": TOOLS, "temperature": 0},
    ],
)
def test_answers_are_as_the_document_says(server, document, fields):
    body = {"input": STORY, "seed": 1, **fields}
    valid(document, "ResponsesRequest", body)
    sent = {"content-type": "application/json"}
    answers = [
        http.post(f"{server.url}/v1/responses", json={**body, "stream": stream}, headers=sent, timeout=60, verify=False)
        for stream in (False, True)
    ]
    valid(document, "Response", answers[0].json())
    for event in answers[1].text.split("\n\n")[:-1]:
        value = json.loads(event.partition("data: ")[2])
        if "response" in value:
            valid(document, "Response", value["response"])


def accepted(fields):
    try:
        ResponsesRequest(**fields)
    except LLMLabError:
        return False
    return True


USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
FORM = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"input": [USER, {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "a"}]}]},
        {
            "input": [
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "id": "m", "status": None}
            ]
        },
        {"input": [USER, CALL, {"type": "function_call_output", "call_id": "c", "output": "x"}]},
        {"input": [USER, CALL, {"type": "function_call_output", "output": [{"type": "input_text", "text": "x"}]}]},
        {"input": [USER, {"type": "reasoning", "id": "r", "summary": []}]},
        {"tools": [TOOLS[0] | {"strict": True, "defer_loading": False, "allowed_callers": ["direct"]}]},
        {"tools": [], "tool_choice": "auto"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "name": "get_time"}},
        {"tools": TOOLS, "tool_choice": ALLOWED},
        {"text": {"format": {"type": "text"}, "verbosity": "low"}},
        {"text": {"format": FORM | {"strict": None}}},
        {"reasoning": {"effort": "low", "summary": "detailed", "context": "auto", "mode": "standard"}},
        {"reasoning": {"effort": None}},
        {"include": LOGPROBS, "top_logprobs": 20},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"background": False, "previous_response_id": None, "context_management": []},
        {"prompt_cache_options": {"mode": "implicit", "ttl": "12h", "prewarm": False}},
        {"metadata": {}, "truncation": "auto", "max_tool_calls": 1},
    ],
)
def test_what_the_request_takes_is_valid(document, fields):
    valid(document, "ResponsesRequest", {"input": "Hi", **fields})
    assert accepted({"input": "Hi", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"input": None},
        {"input": []},
        {"input": [5]},
        {"input": [{"role": "tool", "content": "a"}]},
        {"input": [{"role": "user"}]},
        {"input": [{"role": "user", "content": []}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [USER, CALL | {"call_id": None}]},
        {"input": [USER, {"type": "function_call_output", "call_id": "c"}]},
        {"instructions": ["a"]},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [TOOLS[0] | {"defer_loading": True}]},
        {"tool_choice": "any"},
        {"tools": TOOLS, "tool_choice": ALLOWED | {"tools": []}},
        {"text": {"format": {"type": "xml"}}},
        {"text": {"format": FORM | {"name": "no good"}}},
        {"text": {"format": {"type": "json_schema", "name": "a"}}},
        {"text": {"mood": "dry"}},
        {"reasoning": {"effort": "vast"}},
        {"include": ["all"]},
        {"include": LOGPROBS, "top_logprobs": 21},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"background": True},
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"prompt": {"id": "p"}},
        {"context_management": [{"type": "compaction"}]},
        {"prompt_cache_options": {"prewarm": True}},
        {"prompt_cache_options": {"comparison_response_id": "r"}},
        {"metadata": {"a": 1}},
        {"max_output_tokens": 0},
        {"truncation": "middle"},
        {"n": 2},
    ],
)
def test_what_the_request_refuses_is_not_valid(document, fields):
    with pytest.raises(jsonschema.ValidationError):
        valid(document, "ResponsesRequest", {"input": "Hi", **fields})
    assert not accepted({"input": "Hi", **fields})
