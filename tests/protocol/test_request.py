from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmlab.errors import RequestError
from llmlab.protocol.request import ChatRequest, PromptRequest

TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
INT64 = 2**63


def function(**parts):
    return {"type": "function", "function": {"name": "now", **parts}}


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def build(**fields):
    messages = fields.pop("messages", "hi")
    return (
        ChatRequest.build(messages, **fields) if isinstance(messages, str) else ChatRequest(messages=messages, **fields)
    )


def refused(says, param, **fields):
    with pytest.raises(RequestError) as caught:
        build(**fields)
    error = caught.value
    assert error.param == param and error.status == 400
    assert says in str(error), str(error)
    assert "pydantic" not in str(error)
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)


# field: (values at the borders, values just beyond them, what the message must say)
RANGES = {
    "temperature": ([0, 2, 0.0, 1e-9], [-1e-9, 2.0001], "temperature must be between 0 and 2, got "),
    "top_p": ([1, 1e-9], [0, 1.0001, -1], "top_p must be above 0 and at most 1, got "),
    "min_p": ([0, 1], [-0.001, 1.001], "min_p must be between 0 and 1, got "),
    "frequency_penalty": ([-2, 2], [-2.01, 2.01], "frequency_penalty must be between -2 and 2, got "),
    "presence_penalty": ([-2, 2], [-2.01, 2.01], "presence_penalty must be between -2 and 2, got "),
    "repetition_penalty": ([2, 0.001], [0, 2.01, -1], "repetition_penalty must be above 0 and at most 2, got "),
    "top_k": (
        [1, 128, 0, -1],
        [-2, 129],
        "top_k must be an integer between 1 and 128 (or 0, -1 or null for off), got ",
    ),
    "n": ([1, 128], [0, 129, -1], "n must be between 1 and 128, got "),
    "max_tokens": ([1, 10**9], [0, -1], "max_tokens must be at least 1, got "),
    "max_completion_tokens": ([1], [0], "max_completion_tokens must be at least 1, got "),
    "min_tokens": ([0, 2**31 - 1], [-1, 2**31], "min_tokens must be between 0 and 2147483647, got "),
    "seed": ([-INT64, INT64 - 1], [-INT64 - 1, INT64], "seed must be a signed 64-bit integer, got "),
}
FLOATS = ["temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"]
INTS = [name for name in RANGES if name not in FLOATS]
FLAGS = ["logprobs", "include_stop", "continue_final_message", "ignore_eos", "stream", "separate_reasoning", "store"]
FLAGS += ["parallel_tool_calls", "enable_thinking"]


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (good, _, _) in RANGES.items() for v in good])
def test_each_border_is_accepted(field, value):
    kept = getattr(build(**{field: value}), field)
    assert kept == (0 if (field, value) == ("top_k", -1) else value)
    assert type(kept) is (float if field in FLOATS else int)


@pytest.mark.parametrize(("field", "value", "says"), [(f, v, s) for f, (_, bad, s) in RANGES.items() for v in bad])
def test_each_step_beyond_is_refused(field, value, says):
    refused(says, field, **{field: value})


@pytest.mark.parametrize("field", FLOATS)
@pytest.mark.parametrize("value", ["0.5", True, [0.5], {"a": 1}, 0.5j, np.array([0.5]), np.True_])
def test_what_is_no_number_is_refused(field, value):
    refused(f"{field} must be a number, got ", field, **{field: value})


@pytest.mark.parametrize("field", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), 10**400])
def test_what_is_no_finite_number_is_refused(field, value):
    refused(f"{field} must be ", field, **{field: value})


@pytest.mark.parametrize("field", [*INTS, "top_logprobs"])
@pytest.mark.parametrize("value", ["5", True, 5.5, math.nan, [5]])
def test_what_is_no_integer_is_refused(field, value):
    refused(f"{field} must be an integer", field, logprobs=True, **{field: value})


def test_an_integer_too_long_to_be_written_is_refused_all_the_same():
    refused("seed must be a signed 64-bit integer, got an integer of ", "seed", seed=10**6000)


def test_a_whole_float_is_the_integer():
    request = build(n=2.0, max_tokens=np.float32(12), seed=-7.0, top_k=-1.0)
    assert (request.n, request.max_tokens, request.seed, request.top_k) == (2, 12, -7, 0)
    assert type(request.max_tokens) is int
    refused("seed must be a signed 64-bit integer", "seed", seed=1e300)


@pytest.mark.parametrize("field", ["audio", "functions", "function_call", "web_search_options"])
def test_a_field_of_the_api_that_is_not_here_is_refused_by_name_unless_it_is_null(field):
    assert build(**{field: None}).to_dict().keys() == build().to_dict().keys()
    refused(f"{field} is not supported: ", field, **{field: {}})


def test_null_of_any_field_is_its_default():
    nothing = {name: None for name in ChatRequest.model_fields if name != "messages"}
    assert build(**nothing).to_dict() == build().to_dict()


def test_no_alternatives_need_no_logprobs():
    assert build(top_logprobs=0).logprobs is False
    refused("modalities must be ['text'] (this engine writes nothing else), got ", "modalities", modalities=["audio"])


@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize("value", [1, 0, "true", [], np.int64(1)])
def test_what_is_no_flag_is_refused(field, value):
    refused(f"{field} must be true or false, got ", field, **{field: value})


@pytest.mark.parametrize("field", ["model", "user", "service_tier"])
def test_what_is_no_text_is_refused(field):
    refused(f"{field} must be a string, got 7", field, **{field: 7})


@pytest.mark.parametrize("field", ["metadata", "chat_template_kwargs"])
@pytest.mark.parametrize("value", ["a", [1], {1: 2}])
def test_what_is_no_object_is_refused(field, value):
    refused(f"{field} must be an object", field, **{field: value})


def test_numpy_scalars_become_python_numbers():
    request = build(
        temperature=np.linspace(0, 1, 3)[1],
        top_p=np.float32(0.5),
        min_p=np.array(0.25),
        n=np.int64(2),
        top_k=np.uint8(7),
        seed=np.int64(-5),
        logprobs=np.True_,
        logit_bias={np.int32(3): np.float64(1.5)},
    )
    kept = {name: getattr(request, name) for name in request.model_fields_set - {"messages"}}
    assert kept == {
        "temperature": 0.5, "top_p": 0.5, "min_p": 0.25, "n": 2, "top_k": 7, "seed": -5, "logprobs": True,
        "logit_bias": {3: 1.5},
    }  # fmt: skip
    json.dumps(request.to_dict())
    assert all(type(value) in (int, float, bool, dict) for value in kept.values())


def test_none_is_the_default_everywhere():
    nothing = {name: None for name in ChatRequest.model_fields if name != "messages"}
    assert build(**nothing) == build()


def test_defaults():
    request = build()
    assert request.to_dict() == {"messages": [{"role": "user", "content": "hi"}]}
    assert (request.temperature, request.top_p, request.top_k, request.min_p) == (1.0, 1.0, 0, 0.0)
    assert (request.n, request.seed, request.token_limit, request.stops, request.include_stop) == (
        1,
        None,
        None,
        (),
        True,
    )
    assert (request.logprobs, request.top_logprobs, request.logit_bias) == (False, None, {})
    assert request.context_length_exceeded_behavior == "truncate"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("temprature", "temperature"),
        ("top_logprob", "top_logprobs"),
        ("max_token", "max_tokens"),
        ("topk", "top_k"),
    ],
)
def test_an_unknown_field_suggests_the_nearest(name, near):
    refused(f"unknown field {name!r}; did you mean {near!r}?", name, **{name: 1})


def test_a_field_like_no_other_lists_them_all():
    refused("the fields are messages, model, ", "xyzzy", xyzzy=None)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "stop must not be an empty string"),
        (["a", ""], "stop[1] must not be an empty string"),
        (["a", 5], "stop[1] must be a string, got 5"),
        (5, "stop must be a string or up to 4 strings, got 5"),
        (list("abcde"), "stop must be a string or up to 4 strings, got 5"),
    ],
)
def test_bad_stops(value, says):
    refused(says, "stop", stop=value)


def test_stops():
    assert build(stop="a").stops == ("a",)
    assert build(stop=list("abcd")).stops == tuple("abcd")
    assert build(stop=[]).stops == ()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([[5, 1]], "logit_bias must be an object of token ids and biases"),
        ({"the": 1}, "logit_bias has the key 'the', which is not a token id"),
        ({"٣": 1}, "which is not a token id"),
        ({-1: 1}, "which is not a token id"),
        ({True: 1}, "which is not a token id"),
        ({5: 101}, "logit_bias[5] must be between -100 and 100, got 101"),
        ({"5": -100.5}, "logit_bias[5] must be between -100 and 100, got -100.5"),
        ({5: "1"}, "logit_bias[5] must be a number, got '1'"),
        ({5: math.nan}, "logit_bias[5] must be between -100 and 100, got nan"),
        ({5: 1, "5": 2}, "logit_bias names token 5 twice"),
    ],
)
def test_bad_biases(value, says):
    refused(says, "logit_bias", logit_bias=value)


def test_biases():
    assert build(logit_bias={"5": -100, 6: 100.0}).logit_bias == {5: -100.0, 6: 100.0}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "messages must not be empty"),
        (5, "messages must be a list of messages, got 5"),
        ({"role": "user", "content": "hi"}, "messages must be a list of messages"),
        (["hi"], "messages[0] must be an object"),
        ([{"content": "hi"}], "messages[0].role must be one of system, developer, user, assistant, tool, got None"),
        (
            [{"role": "robot", "content": "hi"}],
            "messages[0].role must be one of system, developer, user, assistant, tool",
        ),
        ([{"role": ["user"], "content": "hi"}], "messages[0].role"),
        ([{"role": "user", "content": "a"}, {"role": "user"}], "messages[1].content must be text or a list"),
        ([{"role": "user", "content": 5}], "messages[0].content must be text or a list of text parts, got 5"),
        ([{"role": "user", "content": ["a"]}], "messages[0].content[0] must be an object"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}],
            "messages[0].content[1].type must be 'text' (this engine reads nothing else), got 'image_url'",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text must be a string, got None"),
        ([{"role": "user", "content": "a", "name": 7}], "messages[0].name must be a string, got 7"),
        ([{"role": "user", "content": "a", "tool_calls": [CALL]}], "messages[0].tool_calls belongs to an assistant"),
        ([{"role": "assistant", "tool_calls": "now"}], "messages[0].tool_calls must be a list of tool calls"),
        ([{"role": "assistant", "tool_calls": []}], "messages[0].content must be text"),
        (
            [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "now", "arguments": 5}}]}],
            "messages[0].tool_calls[0].function.arguments must be a string that holds a JSON object, got 5",
        ),
        ([{"role": "user", "content": []}], "messages[0].content must be text or a list of text parts, got []"),
        ([{"role": "tool", "content": "a", "tool_call_id": 7}], "messages[0].tool_call_id must be a string, got 7"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "id": 7}]}], "messages[0].tool_calls[0].id must be a string"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "type": "x"}]}], "messages[0].tool_calls[0].type must be 'fun"),
        ([{"role": "user", "content": "a", "extra": {"b": {1}}}], "messages[0].extra.b must be something that JSON"),
        ([{"role": "assistant", "tool_calls": [{"id": "c"}]}], "messages[0].tool_calls[0].function must be an object"),
    ],
)
def test_bad_messages(value, says):
    refused(says, "messages", messages=value)


def test_messages_keep_what_the_template_may_want():
    messages = [
        {"role": "system", "content": "s", "cache": {"a": 1}},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "noon", "tool_call_id": "c1"},
    ]
    request = build(messages=messages)
    assert list(request.messages) == messages
    messages[0]["content"] = "changed afterwards"
    assert request.messages[0]["content"] == "s"


def test_messages_in_their_other_spellings():
    from openai.types.chat import ChatCompletionMessage

    answer = ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]}
    )
    request = build(messages=[{"role": "user", "content": ({"type": "text", "text": "a"},), "name": None}, answer])
    assert request.messages == (
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    )
    reasoned = build(messages=[{"role": "assistant", "reasoning_content": "so"}, {"role": "user", "content": "b"}])
    assert reasoned.messages[0] == {"role": "assistant", "reasoning_content": "so", "content": None}
    assert build(messages=[{"role": "assistant", "content": "a", "tool_calls": []}]).messages[0].keys() == {
        "role",
        "content",
    }


def test_nothing_inside_a_request_can_be_changed_from_outside():
    tool, schema = function(parameters={"properties": {}}), {"type": "object", "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    request = build(tools=[tool], response_format=form)
    tool["function"]["parameters"]["properties"]["x"] = schema["required"][0] = 5
    assert request.tools == (function(parameters={"properties": {}}),)
    assert request.response_format["json_schema"]["schema"]["required"] == ["a"]


def test_the_messages_have_to_be_there():
    with pytest.raises(RequestError, match="messages is missing") as caught:
        ChatRequest(temperature=1)
    assert caught.value.param == "messages"
    with pytest.raises(RequestError, match="must be a list of messages, got the string 'hi'"):
        ChatRequest(messages="hi")


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "two names of one field"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens", "must not exceed max_tokens (5), got 6"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs=true"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "must be between 0 and 20, got 21"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs", "must be between 0 and 20, got -1"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream=true"),
        (
            {"stream_options": {"include_use": True}},
            "stream_options",
            "stream_options.include_use is not a stream option",
        ),
        (
            {"stream_options": {"include_usage": 1}},
            "stream_options",
            "stream_options.include_usage must be true or false",
        ),
        ({"continue_final_message": True}, "continue_final_message", "a last message of the assistant's, got 'user'"),
        (
            {"context_length_exceeded_behavior": "cut"},
            "context_length_exceeded_behavior",
            "'truncate' or 'error', got 'cut'",
        ),
        ({"tools": []}, "tools", "must not be empty"),
        ({"tools": [{"type": "web"}]}, "tools", "tools[0].type must be 'function', got 'web'"),
        ({"tools": [{"type": "function"}]}, "tools", "tools[0].function must be an object"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools", "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools", "tools[1].function.name 'now' is defined twice"),
        ({"tools": [function(name="now!")]}, "tools", "tools[0].function.name must be a name of up to 64 letters"),
        ({"tools": [function(name="n" * 65)]}, "tools", "tools[0].function.name must be a name of up to 64 letters"),
        ({"tools": [function(parameters=[])]}, "tools", "tools[0].function.parameters must be an object"),
        (
            {"tools": [function(parameters={"type": "array"})]},
            "tools",
            "tools[0].function.parameters.type must be 'obj",
        ),
        ({"tools": [function(parameters={"a": {1, 2}})]}, "tools", "tools[0].function.parameters.a must be something"),
        ({"tools": [function(strict="yes")]}, "tools", "tools[0].function.strict must be true or false, got 'yes'"),
        ({"tools": [function(description=7)]}, "tools", "tools[0].function.description must be a string, got 7"),
        ({"tools": {"now": TOOL}}, "tools", "tools must be a list of function tools"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "needs tools"),
        ({"tool_choice": "auto"}, "tool_choice", "needs tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "now"}}, "tool_choice", "must be 'none'"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "now", "strict": True}}},
            "tool_choice",
            "tool_choice.function.strict is unknown here (known: name)",
        ),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": "sometimes"}, "tool_choice", "must be 'none', 'auto', 'required' or"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "then"}}},
            "tool_choice",
            "names 'then'",
        ),
        ({"response_format": "json"}, "response_format", "must be an object"),
        (
            {"response_format": {"type": "json_object", "schema": {}}},
            "response_format",
            "response_format.schema is unknown here (known: type); a schema belongs to the type json_schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "stric": True}}},
            "response_format",
            "response_format.json_schema.stric is unknown here (known: name, description, schema, strict)",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}},
            "response_format",
            "response_format.json_schema.strict must be true or false",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "name": "a b"}}},
            "response_format",
            "response_format.json_schema.name must be a name",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [CALL]}], "continue_final_message": True},
            "continue_final_message",
            "needs text to go on with",
        ),
        ({"chat_template_kwargs": {"a": math.nan}}, "chat_template_kwargs", "kwargs.a must be a finite number"),
        ({"chat_template_kwargs": {"a": nested(200)}}, "chat_template_kwargs", "is nested more than 100 deep"),
        ({"metadata": {"a": object()}}, "metadata", "metadata.a must be something that JSON can hold"),
        ({"metadata": {"a\ud800": 1}}, "metadata", "has half of a surrogate pair at character 1"),
        ({"stop": ["a", "\ud800"]}, "stop", "stop[1] has half of a surrogate pair at character 0"),
        ({"user": "\udc00"}, "user", "has half of a surrogate pair"),
        ({"messages": "a\ud800"}, "messages", "messages[0].content has half of a surrogate pair at character 1"),
        (
            {"response_format": {"type": "xml"}},
            "response_format",
            "response_format.type must be 'text', 'json_object' or",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format",
            "response_format.json_schema must be an object",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format",
            "response_format.json_schema.schema must be a JSON schema, got None",
        ),
    ],
)
def test_fields_that_do_not_agree_or_are_misshapen(fields, param, says):
    refused(says, param, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "now"}}},
        {"tools": [{"type": "function", "function": {"name": "f-1_A", "strict": True, "description": "d"}}]},
        {"tools": [function(parameters={"type": ["object", "null"]})]},
        {"tool_choice": "none"},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": False, "schema": True}}},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"separate_reasoning": True},
        {"response_format": {"type": "text"}},
        {"stream": False},
        {"parallel_tool_calls": True},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"logprobs": True, "top_logprobs": 0},
        {"logprobs": True, "top_logprobs": 20},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"enable_thinking": False, "chat_template_kwargs": {"tone": "dry"}},
        {"messages": [{"role": "assistant", "content": "Once"}], "continue_final_message": True},
    ],
)
def test_what_is_accepted(fields):
    assert build(**fields).to_dict().keys() >= fields.keys()


def test_a_request_is_immutable_and_replaced_by_new_ones():
    request = build(temperature=0.5, seed=7)
    with pytest.raises(ValidationError, match="frozen"):
        request.temperature = 1.0
    assert request.replace(temperature=0.7).temperature == 0.7
    assert request.replace(temperature=0.7).seed == 7
    assert request.replace(temperature=None).temperature == 1.0
    assert request.temperature == 0.5
    with pytest.raises(RequestError, match="temperature must be between"):
        request.replace(temperature=7)


def test_the_repr_shows_what_was_given():
    assert repr(build(temperature=0.5)) == (
        "ChatRequest(messages=({'role': 'user', 'content': 'hi'},), temperature=0.5)"
    )
    assert len(repr(build(messages="long " * 1000))) < 120


VALUES = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1, exclude_min=True),
    "top_k": st.integers(-1, 128),
    "min_p": st.floats(0, 1),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(0, 2, exclude_min=True),
    "n": st.integers(1, 128),
    "seed": st.integers(-INT64, INT64 - 1),
    "stop": st.text(min_size=1) | st.lists(st.text(min_size=1), max_size=4),
    "logit_bias": st.dictionaries(st.integers(0, 10**6), st.floats(-100, 100), max_size=4),
    "logprobs": st.just(True),
    "max_tokens": st.integers(10, 1000),
    "min_tokens": st.integers(0, 10),
    "metadata": st.dictionaries(st.text(), st.text(), max_size=2),
    "enable_thinking": st.booleans(),
}


@given(fields=st.fixed_dictionaries({}, optional=VALUES), text=st.text())
def test_a_request_survives_json_pickle_and_replacement(fields, text):
    request = build(messages=text, **fields)
    assert ChatRequest(**json.loads(json.dumps(request.to_dict()))) == request
    assert pickle.loads(pickle.dumps(request)) == request
    assert request.replace() == request
    assert set(request.to_dict()) == {"messages", *fields}


@pytest.mark.parametrize(
    ("value", "kept"),
    [("Once", "Once"), ([5, 6], (5, 6)), ((0,), (0,)), (np.array([7, 8]), (7, 8)), ([np.int32(3)], (3,))],
)
def test_a_prompt_is_text_or_token_ids(value, kept):
    request = PromptRequest.build(value, temperature=0.5, max_tokens=3)
    assert request.prompt == kept and request.temperature == 0.5 and request.token_limit == 3
    assert PromptRequest(**json.loads(json.dumps(request.to_dict()))) == request
    assert request.replace(prompt="other").prompt == "other"
    assert (request.messages, request.tools, request.tool_choice, request.parallel_tool_calls) == ((), None, None, True)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "prompt must not be empty"),
        ([], "prompt must not be empty"),
        (None, "prompt is missing: give a text or token ids"),
        (5, "prompt must be a text or a list of token ids, got 5"),
        ([5, -1], "prompt[1] must be at least 0, got -1"),
        ([5, "a"], "prompt[1] must be an integer, got 'a'"),
        ([True], "prompt[0] must be an integer, got True"),
        (np.zeros((1, 2), int), "prompt must be a text or a list of token ids"),
        ([{"role": "user", "content": "hi"}], "prompt[0] must be an integer"),
    ],
)
def test_bad_prompts(value, says):
    with pytest.raises(RequestError) as caught:
        PromptRequest.build(value)
    assert caught.value.param == "prompt" and str(caught.value).startswith(says)


@pytest.mark.parametrize("field", ["messages", "tools", "enable_thinking", "chat_template_kwargs"])
def test_what_speaks_of_messages_has_no_place_beside_a_prompt(field):
    with pytest.raises(RequestError, match=f"{field} belongs to a chat") as caught:
        PromptRequest.build("Once", **{field: 1})
    assert caught.value.param == field


def test_a_prompt_has_every_sampling_field_with_the_same_check():
    assert set(ChatRequest.model_fields) - set(PromptRequest.model_fields) == {
        "messages", "tools", "tool_choice", "parallel_tool_calls", "enable_thinking", "chat_template_kwargs",
        "continue_final_message", "reasoning_effort", "verbosity", "modalities", "prediction",
    }  # fmt: skip
    assert ChatRequest.names()[:2] == ["messages", "model"] and PromptRequest.names()[:2] == ["prompt", "model"]
    with pytest.raises(RequestError, match="did you mean 'temperature'"):
        PromptRequest.build("Once", temprature=1)
    with pytest.raises(RequestError, match="top_p must be above 0"):
        PromptRequest.build("Once", top_p=0)


@pytest.mark.parametrize("field", sorted(set(ChatRequest.model_fields) - {"messages"}))
def test_a_value_too_deep_to_be_written_is_refused_all_the_same(field):
    with pytest.raises(RequestError) as caught:
        build(**{field: nested(5000)})
    assert caught.value.param == field


_LONG = "a" * 9_000


def _named(name: str) -> dict:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text", _LONG: 1}},
        {"tools": [_named("f")], "tool_choice": _named(_LONG)},
        {
            "tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(900)],
            "tool_choice": _named("x"),
        },
        {"metadata": {_LONG: float("nan")}},
        {"stream": True, "stream_options": {_LONG: True}},
        {"stop": [_LONG, 5]},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_an_error_is_as_long_as_one_reads(fields):
    with pytest.raises(RequestError) as caught:
        ChatRequest.build("hello", **fields)
    assert caught.value.param in fields and len(str(caught.value)) < 1200


def past_call(arguments):
    function = {"name": "now"} if arguments is ... else {"name": "now", "arguments": arguments}
    call = {"id": "c1", "type": "function", "function": function}
    return [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        *[(nothing, "{}") for nothing in (..., None, "", " \n", "null", " null ", {}, "{}")],
        ({"city": "Oslo", "days": [1, None]}, '{"city": "Oslo", "days": [1, null]}'),
        ({"town": "Århus"}, '{"town": "Århus"}'),
        ('{"city": "Oslo"}', '{"city": "Oslo"}'),
        ('{"city": "Os', '{"city": "Os'),  # the model was cut off
        ("[1]", "[1]"),
        ("now", "now"),
        ('"\\ud83e\\udd8a"', '"\\ud83e\\udd8a"'),  # both halves of a pair
    ],
)
def test_the_arguments_of_an_earlier_call_are_json_text(arguments, kept):
    messages = past_call(arguments)
    request = ChatRequest(messages=messages)
    assert request.messages[1]["tool_calls"][0]["function"] == {"name": "now", "arguments": kept}
    assert messages == past_call(arguments), "the caller's own messages stay as they were"
    assert ChatRequest(**request.to_dict()) == request


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '[{"a": ["\\ud800"]}]',
        '"\\ud800"',
        "\ud800",
        {"a": "\ud800"},
        {"\ud800": 1},
    ],
)
def test_half_of_a_surrogate_pair_in_an_earlier_call(arguments):
    with pytest.raises(
        RequestError, match=r"messages\[1\]\.tool_calls\[0\]\.function\.arguments.* surrogate pair"
    ) as caught:
        ChatRequest(messages=past_call(arguments))
    assert caught.value.status == 400 and caught.value.param == "messages"


def test_a_number_of_tokens_fits_the_engines_integers():
    assert ChatRequest(messages=[{"role": "user", "content": "hi"}], min_tokens=2**31 - 1).min_tokens == 2**31 - 1
    with pytest.raises(RequestError, match="min_tokens must be between 0 and 2147483647, got 2147483648"):
        ChatRequest(messages=[{"role": "user", "content": "hi"}], min_tokens=2**31)
