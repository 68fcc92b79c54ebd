"""The real `openai` client against a running server."""

from __future__ import annotations

import json
import re
import threading

import openai
import pytest

from llmlab.protocol.request import ChatRequest
from llmlab.protocol.wire import completion_json
from tests.serve.bodies import ASK, encoded, error_of, http, post
from tests.serve.puppet import Puppet, wait

LONG = [{"role": "user", "content": "owl " * 600}]


def hello(stream):
    stream.say("Hello")
    stream.say(" there")
    stream.finish()


@pytest.fixture
def client(server):
    return server.client()


def test_an_answer_is_the_backends(client, demo):
    fields = {"seed": 3, "max_tokens": 12, "n": 2, "logprobs": True, "top_logprobs": 2, "temperature": 0.7}
    answer = client.chat.completions.create(model="demo", messages=ASK, **fields)
    here = completion_json(demo.backend.complete(ChatRequest(messages=ASK, **fields)))
    got = answer.model_dump(exclude_unset=True)
    assert got.pop("id").startswith("chatcmpl-") and got.pop("created") <= here.pop("created") and here.pop("id")
    assert got == here


def test_a_streams_text_is_the_whole_answers_and_comes_in_pieces(client):
    fields = {"model": "demo", "messages": ASK, "seed": 4, "max_tokens": 60, "extra_body": {"ignore_eos": True}}
    with client.chat.completions.create(**fields, stream=True) as stream:
        chunks = list(stream)
    answer = client.chat.completions.create(**fields)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content and len(chunks) > 3
    assert chunks[-1].choices[0].finish_reason == "length" and chunks[-1].usage == answer.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_comes_as_it_is_made(running, puppet):
    with running(puppet) as server:
        stream = server.client().chat.completions.create(model="puppet", messages=ASK, stream=True)
        assert next(stream).choices[0].delta.role == "assistant"
        for said in ("One", " two"):
            puppet.streams[0].say(said)
            assert next(stream).choices[0].delta.content == said
        puppet.streams[0].finish()
        assert [chunk.choices[0].finish_reason for chunk in stream] == ["stop"]


def test_a_stream_says_that_it_is_still_there(running, puppet):
    with running(puppet, silence=0.05) as server:
        client = server.client()
        with client.chat.completions.with_streaming_response.create(
            model="puppet", messages=ASK, stream=True
        ) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: {") and next(lines) == ""
            assert next(lines) == ": waiting" and next(lines) == ""
            puppet.streams[0].finish()
            rest = [line for line in lines if line.startswith("data: ")]
    assert json.loads(rest[0].removeprefix("data: "))["choices"][0]["finish_reason"] == "stop"
    assert rest[-1] == "data: [DONE]"


@pytest.mark.parametrize("include", [None, False, True])
def test_a_streams_usage_is_where_its_options_say(client, include):
    options = {} if include is None else {"stream_options": {"include_usage": include}}
    stream = client.chat.completions.create(model="demo", messages=ASK, max_tokens=4, seed=1, stream=True, **options)
    chunks = list(stream)
    with_usage = [i for i, chunk in enumerate(chunks) if chunk.usage is not None]
    assert with_usage == ([] if include is False else [len(chunks) - 1])
    assert (chunks[-1].choices == []) is (include is True)


def test_the_raw_response_has_the_requests_id(client):
    raw = client.chat.completions.with_raw_response.create(model="demo", messages=ASK, max_tokens=2)
    assert raw.status_code == 200 and raw.headers["content-type"] == "application/json"
    assert re.fullmatch("req_[0-9a-f]{24}", raw.headers["x-request-id"])
    assert raw.parse().usage.completion_tokens <= 2


def test_the_models(client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").context_length == 512
    with pytest.raises(openai.NotFoundError, match="'other' does not exist") as caught:
        client.models.retrieve("other")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_models_name_may_have_slashes(running):
    puppet = Puppet()
    puppet.name = "some/where/model"
    with running(puppet) as server:
        assert server.client().models.retrieve("some/where/model").id == "some/where/model"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "error", "param", "code"),
    [
        ({"temperature": 2.5}, openai.BadRequestError, "temperature", None),
        ({"messages": []}, openai.BadRequestError, "messages", None),
        ({"messages": LONG}, openai.BadRequestError, "messages", "context_length_exceeded"),
        ({"logit_bias": {"99999": 1}}, openai.BadRequestError, "logit_bias", None),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature", None),
        ({"model": "gpt-4"}, openai.NotFoundError, "model", "model_not_found"),
    ],
)  # fmt: skip
def test_an_error_is_the_clients_own_class_and_names_the_field(client, fields, error, param, code, stream):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "demo", "messages": ASK, "stream": stream, **fields})
    assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")


def test_a_path_or_a_method_that_is_not_there(server, client):
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings: this path does not exist") as caught:
        client.embeddings.create(model="demo", input="x")
    assert caught.value.code == "unknown_path"
    with pytest.raises(openai.APIStatusError, match="takes POST") as caught:
        client.get("/chat/completions", cast_to=object)
    assert (caught.value.status_code, caught.value.code) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "path", ["/v1/models/", "/v1//models", "//v1/models//", "/health/", "/v1/models/demo/", "/docs/"]
)
def test_slashes_too_many_change_nothing(server, demo, path):
    plain = re.sub("/{2,}", "/", path).rstrip("/")
    found, meant = (http.get(server.url + one) for one in (path, plain))
    assert found.status_code == meant.status_code == 200 and found.content == meant.content
    if path.startswith("/v1/"):
        with demo.client() as client:
            assert client.get("http://llmlab.invalid" + path, cast_to=object)


def test_a_body_reaches_a_path_with_a_slash_at_its_end(server):
    asked = encoded(max_tokens=2, seed=1)
    found, meant = (post(server.url, asked, path=f"/v1/chat/completions{end}") for end in ("/", ""))
    assert found.status_code == 200 and found.json()["choices"] == meant.json()["choices"]
    assert http.get(server.url + "/v1/chat/completions/").status_code == 405
    assert http.get(server.url + "/").status_code == http.get(server.url + "//").status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/", "//v1/models", "/v1//models", "/tokenize", "/metrics", "/x"]
)
def test_a_key_is_asked_for_at_every_path_however_it_is_written(running, path):
    with running(Puppet(), api_key="s3cret") as server:
        refused = http.get(server.url + path)
        assert refused.status_code == 401 and error_of(refused)["code"] == "invalid_api_key"
        for free in ("/health", "/health/", "/docs", "/openapi.json"):
            assert http.get(server.url + free).status_code == 200


def test_a_key_lets_in_and_nothing_else_does(running):
    with running(Puppet(script=hello), api_key="s3cret") as server:
        assert server.client(api_key="s3cret").chat.completions.create(model="puppet", messages=ASK).id
        for wrong in ("s3cre", "s3cret2", "S3CRET"):
            with pytest.raises(openai.AuthenticationError) as caught:
                server.client(api_key=wrong).models.list()
            assert caught.value.code == "invalid_api_key"
            assert caught.value.response.headers["www-authenticate"] == "Bearer"
        for header in ("", "s3cret", "Basic s3cret", "Bearer", "bearer"):
            refused = post(server.url, encoded(), authorization=header)
            assert refused.status_code == 401 and error_of(refused)["code"] == "invalid_api_key"
        # Whoever watches over the server need not be let in, and the documentation is no secret.
        assert [http.get(server.url + path).status_code for path in ("/health", "/docs", "/openapi.json")] == [200] * 3


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server, client):
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "x" * 10_000_000}])
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")
    # Without an announced length it is counted as it comes.
    chunked = post(server.url, iter([b"x" * 2**20] * 12))
    assert chunked.status_code == 413 and error_of(chunked)["param"] == "body"


def test_a_full_queue_is_429_and_the_clients_own_retries_get_through(running):
    puppet = Puppet(slots=1)
    with running(puppet, max_queue=1) as server:
        answers: list[str] = []

        def ask(**options):
            answer = server.client(**options).chat.completions.create(model="puppet", messages=ASK)
            answers.append(answer.choices[0].message.content)

        inside = [threading.Thread(target=ask) for _ in range(2)]
        for thread in inside:
            thread.start()
        wait(lambda: len(puppet.streams) == 2)
        with pytest.raises(openai.RateLimitError) as caught:
            ask()
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["retry-after"]) == 1
        late = threading.Thread(target=ask, kwargs={"max_retries": 20})
        late.start()
        for stream in puppet.streams[:2]:
            hello(stream)
        wait(lambda: len(puppet.streams) == 3)
        hello(puppet.streams[2])
        for thread in (*inside, late):
            thread.join(timeout=30)
        assert answers == ["Hello there"] * 3 and server.admission.inside == 0


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (openai.APIError, "the device is on fire"),
        (RuntimeError, "the server failed"),
    ],
)
def test_a_failure_under_way_is_told(running, puppet, caplog, error, says, unforeseen):
    from llmlab.errors import EngineError

    failure = EngineError("the device is on fire") if error is openai.APIError else RuntimeError("a secret")
    with running(puppet) as server:
        stream = server.client().chat.completions.create(model="puppet", messages=ASK, stream=True)
        next(stream)
        puppet.streams[0].fail(failure)
        with pytest.raises(openai.APIError, match=says):
            list(stream)
        lines = []

        def whole():
            try:
                server.client().chat.completions.create(model="puppet", messages=ASK)
            except openai.InternalServerError as caught:
                lines.append((caught.status_code, caught.message))

        thread = threading.Thread(target=whole)
        thread.start()
        wait(lambda: len(puppet.streams) == 2)
        puppet.streams[1].fail(failure)
        thread.join(timeout=30)
        assert lines[0][0] == 500 and says in lines[0][1]
        assert server.admission.inside == 0
    assert "secret" not in caplog.text
