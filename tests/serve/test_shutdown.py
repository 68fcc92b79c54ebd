"""The end of a server: what runs is finished, what comes is refused, and the exit code is 0."""

from __future__ import annotations

import signal
import threading

import openai
import pytest

from llmlab.testing import tiny_checkpoint
from tests.serve.bodies import ASK, encoded, error_of, http, post
from tests.serve.process import Process
from tests.serve.puppet import wait

HTTP_ERRORS = (http.RemoteProtocolError, openai.APIConnectionError, http.ReadError)


def test_what_runs_is_finished_and_what_comes_is_refused(running, puppet):
    with running(puppet) as server:
        streaming = server.client().chat.completions.create(model="puppet", messages=ASK, stream=True)
        next(streaming)
        whole = []
        asking = threading.Thread(target=lambda: whole.append(post(server.url, encoded())))
        asking.start()
        wait(lambda: len(puppet.streams) == 2)
        server.loop.call_soon_threadsafe(server.server.close)
        wait(lambda: server.admission.closing)
        for refused in (post(server.url, encoded()), http.get(server.url + "/health"), http.get(server.url + "/x")):
            assert refused.status_code == 503 and error_of(refused)["code"] == "shutting_down"
        with pytest.raises(openai.InternalServerError) as caught:
            server.client().models.list()
        assert caught.value.status_code == 503
        for stream in puppet.streams:
            stream.say("done")
            stream.finish()
        assert [chunk.choices[0].delta.content for chunk in streaming][0] == "done"
        asking.join(timeout=30)
        assert whole[0].json()["choices"][0]["message"]["content"] == "done"
        server.thread.join(timeout=30)
        assert not server.thread.is_alive()


def test_a_second_signal_ends_it_at_once(running, puppet, caplog):
    with running(puppet) as server:
        stream = server.client().chat.completions.create(model="puppet", messages=ASK, stream=True)
        next(stream)
        server.server.handle_exit(signal.SIGTERM, None)
        wait(lambda: server.admission.closing)
        assert not server.server.should_exit
        server.server.handle_exit(signal.SIGTERM, None)
        server.thread.join(timeout=30)
        assert not server.thread.is_alive() and puppet.streams[0].closed.is_set()
        with pytest.raises(HTTP_ERRORS):
            list(stream)
    assert not [record.getMessage() for record in caplog.records if "Traceback" in record.getMessage()]


@pytest.fixture
def served(tmp_path):
    """The command with a small model."""
    model = str(tiny_checkpoint(tmp_path / "tiny"))
    process = Process("--model", model, "--slots", "2", log=tmp_path / "log", LLMLAB_API_KEY="k3y")
    yield process
    process.kill()


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(served):
    banner = served.banner
    assert "llmlab · tiny" in banner and "every request needs it" in banner and "k3y" not in banner
    client = openai.OpenAI(base_url=served.api, api_key="k3y", max_retries=0, timeout=60)
    secret = "the owl flies at midnight"
    chunks = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": secret}],
        max_tokens=300,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(chunks)
    served.tell_to_end()
    made = list(chunks)
    assert made[-1].choices[0].finish_reason == "length" and made[-1].usage.completion_tokens == 300
    client.close()
    assert served.end() == (0, "")
    assert "Traceback" not in served.log and secret not in served.log and "owl" not in served.log
    answered = next(line for line in served.lines if line.get("completion_tokens"))
    assert (answered["status"], answered["completion_tokens"], answered["stream"]) == (200, 300, True)
    assert answered["model"] == "tiny" and answered["finish_reasons"] == ["length"]
    assert 0 < answered["first_token_ms"] <= answered["ms"]
