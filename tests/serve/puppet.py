"""A backend whose answers come when a test says so, which tells what the server does from what a model does."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from llmlab.errors import ModelNotFoundError
from llmlab.protocol.backend import Backend
from llmlab.protocol.completion import Choice, Completion, Delta, Header, Timing, Tokens
from llmlab.protocol.request import ChatRequest

_END = object()


def tokens(text: str) -> Tokens:
    """A token a character, without figures worth a look."""
    T = len(text)
    ones, counts = np.zeros(T, np.float32), np.ones(T, np.int32)
    wide = np.zeros((T, 0), np.float32)
    return Tokens(
        ids=np.array([ord(c) for c in text], np.int32),
        bytes=tuple(c.encode() for c in text),
        segment=("content",) * T,
        lead=np.zeros(T, np.int32),
        overhang=np.zeros(T, np.int32),
        logprob=ones,
        sampling_logprob=ones,
        rank=counts,
        entropy=ones,
        sampling_entropy=ones,
        margin=ones,
        kept=counts,
        top_ids=wide.astype(np.int32),
        top_bytes=((),) * T,
        top_logprob=wide,
        top_sampling_logprob=wide,
    )


class PuppetStream:
    """One answer: `say` a text, `finish` it or `fail` it from any thread."""

    reported_usage = None

    def __init__(self, request: ChatRequest, name: str):
        self.header = Header(
            id="chatcmpl-puppet",
            created=1,
            model=name,
            request=request,
            seed=request.seed or 0,
            prompt_ids=np.arange(3, dtype=np.int32),
            system_fingerprint="puppet",
        )
        self.closed = threading.Event()
        self._said: queue.Queue[object] = queue.Queue()
        self._text = ""

    def say(self, text: str) -> None:
        self._said.put(text)

    def finish(self) -> None:
        self._said.put(_END)

    def fail(self, error: Exception) -> None:
        self._said.put(error)

    def __iter__(self) -> Iterator[Delta]:
        while True:
            said = self._said.get(timeout=60)
            if isinstance(said, Exception):
                raise said
            if said is _END:
                if not self.closed.is_set():
                    yield Delta(index=0, text="", tokens=tokens(""), finish_reason="stop")
                return
            self._text += str(said)
            yield Delta(index=0, text=str(said), tokens=tokens(str(said)), finish_reason=None)

    def on_wait(self, tell: Callable[[str], None]) -> None:
        pass

    def on_restart(self, tell: Callable[[], None]) -> None:
        pass

    def result(self) -> Completion:
        choice = Choice(index=0, text=self._text, tokens=tokens(self._text), finish_reason="stop")
        return Completion(**vars(self.header), choices=(choice,), timing=Timing(first_token=0.0, total=0.0))

    def close(self) -> None:
        self.closed.set()
        self._said.put(_END)


class Puppet(Backend):
    """A backend; `streams` are the answers that are under way, in the order in which they were asked for."""

    name = "puppet"

    def __init__(self, *, slots: int = 2, script: Callable[[PuppetStream], None] | None = None):
        self.streams: list[PuppetStream] = []
        self._slots = slots
        self._script = script

    def stream(self, request: ChatRequest, *, order: str = "llmlab") -> PuppetStream:
        if request.model not in (None, self.name):
            raise ModelNotFoundError(f"the model {request.model!r} does not exist", param="model")
        stream = PuppetStream(request, self.name)
        if self._script:
            self._script(stream)
        self.streams.append(stream)
        return stream

    def complete(self, request: ChatRequest, *, order: str = "llmlab") -> Completion:
        return self.stream(request, order=order).result()

    def describe(self) -> dict[str, object]:
        return {"model": self.name, "slots": self._slots, "context": 64, "dtype": "float32"}


def wait(what: Callable[[], object], *, seconds: float = 60, every: float = 0.005) -> None:
    """Until it is so; a test that waits in vain fails."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)
