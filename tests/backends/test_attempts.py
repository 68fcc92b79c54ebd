"""The attempts to get an answer: refusals, choices that do not come, answers in other shapes than asked for."""

from __future__ import annotations

import gzip
import json
import threading

import pytest

from llmlab.errors import ContextLengthError, EngineError, LLMLabError, RequestError
from llmlab.protocol.completion import NO_END_TOKEN
from tests.backends.endpoint import Endpoint, chunk, entry, piece, refusal, spoken, whole

HELLO = (entry("Hello", -0.3), entry(" you", -0.1))
MESSAGE = {"role": "assistant", "content": "Hello you"}
WHOLE = whole({"index": 0, "message": MESSAGE, "logprobs": {"content": list(HELLO)}, "finish_reason": "stop"})


def test_what_an_endpoint_might_decide_by_itself_is_said():
    """vLLM takes its defaults from generation_config.json, llama.cpp has a top_k of 40."""
    endpoint = Endpoint(lambda body: spoken(*HELLO))
    lab = endpoint.lab()
    lab.chat("hello")
    lab.chat("hello", temperature=0.5, top_k=3, seed=9, logprobs=True, top_logprobs=2)
    first, second = [body for body in endpoint.bodies if body.get("stream")]
    assert {name: first[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    assert 0 <= first["seed"] < 2**31
    assert (first["stream"], first["stream_options"]) == (True, {"include_usage": True})
    assert (second["temperature"], second["top_k"], second["seed"], second["top_logprobs"]) == (0.5, 3, 9, 2)
    assert second["top_p"] == 1.0


@pytest.mark.parametrize("seed", [-5, 0, 2**63 - 1, -(2**63)])
def test_a_seed_of_the_callers_is_sent_as_it_is(seed):
    endpoint = Endpoint(lambda body: spoken(entry(str(body["seed"]), -1.0)))
    result = endpoint.lab().chat("hello", seed=seed, n=3)
    assert endpoint.bodies[0]["seed"] == seed == result.seed
    assert all(0 <= body["seed"] < 2**31 for body in endpoint.bodies[1:])
    assert len(set(result.texts)) == 3


def strict(*known: str, message: str, status: int = 400):
    """An endpoint that refuses every field that it does not know."""
    always = {"model", "messages", "stream"}

    def script(body):
        if strange := sorted(set(body) - always - set(known)):
            return refusal(message.format(strange[0], names=set(strange)), status=status)
        return spoken(*HELLO) if body.get("stream") else WHOLE

    return script


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("Unrecognized request argument supplied: {}", 400),
        ("Unexpected fields in the request: {names}", 422),
        ("You are not allowed to request {} from this model", 403),
        ("{} is not implemented", 501),
        ("no", 400),
        ("no", 422),
    ],
)
def test_what_nobody_asked_for_is_left_out_where_it_is_refused(message, status):
    endpoint = Endpoint(strict("seed", message=message, status=status))
    lab = endpoint.lab()
    result = lab.chat("hello", seed=3)
    assert result.text == "Hello you"
    assert {note.partition(":")[0] for note in result.notes} >= {"logprobs", "temperature", "top_p"}
    sent = len(endpoint.bodies)
    again = lab.chat("hello", seed=3)
    assert len(endpoint.bodies) == sent + 1  # what it refuses is not sent again
    assert again.notes == result.notes  # and is noted every time


def test_what_somebody_asked_for_is_an_error_where_it_is_refused():
    for status, message in ((400, "Unrecognized request argument supplied: {}"), (422, "Unexpected fields: {names}")):
        with pytest.raises(RequestError) as caught:
            Endpoint(strict("seed", message=message, status=status)).lab().chat("hello", top_k=5)
        assert caught.value.param == "top_k"


def test_a_refusal_that_names_nothing_is_an_error_once_there_is_nothing_to_leave_out():
    endpoint = Endpoint(lambda body: refusal("no", status=400))
    with pytest.raises(RequestError, match="answers 400: no"):
        endpoint.lab().chat("hello")
    assert set(endpoint.bodies[-1]) == {"model", "messages"}


def test_a_failure_is_no_refusal():
    endpoint = Endpoint(lambda body: refusal("out of memory", status=500))
    with pytest.raises(EngineError):
        endpoint.lab().chat("hello")
    assert len(endpoint.bodies) == 1


def test_a_prompt_that_is_too_long():
    said = "This model's maximum context length is 8 tokens. However, you requested 9 tokens in the messages."
    body = {"object": "error", "message": said, "type": "BadRequestError", "param": None, "code": 400}
    endpoint = Endpoint(lambda _: (400, body, {}))  # vLLM's
    with pytest.raises(ContextLengthError, match="maximum context length"):
        endpoint.lab().chat("hello")
    assert len(endpoint.bodies) == 1


def test_n_that_is_refused():
    def script(body):
        return refusal("n must be 1", param=None) if "n" in body else spoken(entry(str(body["seed"]), -1.0))

    endpoint = Endpoint(script)
    lab = endpoint.lab()
    result = lab.chat("hello", n=3, seed=7)
    assert result.texts[0] == "7" and len(set(result.texts)) == 3
    assert any(note.startswith("n: refused") for note in result.notes)
    lab.chat("hello", n=2)
    assert sum("n" in body for body in endpoint.bodies) == 1


def test_some_of_the_choices_come():
    """Two of four: the others are asked for, and go to the places that were left."""

    def script(body):
        if "n" not in body:
            return spoken(entry(str(body["seed"]), -1.0))
        return [*spoken(entry("zero", -1.0)), *spoken(entry("two", -1.0), index=2)]

    result = Endpoint(script).lab().chat("hello", n=4, seed=7)
    assert [text.isdigit() for text in result.texts] == [False, True, False, True]
    assert result.texts[::2] == ["zero", "two"] and len(set(result.texts)) == 4
    assert any(note.startswith("n: 4 choices were asked for and 2 sent") for note in result.notes)


def test_a_choice_that_breaks_off_is_kept_as_it_is():
    """Its text must not go on with that of another request."""
    chunks = [*spoken(*HELLO), chunk(piece("Good", index=1))]
    endpoint = Endpoint(lambda body: chunks)
    result = endpoint.lab().chat("hello", n=2)
    assert (result.texts, result.finish_reasons) == (["Hello you", "Good"], ["stop", "interrupted"])
    assert "finish_reason: none was sent, so the answer may be incomplete" in result.notes
    assert len(endpoint.bodies) == 1


def test_more_choices_than_asked_for():
    result = Endpoint(lambda body: [chunk(piece("a", finish="stop"), piece("b", index=1))]).lab().chat("hello")
    assert result.texts == ["a"]
    assert "n: more choices were sent than asked for" in result.notes


def test_choices_without_an_index():
    said = [{name: value for name, value in piece(text, finish="stop").items() if name != "index"} for text in "ab"]
    assert Endpoint(lambda body: [chunk(*said)]).lab().chat("hello", n=2).texts == ["a", "b"]


def test_choices_asked_for_one_by_one_are_under_way_at_once():
    gate = threading.Barrier(3)

    def script(body):
        if "n" not in body:
            gate.wait(timeout=30)
        return spoken(entry("a", -1.0))

    endpoint = Endpoint(script)
    assert endpoint.lab(concurrency=3).chat("hello", n=4).texts == ["a"] * 4
    assert endpoint.most == 3


def usage(prompt, made, **more):
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made, **more}


def test_the_prompt_is_counted_once():
    endpoint = Endpoint(lambda body: [*spoken(entry("a", -1.0)), chunk(usage=usage(7, 2))])
    found = endpoint.lab().chat("hello", n=3).usage
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (7, 6, 13)


def test_a_usage_with_every_chunk_is_a_count_so_far():
    """vLLM's continuous_usage_stats."""
    chunks = [{**each, "usage": usage(7, made)} for made, each in enumerate(spoken(*HELLO))]
    found = Endpoint(lambda body: [*chunks, chunk(usage=usage(7, 3))]).lab().chat("hello").usage
    assert (found.completion_tokens, found.total_tokens) == (3, 10)


@pytest.mark.parametrize("said", [None, {}, {"total_tokens": 3}, {"prompt_tokens": None, "completion_tokens": 3}])
def test_what_was_not_counted_is_unknown(said):
    lab = Endpoint(lambda body: [*spoken(*HELLO), *([] if said is None else [chunk(usage=said)])]).lab()
    result = lab.chat("hello")
    assert result.usage is None and result.completion.usage is None
    assert [each.usage for each in lab.stream("hello")][-1] is None


def test_a_stream_has_the_endpoints_usage():
    lab = Endpoint(lambda body: [*spoken(*HELLO), chunk(usage=usage(7, 3))]).lab()
    stream = lab.stream("hello")
    last = list(stream)[-1]
    assert (last.choices[0].finish_reason, last.usage.total_tokens) == ("stop", 10)
    assert stream.result().usage.total_tokens == 10
    *others, extra = lab.stream("hello", stream_options={"include_usage": True})
    assert extra.choices == [] and extra.usage.completion_tokens == 3
    assert all(each.usage is None for each in others)


def test_a_stream_says_what_came():
    """Tokens without bytes under their texts, figures that are not known as null, and never an id that is none."""
    tokens = [entry("\ufffd", -1.0, ("x", -2.0), raw=False)]
    lab = Endpoint(lambda body: spoken(*tokens)).lab()
    stream = lab.stream("hello", logprobs=True, top_logprobs=2)
    [said] = [each for chunk in stream for c in chunk.choices if c.logprobs for each in c.logprobs.content]
    assert (said.token, said.bytes, said.token_id, said.rank) == ("\ufffd", None, None, None)
    assert [(each.token, each.token_id) for each in said.top_logprobs] == [("\ufffd", None), ("x", None)]
    [again] = stream.result().completion.choices[0].logprobs.content
    assert (again.token, again.bytes, again.token_id) == ("\ufffd", None, None)


def test_an_answer_without_a_logprob_has_none_in_the_response():
    """Logprobs after the temperature: the raw ones are unknown, for which the API's types have no value."""

    def script(body):
        t = body["temperature"]
        return spoken(entry("a", -0.5 / t, ("b", -1.0 / t))) if body.get("stream") else probe(t)

    def probe(t):
        logprobs = {"content": [entry("a", -0.5 / t, ("b", -1.0 / t))]}
        return whole({"index": 0, "message": MESSAGE, "logprobs": logprobs, "finish_reason": "length"})

    result = Endpoint(script).lab().chat("hello", temperature=0.5, logprobs=True)
    [said] = result.completion.choices[0].logprobs.content
    assert (said.logprob, said.sampling_logprob) == (None, -1.0)


def test_raw_logprobs_are_seen_to_be_raw():
    """Logprobs that do not depend on the temperature, except for the rounding of another batch width."""

    def script(body):
        noise = 0.04 if body["temperature"] == 0.5 else 0.0
        tokens = [entry("a", -0.5 + noise, ("b", -1.5), ("c", -2.0 - noise))]
        logprobs = {"content": tokens}
        return spoken(*tokens) if body.get("stream") else whole({"message": MESSAGE, "logprobs": logprobs})

    result = Endpoint(script).lab().chat("hello", temperature=0.5)
    assert result.notes == (NO_END_TOKEN,) and result.logprobs_frame().logprob.notna().all()


def test_a_look_that_fails_is_tried_another_time():
    busy = [True]

    def script(body):
        t = body["temperature"]
        tokens = [entry("a", -0.5 / t, ("b", -1.0 / t))]
        if body.get("stream"):
            return spoken(*tokens)
        if busy.pop() if busy else False:
            return refusal("busy", status=503)
        return whole({"message": MESSAGE, "logprobs": {"content": tokens}})

    lab = Endpoint(script).lab()
    assert lab.chat("hello", temperature=0.5).notes == (NO_END_TOKEN,)
    assert any("after the temperature" in note for note in lab.chat("hello", temperature=0.5).notes)


@pytest.mark.parametrize("answer", [WHOLE, whole({"message": MESSAGE, "finish_reason": "stop"})])
def test_json_for_a_stream(answer):
    """An endpoint that answers whole, whatever was asked, is asked once."""
    endpoint = Endpoint(lambda body: answer)
    assert endpoint.lab().chat("hello").text == "Hello you"
    assert len(endpoint.bodies) == 1


def test_a_stream_that_is_refused():
    def script(body):
        if body.get("stream"):
            return refusal("Unsupported value: 'stream' does not support true with this model.", param="stream")
        return WHOLE

    endpoint = Endpoint(script)
    lab = endpoint.lab()
    for _ in range(2):
        result = lab.chat("hello")
        assert result.text == "Hello you" and any(note.startswith("stream:") for note in result.notes)
    assert [bool(body.get("stream")) for body in endpoint.bodies] == [True, False, False]
    assert "stream_options" not in endpoint.bodies[1]


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ([chunk(piece("Hel")), {"error": {"message": "engine died", "code": 500}}], EngineError, "engine died"),
        ([{"error": "out of memory"}], EngineError, "out of memory"),
        ([{"error": {"message": "top_k is too large", "type": "invalid_request_error"}}], RequestError, "top_k"),
        ({"error": {"message": "no model is loaded"}}, EngineError, "no model"),
        ("data: {not json\n\n", EngineError, "cannot be read"),
        ("data: 7\n\n", EngineError, "no JSON object"),
        ([chunk(piece(role="assistant"))], EngineError, "before it says anything"),
        ([{"choices": [7]}], EngineError, "cannot be read"),
    ],
)
def test_an_answer_that_is_none(said, kind, words):
    lab = Endpoint(lambda body: said).lab()
    with pytest.raises(kind, match=words) as caught:
        lab.chat("hello", top_k=5)
    assert "somewhere.invalid" in str(caught.value)
    assert caught.value.param == ("top_k" if kind is RequestError else None)


def test_an_error_is_the_same_when_it_is_asked_for_again():
    stream = (
        Endpoint(lambda body: [chunk(piece("Hel")), {"error": {"message": "died"}}])
        .lab()
        .backend.stream(Endpoint(lambda body: None).lab().request("hello"))
    )
    for _ in range(2):
        with pytest.raises(EngineError, match="died"):
            stream.result()


def test_a_compressed_answer():
    lines = "".join(f"data: {json.dumps(each)}\n\n" for each in spoken(*HELLO)).encode()
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    lab = Endpoint(lambda body: (200, gzip.compress(lines), headers)).lab()
    assert lab.chat("hello").text == "Hello you"


def test_a_closed_lab_says_so():
    lab = Endpoint(lambda body: spoken(*HELLO)).lab()
    lab.close()
    lab.close()
    with pytest.raises(LLMLabError, match="closed"):
        lab.chat("hello")
