"""Streams as events: every order of text, reasoning and calls, failures, and what goes over the line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import openai
import pytest

from llmlab.errors import EngineError, RequestError
from llmlab.protocol.completion import CallDelta, Choice, Completion, Delta, Header, Timing, ToolCall
from llmlab.serve.responses.answer import response_json
from llmlab.serve.responses.events import events
from llmlab.serve.responses.request import ResponsesRequest
from llmlab.serve.responses.stream import ResponseStream
from tests.serve.bodies import http
from tests.serve.puppet import Puppet, tokens
from tests.serve.test_responses import EVENT, built

TOOL = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}


def script(*deltas, finish="stop", **fields):
    """A new answer in progress, made from these deltas."""
    asked = ResponsesRequest(input="Hi", tools=[TOOL], **fields).chat()
    return ResponseStream(Script(*deltas, finish=finish, request=asked.chat), asked)


class Script:
    """A stream that gives these deltas, and raises what is an error among them."""

    def __init__(self, *deltas, finish, request):
        self.header = Header(
            id="chatcmpl-x",
            created=1,
            model="script",
            request=request,
            seed=1,
            prompt_ids=np.arange(3, dtype=np.int32),
            system_fingerprint="script",
        )
        self._deltas, self._finish = deltas, finish

    def __iter__(self):
        for delta in self._deltas:
            if isinstance(delta, Exception):
                raise delta
            yield delta
        yield said("", finish_reason=self._finish)

    def on_wait(self, tell):
        pass

    def on_restart(self, tell):
        pass

    def close(self):
        pass

    def result(self):
        deltas = [delta for delta in self._deltas if isinstance(delta, Delta)]
        made: dict[int, ToolCall] = {}
        for call in (call for delta in deltas for call in delta.calls):
            before = made.get(call.index) or ToolCall(id=call.id, name=call.name, arguments="")
            made[call.index] = replace(before, arguments=before.arguments + call.arguments)
        text = "".join(delta.text for delta in deltas)
        reasoning = "".join(delta.reasoning for delta in deltas) or None
        choice = Choice(0, text, tokens(text), self._finish, reasoning=reasoning, tool_calls=tuple(made.values()))
        return Completion(**vars(self.header), choices=(choice,), timing=Timing(first_token=0.0, total=0.0))


def said(text, **fields):
    return Delta(index=0, text=text, tokens=tokens(text), **{"finish_reason": None, **fields})


def thought(text):
    return Delta(index=0, text="", tokens=tokens(""), finish_reason=None, reasoning=text)


def called(index, arguments, *, named=True):
    given = {"id": f"call_{index}", "name": "now"} if named else {}
    return CallDelta(index=index, arguments=arguments, **given)


def calls(*deltas, text=""):
    return Delta(index=0, text=text, tokens=tokens(text), finish_reason=None, calls=deltas)


def run(stream):
    """The events, validated, and the output that they make."""
    got = list(events(stream))
    assert [event["sequence_number"] for event in got] == list(range(len(got)))
    typed = [EVENT.validate_python(event) for event in got]
    assert built(typed[2:-1]) == typed[-1].response.model_dump(exclude_unset=True)["output"]
    return got


def output(got):
    """The items of a stream's events in short: kind, text, status."""
    items = got[-1]["response"]["output"]
    return [(item["type"], text_of(item), item["status"]) for item in items]


def text_of(item):
    if item["type"] == "function_call":
        return item["arguments"]
    return (item.get("content") or item["summary"])[0]["text"]


DONE, CUT = "completed", "incomplete"


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([], [("message", "", DONE)]),
        ([said("")], [("message", "", DONE)]),
        ([said("a"), said("b")], [("message", "ab", DONE)]),
        ([thought("h"), thought("m"), said("a")], [("reasoning", "hm", DONE), ("message", "a", DONE)]),
        ([thought("hm")], [("reasoning", "hm", DONE), ("message", "", DONE)]),
        ([said("a"), calls(called(0, "{}"))], [("message", "a", DONE), ("function_call", "{}", DONE)]),
        (
            [thought("hm"), calls(called(0, "{")), calls(called(0, "}", named=False)), calls(called(1, "{}"))],
            [("reasoning", "hm", DONE), ("function_call", "{}", DONE), ("function_call", "{}", DONE)],
        ),
        # All in one delta.
        (
            [calls(called(0, "{"), called(0, "}", named=False), called(1, "[]"), text="a")],
            [("message", "a", DONE), ("function_call", "{}", DONE), ("function_call", "[]", DONE)],
        ),
        ([calls(called(0, ""))], [("function_call", "", DONE)]),
    ],
)
def test_items_follow_one_another(deltas, expected):
    got = run(script(*deltas))
    assert output(got) == expected and got[-1]["type"] == "response.completed"
    assert got[-1]["response"] == response_json(script(*deltas).result())


def test_text_after_a_call_is_a_message_of_its_own():
    deltas = [said("a"), calls(called(0, "{}")), said("b"), said("c"), calls(called(1, "[]"))]
    got = run(script(*deltas))
    assert output(got) == [
        ("message", "a", DONE),
        ("function_call", "{}", DONE),
        ("message", "bc", DONE),
        ("function_call", "[]", DONE),
    ]
    assert got[-1]["response"] == response_json(script(*deltas).result())
    assert len({item["id"] for item in got[-1]["response"]["output"]}) == 4


def test_reasoning_after_text_is_reasoning_of_its_own():
    deltas = [thought("h"), said("a"), thought("m"), said("b")]
    got = run(script(*deltas))
    assert output(got) == [
        ("reasoning", "h", DONE),
        ("message", "a", DONE),
        ("reasoning", "m", DONE),
        ("message", "b", DONE),
    ]
    assert got[-1]["response"] == response_json(script(*deltas).result())
    assert len({item["id"] for item in got[-1]["response"]["output"]}) == 4


def test_arguments_of_a_call_that_has_ended_are_a_failure():
    """No event could tell of them: the call's last event has been sent."""
    stream = script(calls(called(0, "{")), calls(called(1, "{")), calls(called(0, "}", named=False)))
    got = []
    with pytest.raises(EngineError, match="call 0"):
        for event in events(stream):
            got.append(event)
    assert got[-1]["type"] == "response.failed"


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([said("a")], [("message", "a", CUT)]),
        ([thought("h")], [("reasoning", "h", CUT)]),
        ([thought("h"), said("a")], [("reasoning", "h", DONE), ("message", "a", CUT)]),
        ([said("a"), calls(called(0, '{"'))], [("message", "a", DONE), ("function_call", '{"', CUT)]),
        ([], [("message", "", CUT)]),
    ],
)
def test_the_last_item_is_incomplete_where_the_limit_cut_it(deltas, expected):
    got = run(script(*deltas, finish="length"))
    assert output(got) == expected and got[-1]["type"] == "response.incomplete"
    assert got[-1]["response"] == response_json(script(*deltas, finish="length").result())
    assert got[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_the_summary_is_the_reasoning():
    stream = script(thought("h"), thought("m"), said("a"), reasoning={"summary": "auto"})
    got = run(stream)
    kinds = [event["type"].removeprefix("response.") for event in got]
    assert kinds[2:8] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
    item = got[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "hm"}] and "content" not in item


def test_a_failure_is_the_last_event():
    stream = script(said("a"), EngineError("the engine failed: messages[0] is odd"))
    got = []
    with pytest.raises(EngineError):
        for event in events(stream):
            got.append(event)
    for event in got:
        EVENT.validate_python(event)
    failed = got[-1]["response"]
    assert got[-1]["type"] == "response.failed" == f"response.{failed['status']}"
    assert failed["error"] == {"code": "server_error", "message": "the engine failed: input is odd"}


def ask(server, **fields):
    sent = {"content-type": "application/json"}
    data = json.dumps({"input": "Hi", **fields}).encode()
    return http.post(f"{server.url}/v1/responses", content=data, headers=sent, timeout=60, verify=False)


def test_a_line_of_the_stream_has_the_events_name_and_there_is_no_other_end(running):
    puppet = Puppet(script=lambda stream: [stream.say("Hello"), stream.finish()])
    with running(puppet) as server:
        answer = ask(server, stream=True)
    assert answer.headers["content-type"] == "text/event-stream"
    *parts, rest = answer.text.split("\n\n")
    assert rest == "" and len(parts) == 9
    for part in parts:
        name, data = part.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert parts[-1].startswith("event: response.completed\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_on_the_way_is_told_once(running, stream):
    puppet = Puppet(script=lambda stream: [stream.say("Hello"), stream.fail(EngineError("the engine failed"))])
    with running(puppet) as server:
        answer = ask(server, stream=stream)
        if not stream:
            assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the engine failed")
        else:
            *_, last, rest = answer.text.split("\n\n")
            failed = json.loads(last.partition("data: ")[2])
            assert failed["type"] == "response.failed" and failed["response"]["error"]["message"] == "the engine failed"
            assert rest == "" and "[DONE]" not in answer.text
            got = list(server.client().responses.create(model="puppet", input="Hi", stream=True))
            assert got[-1].response.status == "failed"
        assert puppet.streams[0].closed.is_set()


def test_a_refusal_by_the_backend_names_the_input(running):
    puppet = Puppet(script=lambda stream: (_ for _ in ()).throw(RequestError("messages[1] is odd", param="messages")))
    with running(puppet) as server, pytest.raises(openai.BadRequestError) as caught:
        given = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
        server.client().responses.create(model="puppet", input=given)
    assert (caught.value.param, caught.value.body["message"]) == ("input", "input[1] is odd")
