"""An endpoint elsewhere: what it sends is read, what it does not send is unknown, and every deviation is noted."""

from __future__ import annotations

import math
import threading

import numpy as np
import pandas as pd
import pytest

import llmlab
from llmlab.errors import EngineError, LLMLabError, ModelNotFoundError, RequestError
from llmlab.lab.lab import Lab
from llmlab.protocol.completion import NO_END_TOKEN
from tests.backends.endpoint import Endpoint, chunk, entry, piece, refusal, spoken, whole

HELLO = (entry("Hello", -0.3, ("Hi", -1.5)), entry(" you", -0.1, (" there", -2.5)))
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def lab_of(script, **options):
    endpoint = Endpoint(script)
    return endpoint, Lab(endpoint.backend(**options))


def test_an_answer_in_openais_shape():
    endpoint, lab = lab_of(lambda body: [*spoken(*HELLO), chunk(usage=USAGE)])
    result = lab.chat("hello", temperature=1.0, max_tokens=9)
    assert result.text == "Hello you"
    assert result.finish_reasons == ["stop"]
    assert result.completion.id == "chatcmpl-123"
    assert result.usage.completion_tokens == 3
    assert result.notes == (NO_END_TOKEN,)
    body = endpoint.bodies[0]
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("somebody", 1.0, 9)
    assert body["logprobs"] is True and body["top_logprobs"] == 5
    assert body["seed"] == result.seed
    assert "n" not in body


def test_the_frames_have_their_columns_and_what_is_not_known_is_na(demo):
    _, lab = lab_of(lambda body: spoken(*HELLO))
    frame = lab.chat("hello").logprobs_frame()
    local = demo.chat("hello", max_tokens=2).logprobs_frame()
    counts = ["token_id", "rank", "kept"]  # floats where they are missing, because no integer says so
    pd.testing.assert_series_equal(frame.dtypes.drop(["token", *counts]), local.dtypes.drop(["token", *counts]))
    assert set(frame.dtypes[counts].astype(str)) == {"float64"}
    assert frame.token.tolist() == ["Hello", " you"]
    assert frame.bytes.tolist() == [b"Hello", b" you"]
    assert frame.segment.tolist() == ["content", "content"]
    np.testing.assert_allclose(frame.logprob.astype(float), [-0.3, -0.1], atol=1e-6)
    np.testing.assert_allclose(frame.margin.astype(float), [1.2, 2.4], atol=1e-6)
    for name in ("token_id", "sampling_logprob", "rank", "entropy", "sampling_entropy", "kept"):
        assert frame[name].isna().all(), name
    top = lab.last.top_logprobs_frame()
    assert top.token.tolist() == ["Hello", "Hi", " you", " there"]
    assert top.sampled.tolist() == [True, False, True, False]
    assert top.token_id.isna().all() and top.sampling_logprob.isna().all()


def test_a_list_of_models_that_is_none():
    class Page(Endpoint):
        def _answer(self, request, http):
            page = http.Response(200, text="<html>", headers={"content-type": "application/json"})
            return page if request.url.path.endswith("/models") else super()._answer(request, http)

    with pytest.raises(EngineError, match="somewhere.invalid.*cannot be read"):
        Page(lambda body: None).backend()
    assert Page(lambda body: spoken(*HELLO)).lab(model="somebody").chat("hello").text == "Hello you"


def test_an_answer_in_vllms_shape():
    """Reasoning under its own name, fields that nobody knows, and a whole call in the middle of a stream."""
    call = {"index": 0, "id": "chatcmpl-tool-1", "type": "function", "function": {"name": "add", "arguments": ""}}
    chunks = [
        chunk(piece("", role="assistant"), prompt_token_ids=None),
        chunk(piece(reasoning="I should", logprobs={"content": [entry("I should", -0.5)]}), stop_reason=None),
        chunk(piece(reasoning=" add.")),
        chunk(piece(tool_calls=[call])),
        chunk(piece(tool_calls=[{"index": 0, "function": {"arguments": '{"a": 1'}}])),
        chunk(piece(tool_calls=[{"index": 0, "function": {"arguments": ', "b": 2}'}}])),
        chunk(piece(finish="tool_calls")),
    ]
    _, lab = lab_of(lambda body: chunks)
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    result = lab.chat("1 + 2?", tools=[tool])
    assert result.reasoning == "I should add."
    assert result.finish_reasons == ["tool_calls"]
    [made] = result.choices[0].tool_calls
    assert (made.id, made.name, made.arguments) == ("chatcmpl-tool-1", "add", '{"a": 1, "b": 2}')


def test_extension_fields_travel_in_the_body():
    endpoint, lab = lab_of(lambda body: spoken(*HELLO))
    lab.chat("hello", top_k=5, min_p=0.1, logit_bias={7: 3})
    assert (endpoint.bodies[0]["top_k"], endpoint.bodies[0]["min_p"]) == (5, 0.1)
    assert endpoint.bodies[0]["logit_bias"] == {"7": 3.0}


def test_choices_that_were_not_sent_are_asked_for_again():
    """An endpoint that knows no n, as `transformers serve`: one choice each time, whatever was asked."""
    endpoint, lab = lab_of(lambda body: spoken(entry(str(body["seed"]), -1.0)))
    result = lab.chat("hello", n=4, seed=7)
    assert [body.get("n") for body in endpoint.bodies] == [4, None, None, None]
    assert result.texts[0] == "7" and len(set(result.texts)) == 4
    assert [note.partition(":")[0] for note in result.notes] == ["seed", "logprobs", "n"]
    # It is remembered; and the first choices do not depend on how many there are.
    again = lab.chat("hello", n=2, seed=7)
    assert again.texts == result.texts[:2] and again.notes == result.notes
    assert [body.get("n") for body in endpoint.bodies[4:]] == [None, None]
    assert all(0 <= body["seed"] < 2**31 for body in endpoint.bodies)


def test_interleaved_choices_find_their_places():
    first, second = spoken(*HELLO), spoken(entry("Good", -1.0), entry(" day", -2.0), index=1, finish="length")
    mixed = [each for pair in zip(first, second, strict=True) for each in pair]
    _, lab = lab_of(lambda body: mixed)
    result = lab.chat("hello", n=2)
    assert result.texts == ["Hello you", "Good day"]
    assert result.finish_reasons == ["stop", "length"]
    assert result.logprobs_frame().groupby("choice").position.max().tolist() == [1, 1]


def test_an_endpoint_that_does_not_stream():
    message = {"role": "assistant", "content": "Hello you", "refusal": None}
    answer = whole({"index": 0, "message": message, "logprobs": {"content": list(HELLO)}, "finish_reason": "stop"})
    endpoint, lab = lab_of(lambda body: [] if body.get("stream") else answer)
    result = lab.chat("hello")
    assert (result.text, result.usage.prompt_tokens) == ("Hello you", 19)
    assert result.logprobs_frame().token.tolist() == ["Hello", " you"]
    assert any(note.startswith("stream:") for note in result.notes)
    assert [body.get("stream", False) for body in endpoint.bodies] == [True, False]


def test_no_logprobs_are_no_rows():
    _, lab = lab_of(lambda body: [chunk(piece("Hello")), chunk(piece(finish="stop"))])
    result = lab.chat("hello")
    assert result.text == "Hello"
    assert len(result.logprobs_frame()) == 0 and len(result.logprobs_frame().columns) == 13
    assert "logprobs: none were sent" in result.notes
    assert "Hello" in result._repr_html_() and "Hello" in repr(result)


def test_tokens_without_bytes():
    """Their texts are their bytes where they join to the content; a piece of a character is known by its text alone."""
    plain = [entry("He", -1.0, ("Ho", -2.0), raw=False), entry("llo", -0.5, raw=False)]
    _, lab = lab_of(lambda body: spoken(*plain))
    result = lab.chat("hello")
    assert result.logprobs_frame().bytes.tolist() == [b"He", b"llo"]
    assert "logprobs: sent without bytes" in result.notes
    cut = [entry("\ufffd", -1.0, ("x", -3.0), raw=False), entry("\ufffd", -0.1, raw=False)]
    chunks = [*spoken(*cut)[1:3], chunk(piece(finish="stop"))]
    for each, text in zip(chunks, ["", "é"], strict=False):
        each["choices"][0]["delta"]["content"] = text
    _, lab = lab_of(lambda body: chunks)
    frame = lab.chat("hello").logprobs_frame()
    assert lab.last.text == "é"
    assert frame.token.tolist() == ["\ufffd", "\ufffd"]
    assert frame.bytes.isna().all() and frame.token_id.isna().all()
    assert lab.last.top_logprobs_frame().token.tolist() == ["\ufffd", "x", "\ufffd"]


def test_processed_logprobs_are_called_so():
    """vLLM's `--logprobs-mode processed_logprobs`: those of the distribution after the temperature."""

    def script(body):
        t = body.get("temperature", 1.0)
        tokens = [entry("a", -0.5 / t, ("b", -1.0 / t))]
        if body.get("stream"):
            return spoken(*tokens)
        message = {"role": "assistant", "content": "a"}
        return whole({"index": 0, "message": message, "logprobs": {"content": tokens}, "finish_reason": "length"})

    endpoint, lab = lab_of(script)
    frame = lab.chat("hello", temperature=0.5).logprobs_frame()
    assert frame.logprob.isna().all()
    assert frame.sampling_logprob.tolist() == [-1.0]
    assert lab.last.top_logprobs_frame().sampling_logprob.tolist() == [-1.0, -2.0]
    assert any("after the temperature" in note for note in lab.last.notes)
    # The strip says so, and is coloured by what is known.
    assert "after the temperature" in lab.last._repr_html_()
    assert lab.last.to_html() == lab.last.to_html(by="sampling_logprob")
    before = len(endpoint.bodies)
    lab.chat("hello", temperature=0.7)
    assert len(endpoint.bodies) == before + 1  # the endpoint was looked at once


def test_what_was_ignored_is_noted():
    text = [entry("one.", -1.0), entry(" two", -1.0)]
    _, lab = lab_of(lambda body: spoken(*text))
    notes = lab.chat("hello", stop=["."], max_tokens=1, response_format={"type": "json_object"}).notes
    assert [note.partition(":")[0] for note in notes] == ["stop", "response_format", "max_tokens", "logprobs"]
    _, lab = lab_of(lambda body: spoken(entry("one", -1.0)))
    assert "may have been left out" in lab.chat("hello", stop=["."]).notes[0]
    assert lab.chat("hello", stop=["."], include_stop=False).notes == (NO_END_TOKEN,)


@pytest.mark.parametrize(
    ("error", "kind", "param"),
    [
        (refusal("top_k must be -1 (disable), or at least 1", param=None), RequestError, "top_k"),
        (refusal("nope", param="temperature"), RequestError, "temperature"),
        (refusal("Unsupported parameter: 'seed'", param="seed"), RequestError, "seed"),
        (refusal("Incorrect API key provided", status=401), LLMLabError, None),
        (refusal("The model does not exist", status=404), ModelNotFoundError, "model"),
        (refusal("slow down", status=429), EngineError, None),
        (refusal("oh dear", status=500), EngineError, None),
        ((400, "not even JSON of the usual shape", {}), RequestError, None),
    ],
)
def test_a_refusal_names_the_field(error, kind, param):
    _, lab = lab_of(lambda body: error)
    with pytest.raises(kind) as caught:
        lab.chat("hello", temperature=0.5, top_k=3, seed=1)
    assert caught.value.param == param
    assert "somewhere.invalid" in str(caught.value)


def test_a_full_queue_is_tried_again():
    answers = iter([refusal("full", status=429, **{"retry-after": "0"}), spoken(*HELLO)])
    endpoint, lab = lab_of(lambda body: next(answers), retries=2)
    assert lab.chat("hello").text == "Hello you"
    assert len(endpoint.bodies) == 2


def test_an_answer_without_an_end_is_kept_with_a_note():
    _, lab = lab_of(lambda body: [chunk(piece("Hel", logprobs={"content": [entry("Hel", -1.0)]}))])
    result = lab.chat("hello")
    assert (result.text, result.finish_reasons) == ("Hel", ["interrupted"])
    assert result.notes == ("finish_reason: none was sent, so the answer may be incomplete",)
    stream = lab.stream("hello")
    assert [each.choices[0].finish_reason for each in stream][-1] == "length"
    assert stream.result().text == "Hel"


def test_no_more_requests_at_once_than_allowed():
    gate = threading.Semaphore(0)

    def script(body):
        gate.acquire(timeout=30)
        return spoken(*HELLO)

    endpoint, lab = lab_of(script, concurrency=3)
    request = lab.request("hello")
    streams = [lab.backend.stream(request) for _ in range(9)]
    for _ in range(9):
        gate.release()
    assert [stream.result().choices[0].text for stream in streams] == ["Hello you"] * 9
    assert endpoint.most <= 3


def test_what_no_endpoint_gives_is_a_clear_error():
    _, lab = lab_of(lambda body: spoken(*HELLO))
    for ask, word in (
        (lambda: lab.next_token("hello"), "logits"),
        (lambda: lab.chat("hello", order="vllm"), "order"),
        (lambda: lab.complete("hello"), "prompt"),
        (lambda: lab.chat("hello", model="another"), "another"),
    ):
        with pytest.raises(LLMLabError, match=word):
            ask()


def test_no_tokens_are_not_the_same_tokens():
    """A difference that cannot be seen must not read as none."""
    _, blind = lab_of(lambda body: [chunk(piece(str(body["temperature"]))), chunk(piece(finish="stop"))])
    result = blind.chat("hello")
    with pytest.raises(RequestError, match="compare the `texts`"):
        result.rerun(temperature=0.5).diff()
    assert "0 tokens" not in f"{result!r}{result._repr_html_()}"
    _, vague = lab_of(lambda body: spoken(*(entry(x, -1.0, raw=False) for x in ("\ufffd", str(body["temperature"])))))
    assert vague.chat("hello").rerun(temperature=0.5).diff().frame()[["same", "position"]].values.tolist() == [
        [False, 1]
    ]


def test_which_model():
    endpoint = Endpoint(lambda body: spoken(*HELLO), models=("one", "two"))
    with pytest.raises(ModelNotFoundError, match="one, two"):
        endpoint.backend()
    assert endpoint.backend(model="two").name == "two"
    with pytest.raises(EngineError, match="cannot be reached"):
        llmlab.connect("http://127.0.0.1:9/v1", retries=0, quiet=True)
    with pytest.raises(ValueError, match="concurrency"):
        endpoint.backend(concurrency=0)


def test_minus_infinity_in_json():
    _, lab = lab_of(lambda body: spoken(entry("a", -9999.0, ("b", 0.0))))
    assert lab.chat("hello").logprobs_frame().logprob.tolist() == [-math.inf]
