"""What the OpenAPI page says is what the server does: of requests, of answers, of errors."""

from __future__ import annotations

import json
import math

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from llmlab.errors import LLMLabError
from llmlab.protocol.completions_request import CompletionsRequest
from llmlab.protocol.request import ChatRequest
from llmlab.sampling.library import LIBRARY_FIELDS
from llmlab.serve import openapi
from llmlab.serve.app import create_app
from llmlab.serve.routes import ROUTES
from tests.serve.bodies import ASK, encoded, error_of, http, post
from tests.serve.puppet import Puppet

TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"name": "x", "schema": {"type": "object"}, "strict": True}
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
SCHEMAS = openapi.schemas(ROUTES)
REQUEST = SCHEMAS["ChatRequest"]


def set_to(field):
    """What a field is when it is not null: the one alternative, or all of them."""
    others = [one for one in field.get("anyOf", ()) if one != {"type": "null"}]
    return {**field, **others[0]} if len(others) == 1 else field


FIELDS = {name: set_to(field) for name, field in REQUEST["properties"].items()}
NUMBERS = [name for name, field in FIELDS.items() if field.get("type") in ("number", "integer")]


def accepted(**fields):
    """The request, or None where it is refused."""
    given = {"messages": ASK, **fields}
    given |= {"logprobs": True} if "top_logprobs" in fields else {}
    given |= {"max_tokens": 2**31} if "min_tokens" in fields else {}
    try:
        return ChatRequest(**given)
    except LLMLabError:
        return None


def test_every_field_is_there_and_no_other():
    scalars = sum(field.is_scalar for field in LIBRARY_FIELDS.values())
    assert set(FIELDS) == set(ChatRequest.model_fields) and len(NUMBERS) == 14 + scalars
    jsonschema.Draft202012Validator.check_schema(REQUEST)
    assert all(field["description"] for field in FIELDS.values())


@pytest.mark.parametrize("name", NUMBERS)
def test_the_bounds_are_those_of_the_request(name):
    field = FIELDS[name]
    step = 1 if field["type"] == "integer" else 1e-9
    low, above = field.get("minimum"), field.get("exclusiveMinimum")
    assert accepted(**{name: low if above is None else math.nextafter(above, 1)})
    assert accepted(**{name: low - step if above is None else above}) is None
    if "maximum" in field:
        assert accepted(**{name: field["maximum"]})
        assert accepted(**{name: field["maximum"] + step}) is None
    else:
        assert accepted(**{name: 10**6})


def test_the_defaults_are_those_of_the_request():
    plain = ChatRequest(messages=ASK)
    said = {name: field["default"] for name, field in FIELDS.items() if "default" in field}
    assert {name: getattr(plain, name) for name in said} == said and len(said) > 15


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": [{"role": "user", "content": PARTS}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "3"}]},
        {"messages": [{"role": "user", "content": "a", "mood": "curious"}]},
        {"stop": "a"},
        {"stop": ["a", "b", "c", "d"]},
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "now"}}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        {"logit_bias": {"5": -100, "17": 3.5}},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"metadata": {"a": "b"}, "store": False, "user": "me", "service_tier": "auto"},
    ],
)  # fmt: skip
def test_what_the_request_takes_is_valid(fields):
    jsonschema.validate({"messages": ASK, **fields}, REQUEST)
    assert accepted(**fields)


OTHERS = [SCHEMAS[name] for name in ("CompletionsRequest", "TokenizeRequest", "TemplateRequest", "DetokenizeRequest")]


@pytest.mark.parametrize("schema", OTHERS, ids=lambda schema: f"{len(schema['properties'])} fields")
def test_the_requests_of_other_paths_have_schemas_of_their_own(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    assert all(field["description"] for field in schema["properties"].values())
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", ["max_tokens", "logprobs", "best_of"])
def test_the_bounds_are_those_of_the_request_of_prompts(name):
    """Those of all other fields are a chat's, by construction."""

    def taken(value):
        try:
            return CompletionsRequest.read({"prompt": "x", name: value})
        except LLMLabError:
            return None

    field = set_to(OTHERS[0]["properties"][name])
    assert taken(field["minimum"]) and taken(field["minimum"] - 1) is None
    high = field.get("maximum")
    assert taken(10**6 if high is None else high) and (high is None or taken(high + 1) is None)
    assert field.get("default") == (16 if name == "max_tokens" else None)


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1], [[1], [2, 3]], ["a", [1]]])
def test_a_prompt_has_every_form_that_the_schema_has(prompt):
    jsonschema.validate({"prompt": prompt}, OTHERS[0])
    assert CompletionsRequest.read({"prompt": prompt})


@pytest.mark.parametrize(
    "fields", [{"prompt": ""}, {"prompt": []}, {"prompt": [[]]}, {"prompt": [1.5]}, {}, {"prompt": "a", "suffix": "b"}]
)
def test_a_prompt_has_no_other_form(fields):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(fields, OTHERS[0])
    with pytest.raises(LLMLabError):
        CompletionsRequest.read(fields)


def test_null_stands_for_a_default_everywhere_but_for_the_messages():
    names = sorted(set(FIELDS) - {"messages"})
    jsonschema.validate({"messages": ASK, **dict.fromkeys(names)}, REQUEST)
    plain = ChatRequest(messages=ASK)
    assert all(getattr(accepted(**{name: None}), name) == getattr(plain, name) for name in names)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": None},
        {"messages": "Hi"},
        {"messages": [{"role": "robot", "content": "a"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "assistant", "content": None}]},
        {"stop": ""},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"stop": 5},
        {"temprature": 1},
        {"temperature": "1"},
        {"temperature": True},
        {"n": 1.5},
        {"tools": []},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"tools": [TOOL], "tool_choice": "maybe"},
        {"response_format": {"type": "yaml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}},
        {"logit_bias": {"-1": 0}},
        {"logit_bias": {"5": 101}},
        {"stream": True, "stream_options": {"include_time": True}},
        {"stream": "yes"},
        {"metadata": []},
    ],
)
def test_what_the_request_refuses_is_not_valid(fields):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"messages": ASK, **fields}, REQUEST)
    assert accepted(**fields) is None


@pytest.fixture(scope="module")
def document(server):
    return http.get(server.url + "/openapi.json").json()


def test_the_page_says_what_there_is(document):
    jsonschema.validate(document["openapi"], {"const": "3.1.0"})
    assert set(document["paths"]) == {route.path.replace(":path", "") for route in ROUTES}
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]) == {"200", "400", "401", "403", "404", "408", "413", "429", "500", "503"}
    assert chat["requestBody"]["content"]["application/json"]["example"]
    assert set(document["components"]["schemas"]) == set(SCHEMAS)


def valid(document, name, value):
    jsonschema.validate(value, {"$ref": f"#/components/schemas/{name}", "components": document["components"]})


@pytest.mark.parametrize(
    "fields", [{}, {"logprobs": True, "top_logprobs": 3, "n": 2}, {"separate_reasoning": True, "enable_thinking": True}]
)
def test_answers_are_as_the_page_says(server, document, fields):
    fields = {"max_tokens": 6, "seed": 1, **fields}
    valid(document, "ChatCompletion", post(server.url, encoded(**fields)).json())
    for options in ({}, {"stream_options": {"include_usage": True}}):
        streamed = post(server.url, encoded(stream=True, **options, **fields))
        assert streamed.headers["content-type"] == "text/event-stream"
        events = streamed.text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""] and len(events) > 4
        for event in events[:-2]:
            valid(document, "ChatCompletionChunk", json.loads(event.removeprefix("data: ")))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"logprobs": 2, "n": 2, "echo": True, "prompt_logprobs": 1, "return_token_ids": True},
        {"max_tokens": 0, "echo": True, "logprobs": 0},
        {"separate_reasoning": True, "prompt": "<|im_start|>assistant\n<think>\n"},
    ],
)
def test_the_answers_to_prompts_are_as_the_page_says(server, document, fields):
    fields = {"prompt": ["Once upon a time", [9, 10]], "max_tokens": 6, "seed": 1, **fields}
    path = "/v1/completions"
    valid(document, "TextCompletion", post(server.url, json.dumps(fields).encode(), path=path).json())
    for options in ({}, {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}):
        streamed = post(server.url, json.dumps({**fields, "stream": True, **options}).encode(), path=path)
        *events, done, end = streamed.text.split("\n\n")
        assert (done, end) == ("data: [DONE]", "") and events
        for event in events:
            valid(document, "TextCompletionChunk", json.loads(event.removeprefix("data: ")))


def test_the_other_answers_are_as_the_page_says(server, document):
    valid(document, "ModelList", http.get(server.url + "/v1/models").json())
    valid(document, "Model", http.get(server.url + "/v1/models/demo").json())
    valid(document, "Health", http.get(server.url + "/health").json())
    refused = post(server.url, encoded(temperature=9))
    assert error_of(refused)["param"] == "temperature"
    valid(document, "Error", refused.json())


def said_at_once(stream):
    stream.say("Hello")
    stream.finish()


API = schemathesis.openapi.from_asgi(
    "/openapi.json", create_app(Puppet(script=said_at_once), allow_hosts=["testserver"])
)
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
    schemathesis.checks.negative_data_rejection,
    schemathesis.checks.unsupported_method,
]


@pytest.mark.slow
@API.parametrize()
@settings(max_examples=50, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
def test_schemathesis_finds_nothing(case):
    case.call_and_validate(checks=CHECKS)
