"""`lab.client()`: the real `openai` client, answered by the engine in this process."""

from __future__ import annotations

import re
import socket

import openai
import pytest

import llmlab
from llmlab.lab.lab import Lab
from llmlab.protocol.request import ChatRequest
from llmlab.protocol.wire import completion_json
from tests.serve.puppet import Puppet

ASK = [{"role": "user", "content": "Name an animal."}]


@pytest.fixture
def client(demo, monkeypatch):
    """No network: whoever opens a socket fails."""

    def refuse(*_args, **_options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with demo.client() as client:
        yield client


def test_an_answer_is_the_backends(client, demo):
    fields = {"seed": 3, "max_tokens": 20, "n": 2, "logprobs": True, "top_logprobs": 2}
    got = client.chat.completions.create(model="demo", messages=ASK, **fields).model_dump(exclude_unset=True)
    here = completion_json(demo.backend.complete(ChatRequest(messages=ASK, **fields)))
    for answer in (got, here):
        del answer["id"], answer["created"]
    assert got == here


def test_what_surrounds_an_answer_is_the_servers(client):
    raw = client.chat.completions.with_raw_response.create(model="demo", messages=ASK, max_tokens=1)
    assert re.fullmatch("req_[0-9a-f]{24}", raw.headers["x-request-id"]) and raw.parse()._request_id
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.list()
    assert caught.value.status_code == 405 and caught.value.response.headers["allow"] == "POST"
    with pytest.raises(openai.NotFoundError, match="this path does not exist"):
        client.embeddings.create(model="demo", input="x")


def test_a_stream_is_the_whole_answer(client):
    fields = {"model": "demo", "messages": ASK, "seed": 5, "max_tokens": 40}
    chunks = list(client.chat.completions.create(**fields, stream=True))
    answer = client.chat.completions.create(**fields)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == answer.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason and chunks[-1].usage == answer.usage


def test_a_stream_comes_as_it_is_made():
    """The first chunk is read before the last token is made: nobody has made it yet."""
    puppet = Puppet()
    stream = Lab(puppet).client().chat.completions.create(model="puppet", messages=ASK, stream=True)
    assert next(stream).choices[0].delta.role == "assistant"
    for said in ("One", " two"):
        puppet.streams[0].say(said)
        assert next(stream).choices[0].delta.content == said
    puppet.streams[0].finish()
    assert [chunk.choices[0].finish_reason for chunk in stream] == ["stop"]


def test_a_stream_of_the_engine_comes_as_it_is_made(client, demo):
    fields = {"max_tokens": 400, "stream": True, "extra_body": {"ignore_eos": True}}
    with client.chat.completions.create(model="demo", messages=ASK, **fields) as stream:
        next(stream)
        first = next(stream)
        # Another request begins and ends while the rest of the stream is still to come.
        assert demo.chat("Name a colour.", max_tokens=2).completion.usage.completion_tokens <= 2
        made = 0
        for chunk in stream:
            made += len(chunk.choices[0].delta.content or "")
    assert first.choices[0].delta.content and made > len(first.choices[0].delta.content)


def test_leaving_a_stream_ends_its_work():
    puppet = Puppet()
    with Lab(puppet).client().chat.completions.create(model="puppet", messages=ASK, stream=True) as stream:
        next(stream)
        assert not puppet.streams[0].closed.is_set()
    assert puppet.streams[0].closed.is_set()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "error", "param", "code"),
    [
        ({"temperature": 2.5}, openai.BadRequestError, "temperature", None),
        ({"messages": ASK * 200}, openai.BadRequestError, "messages", "context_length_exceeded"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature", None),
        ({"model": "gpt-4"}, openai.NotFoundError, "model", "model_not_found"),
    ],
)
def test_errors_are_the_clients_own_classes(client, fields, error, param, code, stream):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "demo", "messages": ASK, "stream": stream, **fields})
    assert (caught.value.param, caught.value.code) == (param, code)


def test_what_nobody_foresaw_comes_with_its_own_traceback():
    puppet = Puppet(script=lambda stream: stream.fail(ZeroDivisionError("a bug")))
    with pytest.raises((ZeroDivisionError, openai.APIConnectionError)) as caught:  # by the package's version
        Lab(puppet).client().chat.completions.create(model="puppet", messages=ASK)
    assert isinstance(caught.value.__cause__ or caught.value, ZeroDivisionError)


def test_the_models_and_what_is_not_there(client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "llmlab"
    with pytest.raises(openai.NotFoundError, match="'other' does not exist"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings"):
        client.embeddings.create(model="demo", input="x")


def test_the_clients_options_are_the_callers(demo):
    with demo.client(max_retries=3, timeout=5) as client:
        assert (client.max_retries, client.timeout) == (3, 5)


def test_a_closed_lab_is_not_there_any_more(tmp_path):
    from llmlab.testing import tiny_checkpoint

    lab = llmlab.load(tiny_checkpoint(tmp_path / "tiny"), slots=1)
    lab.close()
    with pytest.raises(openai.InternalServerError, match="this engine is closed; load the model again") as caught:
        lab.client().chat.completions.create(model="tiny", messages=ASK)
    assert caught.value.status_code == 503
