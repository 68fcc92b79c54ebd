"""Errors of many endpoints, as this package's own, with the field to blame."""

from __future__ import annotations

import pytest

from llmlab.backends.remote.said import named_fields
from llmlab.errors import ContextLengthError, EngineError, LLMLabError, ModelNotFoundError, RequestError
from tests.backends.endpoint import Endpoint, refusal

SENT = ["model", "messages", "n", "seed", "stop", "top_k", "temperature", "max_tokens"]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("top_k must be -1 (disable), or at least 1, got 0", {"top_k"}),
        ("Unexpected fields in the request: {'top_k', 'seed'}", {"top_k", "seed"}),
        ("Unsupported parameter: 'max_tokens' is not supported with this model.", {"max_tokens"}),
        ("max_completion_tokens is too large", set()),
        ("n must be 1 when using greedy sampling, got 4.", {"n"}),
        ("Please do not send a message; the model cannot stop, and seeds are n/a", set()),
        ("body.stop: Input should be a valid list", {"stop"}),
        ("temperature: Input should be less than or equal to 1", {"temperature"}),
        ("`stop` is not supported", {"stop"}),
    ],
)
def test_the_fields_that_a_message_names(message, fields):
    assert set(named_fields(message, SENT)) == fields


DETAIL = {"detail": [{"loc": ["body", "temperature"], "msg": "Input should be at most 1", "type": "less_than_equal"}]}
VLLM = {"object": "error", "message": "top_k must be positive", "type": "BadRequestError", "param": None, "code": 400}


@pytest.mark.parametrize(
    ("answer", "kind", "param", "words"),
    [
        ((422, DETAIL, {}), RequestError, "temperature", "body.temperature: Input should be at most 1"),
        ((422, {"detail": "Unexpected fields in the request: {'top_k'}"}, {}), RequestError, "top_k", "Unexpected"),
        ((400, VLLM, {}), RequestError, "top_k", "positive"),
        ((400, {"error": "temperature is out of range"}, {}), RequestError, "temperature", "out of range"),
        ((400, {"error": {"message": "bad", "param": ["top_k"], "code": 3}}, {}), RequestError, None, "bad"),
        ((413, {"error": {"message": "too big"}}, {}), RequestError, None, "too big"),
        (refusal("nope", param="temperature"), RequestError, "temperature", "nope"),
        (refusal("maximum context length is 8"), ContextLengthError, None, "maximum"),
        (refusal("Your key may not use this", status=403), LLMLabError, None, "api_key"),
        (refusal("Incorrect API key", status=401), LLMLabError, None, "api_key"),
        (refusal("The model `x` does not exist", status=404), ModelNotFoundError, "model", "does not exist"),
        ((404, {"detail": "Not Found"}, {}), LLMLabError, None, "end in /v1"),
        (refusal("slow down", status=429), EngineError, None, "concurrency"),
        (refusal("oh dear", status=503), EngineError, None, "503: oh dear"),
        ((500, b"<html>oh dear</html>", {}), EngineError, None, "oh dear"),
    ],
)
def test_a_refusal_says_who_what_and_which_field(answer, kind, param, words):
    with pytest.raises(kind, match=words) as caught:
        Endpoint(lambda body: answer).lab().chat("hello", temperature=0.5, top_k=3)
    assert type(caught.value) is kind and caught.value.param == param
    assert "somewhere.invalid" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [("http://127.0.0.1:9/v1", "cannot be reached"), ("127.0.0.1:9", "begins with http")],
)
def test_an_address_where_nobody_is(url, words):
    import llmlab

    with pytest.raises(LLMLabError, match=words):
        llmlab.connect(url, retries=0, quiet=True)


def test_a_password_in_the_address_is_not_shown():
    import llmlab

    with pytest.raises(EngineError) as caught:
        llmlab.connect("http://me:hunter2@127.0.0.1:9/v1", retries=0, quiet=True)
    assert "hunter2" not in str(caught.value)
