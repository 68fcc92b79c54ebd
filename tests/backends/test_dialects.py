"""Odd forms of errors, chunks, calls and logprobs: the endpoint's words are in the error, and no text is lost."""

from __future__ import annotations

import json
import math

import pytest

from llmlab.errors import EngineError, LLMLabError, RequestError
from llmlab.protocol.completion import NO_END_TOKEN
from tests.backends.endpoint import Endpoint, chunk, entry, piece, spoken, whole

HELLO = (entry("Hello", -0.3), entry(" you", -0.1))
#: Error bodies, each with the words that must be shown.
ERRORS = {
    "an array": [{"error": {"code": 400, "message": "Request contains odd words", "status": "INVALID_ARGUMENT"}}],
    "flat": {"object": "error", "message": "odd words", "type": "BadRequestError", "param": None, "code": 400},
    "code and message": {"code": 1210, "message": "odd words"},
    "detail": {"detail": "odd words"},
    "details": {"detail": [{"loc": ["body", "temperature"], "msg": "odd words", "type": "less_than_equal"}]},
    "detail in an object": {"detail": {"error": {"message": "odd words"}}},
    "a text": {"error": "odd words"},
    "a text beside the words": {"status": 400, "error": "Bad Request", "message": "odd words", "path": "/v1"},
    "errors": {"success": False, "errors": [{"code": 7003, "message": "odd words"}], "result": None},
    "msg": {"msg": "odd words"},
}


@pytest.mark.parametrize("body", ERRORS.values(), ids=ERRORS.keys())
def test_the_words_of_an_error_response(body):
    with pytest.raises(RequestError, match="somewhere.invalid.* answers 400: .*odd words"):
        Endpoint(lambda _: (400, body, {})).lab().chat("hello")


def lines(*each: str) -> str:
    return "".join(f"{line}\n\n" for line in each)


@pytest.mark.parametrize("body", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("form", ["data: {}", "error: {}", "event: error\ndata: {}", "whole", "stray"])
def test_the_words_of_an_error_in_place_of_an_answer(body, form):
    """With status 200: as an event, as a line `error:`, as a whole JSON answer, or as JSON that is called a stream."""
    if form == "whole":
        answer = (200, body, {"content-type": "application/json"})
    else:
        answer = json.dumps(body) if form == "stray" else lines(form.replace("{}", json.dumps(body)))
    with pytest.raises(LLMLabError, match="odd words"):
        Endpoint(lambda _: answer).lab().chat("hello")


@pytest.mark.parametrize(
    "failure",
    [
        'error: {"code": 500, "message": "slot 3 died", "type": "server_error"}',
        "error: slot 3 died",
        'data: {"error": {"message": "slot 3 died"}}',
        'data: {"object": "error", "message": "slot 3 died", "code": 500}',
        'data: [{"error": {"message": "slot 3 died"}}]',
        "event: error\ndata: slot 3 died",
    ],
)
def test_the_words_of_an_error_in_the_middle_of_an_answer(failure):
    begun = f"data: {json.dumps(chunk(piece('Hel')))}"
    with pytest.raises(EngineError, match="slot 3 died"):
        Endpoint(lambda _: lines(begun, failure, "data: [DONE]")).lab().chat("hello")


def test_a_page_in_place_of_a_stream_is_quoted():
    with pytest.raises(EngineError, match="Sign in first"):
        Endpoint(lambda _: "<html>\nSign in first\n</html>").lab().chat("hello")


def test_lines_of_a_stream_in_all_their_forms():
    first, second = (json.dumps(chunk(piece(text))) for text in ("Hel", "lo\u2028"))
    end = json.dumps(chunk(piece(finish="stop")), indent=1)
    body = f": ping\r\n\r\nid: 7\r\ndata:{first}\r\n\r\nretry: 3\r\rdata: {second}\n\n"
    body += "".join(f"data: {line}\n" for line in end.splitlines()) + "\ndata: [DONE]\n\n" + "data: none of this\n\n"
    result = Endpoint(lambda _: body).lab().chat("hello")
    assert (result.text, result.finish_reasons) == ("Hello\u2028", ["stop"])


def test_an_answer_that_is_no_stream_although_it_is_called_one():
    answer = whole({"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"})
    result = Endpoint(lambda _: json.dumps(answer)).lab().chat("hello")
    assert (result.text, result.finish_reasons, result.usage.total_tokens) == ("Hello", ["stop"], 29)


def chat(*chunks, **fields):
    return Endpoint(lambda _: list(chunks)).lab().chat("hello", **fields)


def test_message_in_place_of_delta():
    said = [{"index": 0, "message": {"role": "assistant", "content": text}} for text in ("Hel", "lo")]
    result = chat(chunk(said[0]), chunk(said[1]), chunk({"index": 0, "message": {}, "finish_reason": "stop"}))
    assert (result.text, result.finish_reasons) == ("Hello", ["stop"])
    odd = whole({"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"})
    assert Endpoint(lambda _: odd).lab().chat("hello").text == "Hello"
    bare = [chunk({"index": 0, "text": text}) for text in ("Hel", "lo")]
    assert chat(*bare, chunk({"index": 0, "text": "", "finish_reason": "stop"})).text == "Hello"


def call(name=None, arguments=None, **more):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"type": "function", "function": function, **more}


def made(*chunks):
    result = chat(*chunks, chunk(piece(finish="tool_calls")))
    return [(each.name, each.arguments) for each in result.choices[0].tool_calls]


def test_two_calls_with_one_index_and_no_ids():
    same = {"index": 0, "id": None}
    a, b = call("add", '{"a": 1}', **same), call("add", '{"a": 2}', **same)
    expected = [("add", '{"a": 1}'), ("add", '{"a": 2}')]
    assert made(chunk(piece(tool_calls=[a, b]))) == expected
    assert made(chunk(piece(tool_calls=[a])), chunk(piece(tool_calls=[b]))) == expected
    other = call("sub", "", **same), call(None, "{}", **same)
    assert made(
        chunk(piece(tool_calls=[call("add", "{", **same)])), *(chunk(piece(tool_calls=[x])) for x in other)
    ) == [
        ("add", "{"),
        ("sub", "{}"),
    ]
    # The name of one call that comes with each piece of it.
    pieces = [call("add", text, **same) for text in ("", '{"a"', ": 1}")]
    assert made(*(chunk(piece(tool_calls=[each])) for each in pieces)) == expected[:1]
    answer = whole({"message": {"content": None, "tool_calls": [a, b]}, "finish_reason": "tool_calls"})
    calls = Endpoint(lambda _: answer).lab().chat("hello").choices[0].tool_calls
    assert [(each.name, each.arguments) for each in calls] == expected


def test_a_call_in_the_legacy_form():
    pieces = [{"name": "add", "arguments": ""}, {"arguments": '{"a"'}, {"arguments": ": 1}"}]
    chunks = [chunk(piece(function_call=each)) for each in pieces]
    result = chat(*chunks, chunk(piece(finish="function_call")))
    assert [(each.name, each.arguments) for each in result.choices[0].tool_calls] == [("add", '{"a": 1}')]
    assert result.finish_reasons == ["tool_calls"]
    answer = whole({"message": {"function_call": {"name": "add", "arguments": "{}"}}, "finish_reason": "function_call"})
    [one] = Endpoint(lambda _: answer).lab().chat("hello").choices[0].tool_calls
    assert (one.name, one.arguments) == ("add", "{}")


def test_one_call_that_is_no_list():
    assert made(chunk(piece(tool_calls=call("add", "{}")))) == [("add", "{}")]


def test_tokens_of_the_reasoning_under_its_other_name():
    lists = {"reasoning_content": [entry("Hm.", -1.0)], "content": [entry("Hi", -0.5)]}
    result = chat(chunk(piece("Hi", reasoning_content="Hm.", logprobs=lists, finish="stop")))
    frame = result.logprobs_frame()
    assert frame[["segment", "token", "logprob"]].astype(str).values.tolist() == [
        ["reasoning", "Hm.", "-1.0"],
        ["content", "Hi", "-0.5"],
    ]


@pytest.mark.parametrize(
    ("logprobs", "values"),
    [
        ([entry("Hi", -0.5)], [-0.5]),
        ({"content": [{"token": "Hi", "logprob": "-Infinity"}]}, [-math.inf]),
        ({"content": [{"token": "Hi", "logprob": "-0.25", "bytes": None}]}, [-0.25]),
        ({"content": [{"token": "Hi", "logprob": -math.inf}]}, [-math.inf]),
        ({"content": [{"token": "Hi", "logprob": "NaN"}]}, [math.nan]),
        ({"content": [{"token": "Hi", "logprob": {"value": -1}, "rank": "first"}]}, [math.nan]),
        ({"content": [entry("Hi", -0.5) | {"bytes": [300]}]}, [-0.5]),
        ({"content": [entry("Hi", -0.5) | {"bytes": "Hi", "top_logprobs": 7}]}, [-0.5]),
        ({"content": [{"token": "Hi", "logprob": -0.5, "top_logprobs": {"Hi": -0.5, "Ho": "-inf"}}]}, [-0.5]),
        ({"content": [entry("H", -0.5), 7, entry("i", -0.25)]}, [-0.5, -0.25]),
        ({"tokens": ["H", "i"], "token_logprobs": [None, -0.5], "top_logprobs": [None, {"i": -0.5}]}, [math.nan, -0.5]),
        ({"content": "none"}, []),
        ("none", []),
        (7, []),
    ],
)
def test_logprobs_never_cost_the_text(logprobs, values):
    result = chat(chunk(piece("Hi", logprobs=logprobs)), chunk(piece(finish="stop")))
    assert result.text == "Hi"
    found = result.logprobs_frame().logprob.to_numpy(float, na_value=math.nan)
    assert found.tolist() == pytest.approx(values, nan_ok=True)
    answer = json.dumps(whole({"message": {"content": "Hi"}, "logprobs": logprobs, "finish_reason": "stop"})).encode()
    again = Endpoint(lambda _: (200, answer, {"content-type": "application/json"})).lab().chat("hello")
    assert again.logprobs_frame().equals(result.logprobs_frame()) and again.text == "Hi"


def test_alternatives_as_an_object():
    logprobs = {"content": [{"token": "Hi", "logprob": -0.5, "top_logprobs": {"Ho": "-Infinity", "Hi": -0.5}}]}
    frame = chat(chunk(piece("Hi", logprobs=logprobs, finish="stop"))).top_logprobs_frame()
    assert frame[["token", "logprob", "sampled"]].values.tolist() == [["Hi", -0.5, True], ["Ho", -math.inf, False]]


@pytest.mark.parametrize(
    ("content", "text"), [(5, "5"), ({"type": "text", "text": "Hi"}, "Hi"), (["H", None, 1], "H1")]
)
def test_content_of_another_type_is_text(content, text):
    assert chat(chunk(piece(content)), chunk(piece(finish="stop"))).text == text


@pytest.mark.parametrize("ends", [("data: [DONE]",), ()])
def test_a_stream_without_a_finish_reason_keeps_its_text(ends):
    said = [f"data: {json.dumps(chunk(piece(text)))}" for text in ("Hel", "lo")]
    endpoint = Endpoint(lambda _: lines(*said, *ends))
    result = endpoint.lab().chat("hello")
    assert (result.text, result.finish_reasons, len(endpoint.bodies)) == ("Hello", ["interrupted"], 1)
    assert "finish_reason: none was sent, so the answer may be incomplete" in result.notes


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_an_end_that_is_a_failure_is_an_interruption(reason):
    assert chat(*spoken(*HELLO, finish=reason)).finish_reasons == ["interrupted"]


def test_a_list_of_models_that_is_a_bare_list():
    class Bare(Endpoint):
        def _answer(self, request, http):
            page = http.Response(200, json=[{"id": "somebody", "owned_by": "me"}])
            return page if request.url.path.endswith("/models") else super()._answer(request, http)

    backend = Bare(lambda _: spoken(*HELLO)).backend()
    assert (backend.name, backend.endpoint.owner) == ("somebody", "me")


def test_perplexity_without_the_end_token_says_so_in_a_note_and_a_column():
    lab = Endpoint(lambda body: spoken(*HELLO, finish="length" if body["temperature"] else "stop")).lab()
    sweep = lab.sweep("hello", temperature=[0.0, 1.0], n=1)
    assert sweep.frame().lacks_end.tolist() == [True, False]
    assert [NO_END_TOKEN in lab.chat("hello", temperature=t).notes for t in (0.0, 1.0)] == [True, False]
    listed = [*spoken(*HELLO)[:-1], chunk(piece(finish="stop", logprobs={"end": [entry("</s>", -2.0)]}))]
    lab = Endpoint(lambda body: listed).lab()
    result = lab.chat("hello")
    assert NO_END_TOKEN not in result.notes
    assert result.perplexity == pytest.approx(math.exp((0.3 + 0.1 + 2.0) / 3))
    assert not lab.sweep("hello", temperature=[1.0]).frame().lacks_end.any()
