"""Several prompts at once: read as their tokens come, stopped where the client leaves, and no error lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from llmlab.errors import EngineError, RequestError
from llmlab.protocol.completion import Delta
from llmlab.protocol.completions_request import CompletionsRequest
from llmlab.serve import text_stream
from llmlab.serve.text_stream import PromptsStream, _interleaved, start
from tests.serve.puppet import Puppet, tokens


class Slow:
    """A stream whose second delta comes after everybody's first was read."""

    def __init__(self, index: int, barrier: threading.Event | None = None, error: Exception | None = None) -> None:
        self._index, self._barrier, self._error = index, barrier, error
        self.header: Any = None
        self.closed = False

    def __iter__(self) -> Iterator[Delta]:
        yield Delta(self._index, "a", tokens("a"), None)
        if self._barrier is not None:
            assert self._barrier.wait(30)
        if self._error is not None:
            raise self._error
        yield Delta(self._index, "b", tokens("b"), "stop")

    def on_wait(self, tell: Any) -> None:
        pass

    def on_restart(self, tell: Any) -> None:
        pass

    def result(self) -> Any:
        raise AssertionError

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("count", [2, 5, 40])
def test_no_prompt_waits_for_the_end_of_another(count, monkeypatch):
    monkeypatch.setattr(text_stream, "_READERS", 64)
    barrier, seen = threading.Event(), []
    for delta in _interleaved([Slow(index, barrier) for index in range(count)]):
        seen.append((delta.index, delta.text))
        if len(seen) == count:
            barrier.set()
    assert sorted(seen[:count]) == [(index, "a") for index in range(count)]
    assert sorted(seen[count:]) == [(index, "b") for index in range(count)]


def test_more_prompts_than_threads_are_all_read():
    before = threading.active_count()
    seen = [(delta.index, delta.text) for delta in _interleaved([Slow(index) for index in range(300)])]
    assert sorted(seen) == sorted((index, text) for index in range(300) for text in "ab")
    assert threading.active_count() <= before + 32


def test_the_error_of_one_is_the_error_of_all():
    with pytest.raises(EngineError, match="out of order"):
        list(_interleaved([Slow(0), Slow(1, error=EngineError("out of order")), Slow(2)]))


def request(**fields: Any) -> CompletionsRequest:
    return CompletionsRequest.read(fields)


def test_a_client_that_leaves_ends_the_scoring(demo, monkeypatch):
    """What is left of a batch of prompts is not scored for nobody."""
    stream, scored = start(demo.backend, request(prompt=[[9, 10]] * 50, echo=True, logprobs=1, max_tokens=0)), []
    score = type(demo.backend.engine).score

    def leaves(*args, **options):
        scored.append(1)
        if len(scored) == 3:
            stream.close()
        return score(*args, **options)

    monkeypatch.setattr(type(demo.backend.engine), "score", leaves)
    list(stream)
    assert len(scored) == 3


def test_an_error_of_one_prompt_ends_those_before_it(demo):
    long = [9] * 600
    for stream in (False, True):
        asked = request(prompt=[[9], [10], long], stream=stream, ignore_eos=True, max_tokens=400)
        with pytest.raises(RequestError, match="leaves no room"):
            list(start(demo.backend, asked))
    # Nothing goes on: a row that was left would keep the engine busy.
    assert demo.complete([9], max_tokens=2, seed=1).data.completion_tokens <= 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"prompt": ["a", "b"]}, "prompt"), ({"echo": True}, "echo"), ({"max_tokens": 0}, "max_tokens")],
)
def test_an_endpoint_elsewhere_goes_on_with_one_prompt_only(fields, param):
    puppet = Puppet(script=lambda stream: [stream.say("Hello"), stream.finish()])
    with pytest.raises(RequestError, match="in this process") as caught:
        start(puppet, request(**{"prompt": "a", **fields}))
    assert caught.value.param == param
    done = start(puppet, request(prompt="a"))
    assert "".join(delta.text for delta in done) == "Hello" and done.result().choices[0].text == "Hello"


def test_interleaved_answers_are_the_ones_alone(demo):
    """The noise of an answer is that of its index: whatever runs beside it."""
    prompts = ["Once upon a time", "There was", [9, 10]]
    done = PromptsStream(demo.backend, request(prompt=prompts, n=2, seed=5, max_tokens=12)).result()
    for number, prompt in enumerate(prompts):
        alone = demo.complete(prompt, n=2 * number + 2, seed=5, max_tokens=12).data.choices[2 * number :]
        for one, other in zip(done.completions[number].choices, alone, strict=True):
            assert one.index == other.index and np.array_equal(one.tokens.ids, other.tokens.ids)
            assert np.array_equal(one.tokens.logprob, other.tokens.logprob)
