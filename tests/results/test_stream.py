"""lab.stream: chunks as they come, the whole at the end, and nothing left running behind a reader who leaves."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

import llmlab
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.results import reading
from llmlab.results import stream as stream_module
from llmlab.testing import tiny_checkpoint
from tests.backends.client import accumulated

ENDLESS = {"ignore_eos": True, "seed": 1}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    lab = llmlab.load(tiny_checkpoint(tmp_path_factory.mktemp("tiny")), slots=4, max_context=512, quiet=True)
    yield lab
    lab.close()


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": True}])
def test_the_shapes_of_the_chunks(lab: Lab, options: dict[str, bool] | None) -> None:
    fields = {"n": 3, "seed": 5, "max_tokens": 20, "logprobs": True, "top_logprobs": 2, "stream_options": options}
    chunks = list(lab.stream("hello", **fields))
    assert all(type(chunk) is ChatCompletionChunk for chunk in chunks)
    whole = accumulated(chunks, lab.request("hello", stream=True, **fields))
    assert [choice.message.content for choice in whole.choices] == lab.chat("hello", n=3, seed=5, max_tokens=20).texts
    for chunk in chunks:
        again = ChatCompletionChunk.model_validate_json(chunk.model_dump_json())
        assert again == chunk
    indices = [chunk.choices[0].index for chunk in chunks if chunk.choices]
    assert indices != sorted(indices), "the choices are interleaved"


def test_a_result_can_be_had_at_any_time(lab: Lab) -> None:
    whole = lab.chat("hello", seed=3, max_tokens=30)
    stream = lab.stream("hello", seed=3, max_tokens=30)
    assert stream.seed == 3 and "seed 3" in repr(stream)
    next(stream)
    result = stream.result()
    assert result is stream.result() is lab.last
    assert (result.text, result.request) == (whole.text, whole.request)
    assert list(stream) == [], "what the result has read is gone"
    assert lab.chat(result.request).text == whole.text


def test_how_an_answer_travels_is_the_methods_business(lab: Lab) -> None:
    with pytest.raises(RequestError, match=r"lab\.stream") as caught:
        lab.chat("hello", stream=True)
    assert caught.value.param == "stream"
    request = lab.request("hello", stream=True, stream_options={"include_usage": True}, max_tokens=3)
    assert list(lab.stream(request))[-1].usage is not None
    with pytest.raises(RequestError, match="temperature"):
        lab.stream("hello", temperature=3)


@pytest.mark.parametrize(
    "leave",
    [
        lambda stream: stream.close(),
        lambda stream: stream.__exit__(None, None, None),
        lambda stream: None,  # dropped
    ],
    ids=["closed", "left", "dropped"],
)
def test_a_reader_who_leaves_frees_the_slots_within_a_chunk(lab: Lab, leave: Callable[..., None]) -> None:
    engine = lab.backend.engine
    may_run, ran, run = threading.Semaphore(1), [], engine._lanes.run

    def held(**options: Any) -> Any:
        """Chunk after chunk as the test allows them, so that the rows are there however slow the reader is."""
        may_run.acquire()
        ran.append(1)
        return run(**options)

    engine._lanes.run = held
    try:
        stream = lab.stream("hello", n=4, **ENDLESS)
        for _ in range(6):
            next(stream)
        assert len(engine._lanes.live) == 4 and len(ran) == 1
        gone = weakref.ref(stream)
        gc.disable()
        leave(stream)
        del stream
        assert gone() is None
        may_run.release(1000)
        until(lambda: not engine._lanes.live)
        # The one that was under way when the reader left.
        assert len(ran) <= 2
    finally:
        may_run.release(1000)
        gc.enable()
        engine._lanes.run = run
    assert lab.chat("hello", n=4, max_tokens=2, **ENDLESS).usage.completion_tokens == 8


def test_a_stream_that_was_closed_keeps_what_it_made(lab: Lab) -> None:
    with lab.stream("hello", n=2, **ENDLESS) as stream:
        text = "".join(next(stream).choices[0].delta.content or "" for _ in range(4))
    assert list(stream) == []
    result = stream.result()
    assert result.finish_reasons == ["interrupted"] * 2
    assert text and any(each.startswith(text[:3]) for each in result.texts)
    whole = lab.chat("hello", n=2, max_tokens=300, **ENDLESS)
    for part, all_of_it in zip(result.choices, whole.choices, strict=True):
        made = part.tokens.ids.tolist()
        assert made == all_of_it.tokens.ids.tolist()[: len(made)]


def test_an_interrupted_stream_leaves_its_part_in_last(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lab.stream("hello", **ENDLESS)
    first = [next(stream), next(stream)][1].choices[0].delta.content

    def interrupt(**chunk):
        raise KeyboardInterrupt

    monkeypatch.setattr(ChatCompletionChunk, "construct", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        next(stream)
    assert any("lab.last" in note for note in caught.value.__notes__)
    assert lab.last is stream.result() and lab.last.text.startswith(first)
    assert lab.last.finish_reasons == ["interrupted"]


def test_an_interrupt_of_a_growing_result_leaves_its_part_in_last(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([0.0] * 40)

    def impatient() -> float:
        if next(waits, None) is None:
            raise KeyboardInterrupt
        return time.monotonic()

    stream = lab.stream("hello", **ENDLESS)
    monkeypatch.setattr(stream_module, "time", SimpleNamespace(monotonic=impatient))
    with pytest.raises(KeyboardInterrupt) as caught:
        list(stream.partial_results(every=0))
    monkeypatch.undo()
    assert any("lab.last" in note for note in caught.value.__notes__)
    assert lab.last is stream.result() and lab.last.finish_reasons == ["interrupted"]
    assert len(lab.last.choices[0].tokens) > 0
    until(lambda: not lab.backend.engine._lanes.live)


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_chat_leaves_its_part_in_last(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar:
        """A progress bar whose reader loses patience."""

        def __enter__(self) -> Bar:
            self.tokens = 0
            return self

        def __exit__(self, *error: object) -> None: ...

        def set_description_str(self, *text: object, **options: object) -> None: ...

        def update(self, tokens: int) -> None:
            self.tokens += tokens
            if self.tokens > 20:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(reading, "progress_bar", lambda **_: Bar())
    with pytest.raises(KeyboardInterrupt) as caught:
        lab.chat("hello", n=2, **ENDLESS)
    monkeypatch.undo()
    assert any("lab.last" in note for note in caught.value.__notes__)
    part = lab.last
    assert part is not None and part.finish_reasons == ["interrupted"] * 2
    assert sum(len(choice.tokens) for choice in part.choices) > 20
    until(lambda: not lab.backend.engine._lanes.live)
    whole = lab.chat("hello", n=2, max_tokens=300, **ENDLESS)
    assert all(all_of_it.startswith(text) for text, all_of_it in zip(part.texts, whole.texts, strict=True))


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; a minute is not meant to be reached."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("waited for a minute")
