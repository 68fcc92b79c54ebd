"""The log: a line of JSON a request, with figures and reasons, and nothing of what was said."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from llmlab.serve.logs import LOG, JsonLines
from tests.serve.bodies import encoded, http, post, vanish
from tests.serve.puppet import Puppet, wait

SECRET = "the owl flies at midnight"


@pytest.fixture
def lines():
    """The lines that were logged, as they would be written."""
    written: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record):
            written.append(self.format(record))

    keep = Keep()
    keep.setFormatter(JsonLines())
    LOG.addHandler(keep)
    LOG.setLevel(logging.INFO)
    yield written
    LOG.removeHandler(keep)
    LOG.setLevel(logging.NOTSET)


def says_a_secret(stream):
    stream.say(SECRET)
    stream.finish()


def fails(stream):
    stream.fail(RuntimeError(SECRET))


@pytest.mark.parametrize("stream", [False, True])
def test_an_answered_request(running, lines, stream):
    with running(Puppet(script=says_a_secret)) as server:
        answer = post(server.url, encoded(messages=[{"role": "user", "content": SECRET}], stream=stream, n=1))
    assert SECRET in answer.text or stream
    (line,) = map(json.loads, lines)
    assert line.pop("id") == answer.headers["x-request-id"] and line.pop("time").endswith("+00:00")
    assert 0 <= line.pop("first_token_ms") <= line.pop("ms")
    assert line == {
        "level": "info", "event": "request", "method": "POST", "path": "/v1/chat/completions", "status": 200,
        "model": "puppet", "stream": stream, "n": 1, "completion": "chatcmpl-puppet", "prompt_tokens": 3,
        "completion_tokens": len(SECRET), "finish_reasons": ["stop"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": SECRET}, "temperature"),
        ({"messages": SECRET}, "messages"),
        ({SECRET: 1}, "unknown"),
        ({"model": SECRET}, "model"),
    ],
)
def test_a_refused_request(running, lines, puppet, fields, param):
    with running(puppet) as server:
        refused = post(server.url, encoded(**fields))
    (line,) = map(json.loads, lines)
    assert (line["status"], line["param"]) == (refused.status_code, param) and line["error"]
    assert SECRET not in lines[0]


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_foresaw_says_where_and_not_what(running, lines, stream, unforeseen):
    with running(Puppet(script=fails)) as server:
        answer = post(server.url, encoded(stream=stream))
    assert answer.status_code == (200 if stream else 500) and "its log says where" in answer.text
    bad, line = map(json.loads, lines)
    assert (bad["level"], bad["event"], bad["exception"]) == ("error", "unforeseen", "RuntimeError")
    assert "puppet.py" in bad["at"][-1] and line["status"] == answer.status_code
    assert SECRET not in answer.text + "".join(lines)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_left_is_no_failure(running, lines, stream):
    """Also where the answer that is closed under its reader complains."""
    puppet = Puppet(script=lambda made: (made.say("Once"), setattr(made, "close", lambda: fails(made))))
    with running(puppet) as server:
        data = encoded(stream=stream)
        asyncio.run(vanish(server.port, data, reads=300 * stream))
        wait(lambda: len(lines) == 1 and not server.admission.inside)
    (line,) = map(json.loads, lines)
    assert line["left"] is True and line["level"] == "info" and line["status"] == (200 if stream else 0)


def test_a_path_is_cut(running, lines, puppet):
    with running(puppet) as server:
        http.get(f"{server.url}/{'x' * 5000}?key={SECRET}")
    (line,) = map(json.loads, lines)
    assert len(line["path"]) == 100 and SECRET not in lines[0]
