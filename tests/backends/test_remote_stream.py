"""Answers of an endpoint that are closed, dropped or interrupted leave no connection or thread, and keep what came."""

from __future__ import annotations

import concurrent.futures
import gc
import pickle
import subprocess
import sys
import threading
import time
import weakref
from contextlib import contextmanager

import openai
import pytest

import llmlab
from llmlab.backends.remote.event_loop import EventLoop
from llmlab.errors import EngineError
from llmlab.lab.lab import Lab
from llmlab.protocol.completion import NO_END_TOKEN
from tests.backends.endpoint import Endpoint, entry, spoken
from tests.serve.conftest import running
from tests.serve.puppet import Puppet, wait


@contextmanager
def connected(puppet: Puppet, *, served=None, **options):
    """A lab over a served puppet."""
    with running(puppet, **(served or {})) as server:
        lab = llmlab.connect(f"{server.url}/v1", quiet=True, **options)
        try:
            yield lab
        finally:
            lab.close()


def say(text):
    """A puppet's script: say it, and no more."""
    return lambda stream: stream.say(text)


def test_closing_drops_the_connection_and_keeps_what_was_read():
    puppet = Puppet(script=say("Hello"))
    with connected(puppet) as lab:
        stream = lab.stream("hello")
        text = ""
        while not text:
            text += next(stream).choices[0].delta.content or ""
        stream.close()
        wait(puppet.streams[0].closed.is_set)  # the server has seen it go, without another chunk
        assert stream.result().texts == [text] == ["Hello"]
        assert stream.result().finish_reasons == ["interrupted"]
        assert list(stream) == []


def test_closing_what_is_at_its_end_changes_nothing():
    lab = Endpoint(lambda body: spoken(entry("Hi", -1.0, raw=False))).lab()
    with lab.stream("hello") as stream:
        list(stream)
    assert stream.result().notes == ("logprobs: sent without bytes", NO_END_TOKEN) == lab.chat("hello").notes


def test_dropping_a_stream_drops_the_connection():
    puppet = Puppet(script=say("Hello"))
    with connected(puppet) as lab:
        stream = lab.backend.stream(lab.request("hello"))
        next(iter(stream))
        del stream
        wait(puppet.streams[0].closed.is_set)


def test_closing_before_anything_came():
    puppet = Puppet(script=lambda stream: None)
    with connected(puppet) as lab:
        stream = lab.backend.stream(lab.request("hello"))
        wait(lambda: puppet.streams)
        stream.close()
        wait(puppet.streams[0].closed.is_set)
        assert [choice.text for choice in stream.result().choices] == [""]


def test_closing_from_another_thread_ends_the_reader():
    with connected(Puppet(script=say("Hello"))) as lab:
        stream, read = lab.backend.stream(lab.request("hello")), []

        def reader():
            read.extend(stream)

        thread = threading.Thread(target=reader)
        thread.start()
        wait(lambda: read)
        stream.close()
        thread.join(30)
        assert not thread.is_alive()
        assert stream.result().choices[0].finish_reason == "interrupted"
        stream.close()


def test_closing_the_lab_ends_the_readers_with_an_error():
    """Also those whose turn had not come."""
    puppet = Puppet(slots=4, script=say("Hello"))
    with connected(puppet, concurrency=1) as lab:
        streams = [lab.backend.stream(lab.request("hello")) for _ in range(3)]
        next(iter(streams[0]))
        lab.close()
        for stream in streams:
            with pytest.raises(EngineError, match="closed"):
                stream.result()
        wait(puppet.streams[0].closed.is_set)


def test_an_interrupt_leaves_its_part_in_last(monkeypatch):
    class Bar:
        """A progress bar whose reader loses patience."""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def set_description_str(self, *_, **__): ...

        def update(self, count):
            raise KeyboardInterrupt

    monkeypatch.setattr("llmlab.results.reading.progress_bar", lambda **_: Bar())
    puppet = Puppet(script=say("Hello"))
    with connected(puppet) as lab:
        with pytest.raises(KeyboardInterrupt):
            lab.chat("hello", stop="!")
        assert (lab.last.text, lab.last.finish_reasons) == ("Hello", ["interrupted"])
        wait(puppet.streams[0].closed.is_set)
        assert lab.last.notes == ()  # nothing is concluded from a part


def test_a_full_queue_is_waited_for(monkeypatch):
    """429 with Retry-After, which the client follows."""
    refused, again = [], openai.AsyncOpenAI._should_retry

    def watched(self, response):
        refused.append(response.status_code)
        return again(self, response)

    monkeypatch.setattr(openai.AsyncOpenAI, "_should_retry", watched)
    puppet = Puppet(slots=1, script=say("Hello"))
    with connected(puppet, served={"max_queue": 0}) as lab:
        first = lab.backend.stream(lab.request("hello"))
        wait(lambda: puppet.streams)
        second = lab.backend.stream(lab.request("hello"))
        wait(lambda: refused == [429])
        puppet.streams[0].finish()
        assert first.result().choices[0].text == "Hello"
        wait(lambda: len(puppet.streams) == 2)
        puppet.streams[1].finish()
        assert second.result().choices[0].text == "Hello"


def test_a_reader_that_waits_is_told_so():
    puppet = Puppet(script=lambda stream: None)
    with connected(puppet) as lab:
        stream, told = lab.backend.stream(lab.request("hello")), []

        def tell(what):
            told.append(what)
            puppet.streams[0].finish()

        wait(lambda: puppet.streams)
        stream.on_wait(tell)
        stream.result()
        assert told[0] == "waiting"


def test_a_lab_that_is_dropped_leaves_no_thread():
    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "llmlab-remote"]

    gc.collect()
    wait(lambda: not threads())
    lab = Endpoint(lambda body: spoken(entry("a", -1.0))).lab()
    assert lab.chat("hello").text == "a" and len(threads()) == 1
    lab.last = None  # a result holds its lab
    del lab
    gc.collect()
    wait(lambda: not threads())


def loops(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


async def nothing():
    pass


def test_a_loop_that_is_collected_on_its_own_thread_ends():
    class Owner:
        """In a cycle with itself, so that only the garbage collector frees it."""

        def __init__(self):
            self.me, self.loop = self, EventLoop("collected-loop", on_close=nothing)
            weakref.finalize(self, self.loop.close, wait=False).atexit = False

    async def collect():
        gc.collect()

    gc.disable()  # so that no other thread collects it first
    try:
        owner = Owner()
        loop = owner.loop
        del owner
        assert len(loops("collected-loop")) == 1
        done = loop.submit(collect())
        del loop
        concurrent.futures.wait([done], timeout=60)
    finally:
        gc.enable()
    wait(lambda: not loops("collected-loop"))


def test_closing_a_busy_loop_from_a_finalizer_does_not_wait():
    free = threading.Event()

    async def hold():
        free.wait(60)

    loop = EventLoop("busy-loop", on_close=nothing)
    loop.submit(hold())
    began = time.monotonic()
    loop.close(wait=False)
    assert time.monotonic() - began < 2 and len(loops("busy-loop")) == 1
    free.set()
    wait(lambda: not loops("busy-loop"))


def test_an_endpoint_that_never_answers_does_not_keep_a_program_alive():
    program = (
        "import sys, llmlab\n"
        "lab = llmlab.connect(sys.argv[1], quiet=True)\n"
        "stream = lab.backend.stream(lab.request('hello'))\n"
        "print(next(iter(stream)).text)\n"
    )
    with running(Puppet(script=say("Hello"))) as server:
        done = subprocess.run(
            [sys.executable, "-c", program, f"{server.url}/v1"], capture_output=True, text=True, timeout=120
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello\n", "")


def test_a_result_with_notes_is_pickled_and_kept(tmp_path):
    lab = Endpoint(lambda body: spoken(entry("\ufffd", -1.0, raw=False))).lab()
    result = lab.chat("hello", seed=5)
    assert result.notes
    result.save(tmp_path / "result.parquet")
    for copy in (pickle.loads(pickle.dumps(result)), llmlab.Result.load(tmp_path / "result.parquet")):
        assert (copy.notes, copy.text, copy.usage) == (result.notes, result.text, result.usage)
        assert copy.logprobs_frame().equals(result.logprobs_frame())
        assert copy.logprobs_frame().token.tolist() == ["\ufffd"]


def test_a_client_over_an_endpoint():
    """The lab's own client passes on what the endpoint says."""
    client = Lab(Endpoint(lambda body: spoken(entry("Hi", -1.0))).backend()).client()
    ask = {"model": "somebody", "messages": [{"role": "user", "content": "hello"}]}
    assert client.chat.completions.create(**ask).choices[0].message.content == "Hi"
    with client.chat.completions.create(**ask, stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hi"
