"""What an endpoint refuses is left out of requests of that shape, once an answer has shown that this was the reason."""

from __future__ import annotations

import pytest

from llmlab.errors import EngineError, RequestError
from llmlab.protocol.completion import NO_END_TOKEN
from tests.backends.endpoint import Endpoint, entry, refusal, spoken, whole

HELLO = (entry("Hello", -0.3), entry(" you", -0.1))
#: What is noted in any case.
NOTES = (NO_END_TOKEN,)
MESSAGE = {"role": "assistant", "content": "Hello you"}
WHOLE = whole({"index": 0, "message": MESSAGE, "logprobs": {"content": list(HELLO)}, "finish_reason": "stop"})
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"temperature": {"type": "number", "uniqueItems": True}}}
FORM = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}


def said(body):
    if not body.get("stream"):
        return WHOLE
    return [each for index in range(body.get("n", 1)) for each in spoken(*HELLO, index=index)]


def defaults(body):
    """What a plain request is sent, without what differs between two of them."""
    return {name: value for name, value in body.items() if name not in ("messages", "seed")}


def plain_after(script, **fields):
    """The bodies of two plain requests, before and after another one, and that one's result or error."""
    endpoint = Endpoint(script)
    lab = endpoint.lab()
    first = lab.chat("hello")
    assert first.notes == NOTES
    try:
        between = lab.chat("hello", **fields)
    except (RequestError, EngineError) as error:
        between = error
    count = len(endpoint.bodies)
    assert lab.chat("hello").notes == NOTES
    assert len(endpoint.bodies) == count + 1
    assert defaults(endpoint.bodies[-1]) == defaults(endpoint.bodies[0])
    return endpoint, lab, between


def test_a_refusal_that_quotes_a_schema_drops_nothing():
    words = "Invalid schema for response_format 'weather': in context=('properties', 'temperature'), uniqueItems"
    for param in (None, "response_format", "response_format.json_schema"):

        def script(body, param=param):
            return refusal(words, param=param) if "response_format" in body else said(body)

        endpoint, _, error = plain_after(script, response_format=FORM)
        assert isinstance(error, RequestError) and error.param == "response_format"
        assert len(endpoint.bodies) == (3 if param else 4)  # where nothing is blamed, the suspect is tried


def test_a_refusal_of_some_requests_is_kept_for_those():
    words = "logprobs is not supported with tools + stream"

    def script(body):
        return refusal(words) if "tools" in body and body.get("stream") and body.get("logprobs") else said(body)

    endpoint, lab, result = plain_after(script, tools=[TOOL])
    assert result.text == "Hello you" and "logprobs: refused, and so left out" in result.notes
    assert "top_logprobs" not in endpoint.bodies[2] and endpoint.bodies[2]["temperature"] == 1.0
    count = len(endpoint.bodies)
    assert lab.chat("hello", tools=[TOOL]).notes == result.notes
    assert len(endpoint.bodies) == count + 1 and "logprobs" not in endpoint.bodies[-1]


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_failure_that_names_a_field_is_no_refusal(status):
    failures = [refusal("KeyError: 'top_logprobs'", status=status, param="top_logprobs")]
    endpoint = Endpoint(lambda body: failures.pop() if failures else said(body))
    lab = endpoint.lab()
    with pytest.raises(EngineError, match="KeyError"):
        lab.chat("hello")
    assert len(endpoint.bodies) == 1
    result = lab.chat("hello")
    assert result.notes == NOTES and defaults(endpoint.bodies[1]) == defaults(endpoint.bodies[0])


def test_n_refused_for_one_temperature_is_sent_at_others():
    def script(body):
        if body.get("n", 1) > 1 and body["temperature"] == 0:
            return refusal("n must be 1 when using greedy sampling, got 3")
        return said(body)

    endpoint, lab, result = plain_after(script, temperature=0, n=3)
    assert len(result.texts) == 3 and any(note.startswith("n: refused") for note in result.notes)
    assert lab.chat("hello", n=3).notes == NOTES
    assert endpoint.bodies[-1]["n"] == 3
    count = len(endpoint.bodies)
    lab.chat("hello", n=2, temperature=0.0)
    assert [body.get("n") for body in endpoint.bodies[count:]] == [None, None]


def test_n_is_sent_again_where_one_by_one_failed_too():
    failing = [True, True]

    def script(body):
        if failing and (failing.pop() or True):
            return refusal("n must be lower, or the queue is full")
        return said(body)

    endpoint = Endpoint(script)
    lab = endpoint.lab(concurrency=1)
    with pytest.raises(RequestError):
        lab.chat("hello", n=2)
    result = lab.chat("hello", n=2)
    assert result.notes == NOTES and endpoint.bodies[-1]["n"] == 2


def test_one_empty_stream_turns_nothing_off():
    streams = iter([[], spoken(*HELLO), [], spoken(*HELLO)])
    endpoint = Endpoint(lambda body: next(streams) if body.get("stream") else WHOLE)
    lab = endpoint.lab()
    notes = [lab.chat("hello").notes for _ in range(4)]
    assert [any(note.startswith("stream:") for note in each) for each in notes] == [True, False, True, False]
    assert [body.get("stream", False) for body in endpoint.bodies] == [True, False, True, True, False, True]


def test_an_endpoint_whose_streams_are_always_empty_is_asked_whole_after_two():
    endpoint = Endpoint(lambda body: [] if body.get("stream") else WHOLE)
    lab = endpoint.lab()
    results = [lab.chat("hello") for _ in range(3)]
    assert all(any(note.startswith("stream: nothing came") for note in each.notes) for each in results)
    assert [body.get("stream", False) for body in endpoint.bodies] == [True, False, True, False, False]
    count = len(endpoint.bodies)
    lab.chat("hello", temperature=0)  # another shape
    assert endpoint.bodies[count]["stream"] is True


def test_only_the_guilty_of_the_named_fields_is_left_out():
    words = "Unknown field 'top_k'. Allowed: temperature, top_p, 'seed', logprobs, top_logprobs, 'stream'."
    endpoint = Endpoint(lambda body: refusal(words) if "top_k" in body else said(body))
    assert endpoint.lab().chat("hello").notes == NOTES
    full, sent = endpoint.bodies[0], endpoint.bodies[-1]
    assert full.keys() - sent.keys() == {"top_k"} and len(endpoint.bodies) == 2

    endpoint = Endpoint(lambda body: refusal("seed and top_p: not both", status=422) if "top_p" in body else said(body))
    assert [note.partition(":")[0] for note in endpoint.lab().chat("hello").notes] == ["logprobs", "top_p"]


def test_fields_that_are_refused_one_after_another():
    def script(body):
        strange = [name for name in ("top_k", "min_p", "repetition_penalty", "seed") if name in body]
        return refusal(f"Unsupported parameter: {strange[0]}", param=strange[0]) if strange else said(body)

    endpoint = Endpoint(script)
    lab = endpoint.lab()
    assert lab.chat("hello").notes == (*NOTES, "seed: refused, and so left out")
    assert len(endpoint.bodies) == 5
    lab.chat("hello")
    assert len(endpoint.bodies) == 6


def test_the_field_that_is_blamed_is_believed_over_the_words():
    words = "temperature, top_p and seed are fine; this is about another field"
    endpoint = Endpoint(lambda body: refusal(words, param="top_logprobs") if "top_logprobs" in body else said(body))
    assert endpoint.lab().chat("hello").notes == (*NOTES, "top_logprobs: refused, and so left out")
    place = {"detail": [{"loc": ["body", "min_p"], "msg": "temperature has no min_p", "type": "extra_forbidden"}]}
    endpoint = Endpoint(lambda body: (422, place, {}) if "min_p" in body else said(body))
    endpoint.lab().chat("hello")
    assert endpoint.bodies[0].keys() - endpoint.bodies[1].keys() == {"min_p"}
    # One that the caller set, or that was not sent, is an error at once.
    for param in ("temperature", "messages[0].content", "logit_bias"):
        endpoint = Endpoint(lambda body, param=param: refusal("top_k and seed", param=param))
        with pytest.raises(RequestError) as caught:
            endpoint.lab().chat("hello", temperature=0.5)
        assert caught.value.param == param.partition("[")[0] and len(endpoint.bodies) == 1


def test_refusals_that_differ_only_in_a_number_are_one():
    count = iter(range(99))
    endpoint = Endpoint(lambda body: refusal(f"request req-{next(count)}: top_p or temperature is wrong"))
    with pytest.raises(RequestError):
        endpoint.lab().chat("hello")
    assert len(endpoint.bodies) == 4  # as it is, without either, without both


def test_a_refusal_that_names_nothing_is_of_its_shape_too():
    """A refusal that names nothing is looked into by leaving out more and more, and kept for its shape alone."""

    def script(body):
        return refusal("no") if "response_format" in body and "seed" in body else said(body)

    form = {"type": "json_object"}
    endpoint, lab, result = plain_after(script, response_format=form)
    assert "seed" not in endpoint.bodies[-2] and endpoint.bodies[-2]["temperature"] == 1.0
    [note] = [note for note in result.notes if note.startswith("seed:")]
    assert "names no field" in note
    assert lab.chat("hello", response_format=form).notes == result.notes
