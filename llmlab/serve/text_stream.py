"""The prompts of one request, answered together: they are started at once, and read as their tokens come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from llmlab.errors import RequestError
from llmlab.protocol.backend import Backend, GivenTokens, LogitsBackend, Stream
from llmlab.protocol.completion import Completion, Delta, Header
from llmlab.protocol.completions_request import CompletionsRequest
from llmlab.protocol.legacy_logprobs import Echo, echo_of
from llmlab.protocol.text_completion import TextCompletion

__all__ = ["PromptsStream", "start"]

_NOTHING = np.zeros(0, np.int32)

#: The most threads that read the prompts of one request.
_READERS = 32


def start(backend: Backend, request: CompletionsRequest) -> PromptsStream:
    """Starts a request's prompts: those of a stream at once, so that an error is told before any event.

    Raises:
        LLMLabError: the model cannot honour a field; a prompt of a stream does not fit its context.
    """
    stream = PromptsStream(backend, request)
    if request.stream:
        stream.begin()
    return stream


class PromptsStream:
    """The answers to the prompts of one request, in progress; see `text_completion.TextStream`.

    The noise of an answer is that of its index among all answers of the request, so two prompts that are alike get
    different answers, and the first prompt the ones that it gets alone.

    Args:
        backend: the backend that answers.
        request: the request.

    Raises:
        RequestError: the backend is an endpoint elsewhere, and the request wants more than to go on with one prompt.
    """

    def __init__(self, backend: Backend, request: CompletionsRequest) -> None:
        self.request = request
        self.headers: list[Header] = []
        self.echoes: tuple[Echo, ...] = ()
        self._backend = backend
        self._streams: list[Stream] = []
        self._closed = False
        wants = {
            "prompt": len(request.prompts) > 1,
            "max_tokens": request.max_tokens == 0,
            "echo": request.echo,
        }
        if any(wants.values()) and not isinstance(backend, LogitsBackend):
            field = next(name for name in wants if wants[name])
            said = {"prompt": "is a list of prompts", "max_tokens": "is 0", "echo": "is true"}[field]
            raise RequestError(f"{field} {said}: only a model that runs in this process takes that", param=field)

    def begin(self) -> None:
        """Start all prompts, those that are only scored to their end; does nothing if they are started.

        Raises:
            LLMLabError: as in `start`.
        """
        if self._streams:
            return
        try:
            with self._backend.together():
                for number in range(len(self.request.prompts)):
                    if self._closed:
                        return
                    self._streams.append(self._started(number))
        except BaseException:
            self.close()
            raise
        if self._closed:  # while the last one was started
            self.close()
        self.headers = [stream.header for stream in self._streams]
        if self.request.echo:
            assert isinstance(self._backend, LogitsBackend)
            table, names = self._backend.token_bytes, self._backend.token_names
            both = zip(self.request.prompts, self.headers, strict=True)
            self.echoes = tuple(echo_of(one.prompt, header.prompt_ids.tolist(), table, names) for one, header in both)

    def _started(self, number: int) -> Stream:
        prompt, backend = self.request.prompts[number], self._backend
        seed = self._streams[0].header.seed if number else prompt.seed
        indices = range(number * self.request.best_of, (number + 1) * self.request.best_of)
        if self.request.max_tokens == 0:
            assert isinstance(backend, LogitsBackend)
            return _Finished(backend.score(prompt, [GivenTokens(i, _NOTHING, "length") for i in indices], seed=seed))
        if number == 0:
            return backend.stream(prompt)
        assert isinstance(backend, LogitsBackend) and seed is not None
        return backend.continue_from(prompt, [GivenTokens(i, _NOTHING) for i in indices], seed=seed)

    def __iter__(self) -> Iterator[Delta]:
        self.begin()
        yield from self._streams[0] if len(self._streams) == 1 else _interleaved(self._streams)

    def result(self) -> TextCompletion:
        """Run to the end; returns all answers."""
        self.begin()
        return TextCompletion(self.request, tuple(stream.result() for stream in self._streams), self.echoes)

    def close(self) -> None:
        """Stop the work. May be called at any time, and more than once."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()


class _Finished:
    """A completion as a stream that is at its end."""

    def __init__(self, completion: Completion) -> None:
        self.header: Header = completion
        self._completion = completion

    def __iter__(self) -> Iterator[Delta]:
        for choice in self._completion.choices:
            yield Delta(choice.index, choice.text, choice.tokens, choice.finish_reason)

    def on_wait(self, tell: object) -> None:
        """There is nothing to wait for."""

    def on_restart(self, tell: object) -> None:
        """It is at its end."""

    def result(self) -> Completion:
        return self._completion

    def close(self) -> None:
        """There is nothing to stop."""


def _interleaved(streams: Sequence[Stream]) -> Iterator[Delta]:
    """Yields the deltas of several streams as they come. Each has a thread; where they are many, threads share them."""
    found: queue.SimpleQueue[Delta | BaseException | None] = queue.SimpleQueue()

    def read(share: Sequence[Stream]) -> None:
        try:
            for stream in share:
                for delta in stream:
                    found.put(delta)
        except BaseException as error:  # raised again on the thread that reads all of them
            found.put(error)
        else:
            found.put(None)

    left = min(len(streams), _READERS)
    for reader in range(left):
        threading.Thread(target=read, args=(streams[reader::left],), name="llmlab-prompt", daemon=True).start()
    while left:
        delta = found.get()
        if isinstance(delta, BaseException):
            raise delta
        if delta is None:
            left -= 1
        else:
            yield delta
