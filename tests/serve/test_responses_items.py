"""The input of a Responses request as a chat: which messages the items become, and what is said of wrong ones."""

from __future__ import annotations

import pytest
from openai.types.responses import ResponseFunctionToolCall

from llmlab.errors import ContextLengthError, RequestError
from llmlab.serve.responses.request import ResponsesRequest

USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "now", "arguments": '{"zone": "utc"}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "12:00"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Noon."}]}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}


def chat(given, **fields):
    return ResponsesRequest(input=given, **fields).chat()


def messages(given, **fields):
    return list(chat(given, **fields).chat.messages)


def called(*names):
    return [{"id": "c1", "type": "function", "function": {"name": n, "arguments": '{"zone": "utc"}'}} for n in names]


NOON = [{"type": "text", "text": "Noon."}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Hi", [USER]),
        ([USER], [USER]),
        ([{"type": "message", **USER}], [USER]),
        ([{"role": "developer", "content": "Be brief."}, USER], [{"role": "developer", "content": "Be brief."}, USER]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        ),
        ([USER, SAID], [USER, {"role": "assistant", "content": NOON}]),
        (
            [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            [USER, {"role": "assistant", "content": [{"type": "text", "text": "No."}]}],
        ),
        # One turn of the assistant's comes as several items.
        (
            [USER, THOUGHT, SAID, CALL, OUTPUT, SAID],
            [
                USER,
                {"role": "assistant", "reasoning_content": "Hm.", "content": NOON, "tool_calls": called("now")},
                {"role": "tool", "content": "12:00", "tool_call_id": "c1"},
                {"role": "assistant", "content": NOON},
            ],
        ),
        (
            [USER, CALL, CALL | {"name": "then"}, OUTPUT],
            [
                USER,
                {"role": "assistant", "content": None, "tool_calls": called("now", "then")},
                {"role": "tool", "content": "12:00", "tool_call_id": "c1"},
            ],
        ),
        ([USER, CALL, SAID], [USER, {"role": "assistant", "content": NOON, "tool_calls": called("now")}]),
        ([USER, SAID, SAID], [USER, {"role": "assistant", "content": NOON}, {"role": "assistant", "content": NOON}]),
        (
            [USER, SAID, THOUGHT, SAID],
            [
                USER,
                {"role": "assistant", "content": NOON},
                {"role": "assistant", "reasoning_content": "Hm.", "content": NOON},
            ],
        ),
        # The summary stands for the content where that is not there; without either there is nothing to read.
        (
            [USER, {"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}], "encrypted_content": "x"}, SAID],
            [USER, {"role": "assistant", "reasoning_content": "a\n\nb", "content": NOON}],
        ),
        ([USER, {"type": "reasoning", "summary": []}, SAID], [USER, {"role": "assistant", "content": NOON}]),
        (
            [USER, CALL, OUTPUT | {"output": [{"type": "input_text", "text": "12:00"}]}],
            [
                USER,
                {"role": "assistant", "content": None, "tool_calls": called("now")},
                {"role": "tool", "content": [{"type": "text", "text": "12:00"}], "tool_call_id": "c1"},
            ],
        ),
    ],
)  # fmt: skip
def test_items_are_messages(given, expected):
    assert messages(given) == expected
    told = [{"role": "system", "content": "Be brief."}, *expected]
    assert messages(given, instructions="Be brief.") == told


def test_objects_of_the_client_are_items():
    call = ResponseFunctionToolCall(
        type="function_call", call_id="c1", name="now", arguments='{"zone": "utc"}', id="fc"
    )
    assert messages([USER, call]) == messages([USER, CALL])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "input must not be empty"),
        (5, "input must be a text or a list of items, got 5"),
        ({"role": "user"}, "input must be a text or a list of items"),
        (["Hi"], "input[0] must be an object with string keys, got 'Hi'"),
        ([{"content": "Hi"}], "input[0].type must be one of 'message', 'reasoning', 'function_call'"),
        ([{"role": "tool", "content": "Hi"}], "input[0].role must be one of user, assistant, system"),
        ([USER, {"role": "user"}], "input[1].content must be a text or a list of text parts, got nothing"),
        ([{"role": "user", "content": ["a"]}], "input[0].content[0] must be an object"),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image"}]}],
            "input[0].content[1].type must be 'input_text' or 'output_text' (this engine reads nothing else), got 'in",
        ),
        ([{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}], "got 'input_file'"),
        ([{"role": "user", "content": [{"type": "input_text", "text": 5}]}], "[0].content[0].text must be a string"),
        ([{"role": "user", "content": "\ud800"}], "input[0].content has half of a surrogate pair"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0] refers to a stored item, and nothing is stored here"),
        ([USER, {"type": "web_search_call", "id": "x"}], "input[1].type must be one of"),
        ([USER, CALL | {"call_id": None}], "input[1].call_id must be a string, got None"),
        ([USER, CALL | {"name": 7}], "input[1].name must be a string, got 7"),
        ([USER, CALL, CALL | {"arguments": '{"a": "\\ud800"}'}], "input[2].arguments has half of a surrogate pair"),
        ([USER, CALL | {"arguments": {"a": 1}}], "input[1].arguments must be a string"),
        ([USER, CALL, OUTPUT | {"output": 3}], "input[2].output must be a text or a list of text parts, got 3"),
        ([USER, CALL, OUTPUT | {"output": [{"type": "input_image"}]}], "input[2].output[0].type must be"),
        ([USER, {"type": "reasoning", "summary": "x"}], "input[1].summary must be a list of texts, got 'x'"),
        ([USER, {"type": "reasoning", "content": [{"text": 3}]}], "input[1].content[0].text must be a string, got 3"),
        ([USER, {"type": "reasoning", "encrypted_content": "gAAA"}], "input[1].encrypted_content cannot be read"),
    ],
)  # fmt: skip
def test_a_wrong_item_is_named_by_its_place(given, message):
    with pytest.raises(RequestError) as caught:
        chat(given)
    assert message in caught.value.message and caught.value.param == "input" and caught.value.status == 400


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("messages[0].content is too odd", "instructions is too odd"),
        ("messages[1].content[0].text is too odd", "input[0].content[0].text is too odd"),
        ("messages[1] is too odd", "input[0] is too odd"),
        ("messages[2].reasoning_content is too odd", "input[1].content is too odd"),
        ("messages[2].content is too odd", "input[2].content is too odd"),
        ("messages[2].tool_calls[1].function.arguments is too odd", "input[4].arguments is too odd"),
        ("messages[2].tool_calls[0].id is too odd", "input[3].call_id is too odd"),
        ("messages[3].tool_call_id is too odd", "input[5].call_id is too odd"),
        ("messages[3].content[0].text is too odd", "input[5].output[0].text is too odd"),
        ("messages are odd: 'messages' says 'max_tokens'", "input are odd: 'messages' says 'max_tokens'"),
        ("max_tokens is 3, min_tokens 5", "max_output_tokens is 3, min_tokens 5"),
        ("tools[0].function.parameters.type is odd", "tools[0].parameters.type is odd"),
        ("response_format.json_schema.schema.not is odd", "text.format.schema.not is odd"),
        ("reasoning_effort has no effect", "reasoning.effort has no effect"),
    ],
)  # fmt: skip
def test_an_error_about_the_chat_names_what_it_was_made_of(said, expected):
    given = [USER, THOUGHT, SAID, CALL, CALL | {"name": "then"}, OUTPUT]
    error = chat(given, instructions="Be brief.").explained(ContextLengthError(said, param="messages"))
    assert (error.message, error.param) == (expected, "input")
    assert isinstance(error, ContextLengthError) and error.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("messages", "input"),
        ("max_tokens", "max_output_tokens"),
        ("response_format", "text"),
        ("reasoning_effort", "reasoning"),
        ("tools", "tools"),
        ("top_p", "top_p"),
        (None, None),
    ],
)
def test_an_errors_param_is_a_field_of_this_request(param, expected):
    assert chat("Hi").explained(RequestError("odd", param=param)).param == expected
