"""/metrics counts what happened, in a text that Prometheus' own parser reads."""

from __future__ import annotations

import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.bodies import encoded, error_of, http, post
from tests.serve.puppet import Puppet, wait


def samples(server, **headers):
    """Name and labels -> value."""
    answer = http.get(server.url + "/metrics", headers=headers)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def total(found, name, **labels):
    return sum(value for key, value in found.items() if key[0] == name and set(labels.items()) <= set(key[1:]))


def test_what_happened_is_counted(running):
    puppet = Puppet(slots=2, script=lambda made: (made.say("Hello"), made.finish()))
    with running(puppet, max_queue=1) as server:
        assert total(samples(server), "llmlab_requests_total", path="/v1/chat/completions") == 0
        for stream in (False, True):
            assert post(server.url, encoded(stream=stream)).status_code == 200
        assert post(server.url, encoded(temperature=9)).status_code == 400
        for path in ("/v1/models/a/b", "/nowhere", "/nowhere/else", "/v1/models//"):
            http.get(server.url + path)
        found = samples(server)
        chat = {"path": "/v1/chat/completions"}
        assert total(found, "llmlab_requests_total", **chat, status="200") == 2
        assert total(found, "llmlab_requests_total", **chat, status="400") == 1
        assert total(found, "llmlab_requests_total", path="/v1/models/{model:path}", status="404") == 1
        assert total(found, "llmlab_requests_total", path="/v1/models", status="200") == 1
        assert total(found, "llmlab_requests_total", path="other", status="404") == 2
        assert not any("nowhere" in str(key) for key in found)
        assert total(found, "llmlab_prompt_tokens_total") == 2 * 3  # the puppet's prompt has three tokens
        assert total(found, "llmlab_completion_tokens_total") == 2 * len("Hello")
        assert total(found, "llmlab_answers_total", finish_reason="stop") == 2
        assert total(found, "llmlab_request_seconds_count", **chat) == 3
        assert total(found, "llmlab_first_token_seconds_count") == 2
        assert found["llmlab_first_token_seconds_bucket", ("le", "+Inf")] == 2
        assert 0 < total(found, "llmlab_first_token_seconds_sum") < total(found, "llmlab_request_seconds_sum", **chat)


def test_the_queue_and_the_slots_are_told_as_they_are(running, puppet):
    with running(puppet, max_queue=3) as server:
        client = server.client()
        streams = [
            client.chat.completions.create(
                model="puppet", messages=[{"role": "user", "content": "x"}], stream=True, n=n
            )
            for n in (1, 2)
        ]
        found = samples(server)
        named = ("slots", "places", "requests_inside", "answers_running", "answers_waiting")
        assert [found[(f"llmlab_{name}",)] for name in named] == [2, 5, 2, 2, 1]
        assert post(server.url, encoded(n=5)).status_code == 429
        for stream in streams:
            stream.close()
        wait(lambda: samples(server)[("llmlab_requests_inside",)] == 0)
        wait(lambda: samples(server)[("llmlab_clients_left_total",)] == 2)
        assert total(samples(server), "llmlab_requests_total", status="429") == 1


def test_a_key_guards_them(running):
    with running(Puppet(), api_key="k3y") as server:
        assert http.get(server.url + "/metrics").status_code == 401
        assert samples(server, authorization="Bearer k3y")[("llmlab_slots",)] == 2


def test_without_the_package_a_server_counts_nothing(running, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with running(Puppet(script=lambda made: (made.say("Hello"), made.finish()))) as server:
        assert post(server.url, encoded()).status_code == 200
        refused = http.get(server.url + "/metrics")
        assert refused.status_code == 404 and "prometheus-client" in error_of(refused)["message"]


def test_two_servers_in_one_process_count_for_themselves(running):
    puppets = [Puppet(script=lambda made: (made.say("Hello"), made.finish())) for _ in range(2)]
    with running(puppets[0]) as one, running(puppets[1]) as other:
        post(one.url, encoded())
        counts = [total(samples(server), "llmlab_completion_tokens_total") for server in (one, other)]
    assert counts == [5, 0]


@pytest.mark.parametrize("fields", [{"prompt": ["Once", "There was"], "n": 2, "max_tokens": 3, "ignore_eos": True}])
def test_the_answers_to_several_prompts_are_all_counted(running, demo, fields):
    with running(demo.backend) as server:
        with server.client() as client:
            extra = {"ignore_eos": fields.pop("ignore_eos")}
            answer = client.completions.create(model="demo", **fields, extra_body=extra)
        found = samples(server)
    assert total(found, "llmlab_prompt_tokens_total") == answer.usage.prompt_tokens
    assert total(found, "llmlab_completion_tokens_total") == answer.usage.completion_tokens == 12
    assert total(found, "llmlab_answers_total", finish_reason="length") == 4
