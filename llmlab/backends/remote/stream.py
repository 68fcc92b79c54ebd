"""A request to an endpoint under way: its chunks as deltas, and the whole, with notes of the endpoint's habits."""

from __future__ import annotations

import queue
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.backends.remote.attempts import PROCESSED, Asking, Said, placed
from llmlab.backends.remote.deviations import habits
from llmlab.backends.remote.errors import unreadable
from llmlab.backends.remote.logprobs import Names, tokens_of
from llmlab.backends.remote.parse import Answer
from llmlab.errors import EngineError
from llmlab.protocol.completion import Choice, Completion, Delta, Header, Timing
from llmlab.protocol.request import Request

if TYPE_CHECKING:
    from llmlab.backends.remote.backend import RemoteBackend

#: How often a reader that waits is told so.
WAIT_SECONDS = 0.5


class RemoteStream:
    """Iterate for deltas, or ask for the whole; `close` drops the connection, and what has been read stays.

    The connection is dropped too when nobody holds the stream any more.

    Args:
        backend: whom to ask.
        request: what to ask.
        seed: the request's, or the one drawn for it.
        submit: starts the work on the backend's event loop.
    """

    def __init__(
        self,
        backend: RemoteBackend,
        request: Request,
        *,
        seed: int,
        submit: Callable[[Coroutine[Any, Any, None]], Future[None]],
    ) -> None:
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._told = _Told(request, where=backend.where)
        self.header = Header(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=backend.name,
            request=request,
            seed=seed,
            prompt_ids=np.zeros(0, np.int32),
            system_fingerprint="",
            control_tokens=self._told.names.texts,
        )
        # Neither the work nor the generator knows this object: a stream that is dropped must go at once.
        self._work = submit(Asking(backend, request, seed=seed, put=events.put).run())
        self._work.add_done_callback(lambda work: events.put(_closed() if work.cancelled() else None))
        self._events = events
        self._deltas = _deltas(events, self._told)
        weakref.finalize(self, self._work.cancel).atexit = False

    def __iter__(self) -> Iterator[Delta]:
        return self._deltas

    def on_wait(self, tell: Callable[[str], None]) -> None:
        """While nothing comes: be told, about twice a second."""
        self._told.tell = tell

    def close(self) -> None:
        """Stop; what was read stays. Any thread may: one that reads meanwhile comes to the end by itself."""
        self._told.closed = True
        self._work.cancel()
        self._events.put(None)
        try:
            self._deltas.close()
        except ValueError:  # another thread is reading
            return

    def result(self) -> Completion:
        """Run to the end; the whole."""
        for _ in self._deltas:
            pass
        if self._told.error is not None:
            raise self._told.error
        return self._told.completion(self.header)


class _Told:
    """What has been read of an answer. Only the reader's thread touches it, but for `closed`."""

    def __init__(self, request: Request, *, where: str) -> None:
        self.where = where
        self.names = Names()
        self.tell: Callable[[str], None] | None = None
        self.closed = False
        self.ended = False  #: everything that there is has been read
        self.error: BaseException | None = None
        self._request = request
        self._answers = [Answer(index) for index in range(request.n)]
        self._notes: dict[str, None] = {}  # an ordered set
        self._meta: dict[str, Any] = {}
        self._usage: dict[int, Mapping[str, Any]] = {}  # of each ask, as it was said last
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last = self._began

    def note(self, text: str) -> None:
        """Something that was seen on the way."""
        self._notes.setdefault(text)

    def take(self, said: Said) -> list[Delta]:
        """What is new in a chunk.

        Raises:
            EngineError: it is in no shape that could be read.
        """
        try:
            return list(self._new(said))
        except Exception as error:
            self.error = unreadable(self.where, error)
            raise self.error from error

    def _new(self, said: Said) -> Iterator[Delta]:
        self._last = said.at
        for name in ("id", "created", "model", "system_fingerprint", "seed"):
            if said.body.get(name) is not None:
                self._meta.setdefault(name, said.body[name])
        self._usage.setdefault(said.ask, {})
        if isinstance(said.body.get("usage"), Mapping):
            self._usage[said.ask] = said.body["usage"]  # the last one counts: some send it with every chunk, so far
        for place, choice in placed(said.body, said.places):
            delta = self._answers[place].take(choice, names=self.names, whole=said.whole)
            if delta.text or delta.reasoning or delta.calls or delta.finish_reason or len(delta.tokens):
                self._first = self._first or said.at
                yield delta  # and none for a chunk that only says who speaks
        if len(said.body.get("choices") or ()) > len(said.places):
            self.note("n: more choices were sent than asked for")

    def usage(self) -> dict[str, int] | None:
        """Tokens over all asks, the prompt's counted once; None where an ask did not say."""
        prompt = made = 0
        for usage in self._usage.values():
            read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if not isinstance(read, int) or not isinstance(written, int):
                return None
            prompt, made = max(prompt, read), made + written
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made} if prompt else None

    def completion(self, header: Header) -> Completion:
        """The whole, or of a stream that was closed what there is."""
        names, meta, usage = Names(), self._meta, self.usage()
        choices = tuple(answer.choice(names) for answer in self._answers)
        notes = list(self._notes)
        if self.ended:  # nothing is concluded from a part
            said = {**meta, "model": None if meta.get("model") == header.model else meta.get("model")}
            made = None if usage is None else usage["completion_tokens"]
            notes = list(dict.fromkeys([*habits(self._request, self._answers, said=said, made=made), *notes]))
        known = {
            **({"id": meta["id"]} if isinstance(meta.get("id"), str) else {}),
            **({"created": meta["created"]} if isinstance(meta.get("created"), int) else {}),
            **({"seed": meta["seed"]} if isinstance(meta.get("seed"), int) else {}),
            "system_fingerprint": str(meta.get("system_fingerprint") or ""),
            "control_tokens": names.texts,
        }
        return Completion(
            **{**vars(header), **known},
            choices=tuple(map(_as_sampled, choices)) if PROCESSED in notes else choices,
            timing=Timing(first_token=(self._first or self._began) - self._began, total=self._last - self._began),
            reported_usage=usage,
            notes=tuple(notes),
        )


def _closed() -> EngineError:
    return EngineError("the lab was closed before this answer was whole", status=503)


def _deltas(events: queue.SimpleQueue[Any], told: _Told) -> Generator[Delta, None, None]:
    while True:
        try:
            event = events.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            if told.tell:
                told.tell("waiting")
            continue
        if told.closed:
            return
        if event is None:
            told.ended = True
            if usage := told.usage():
                nothing = tokens_of((), names=told.names, exact=True)
                yield Delta(index=0, text="", tokens=nothing, finish_reason=None, reported_usage=usage)
            return
        if isinstance(event, Said):
            yield from told.take(event)
        elif isinstance(event, str):
            told.note(event)
        else:
            told.error = event
            raise event


def _as_sampled(choice: Choice) -> Choice:
    """Logprobs that are known to be of the processed law stand under that name, and the raw ones are unknown."""
    tokens = choice.tokens
    unknown = np.full(len(tokens), np.nan, np.float32)
    moved = replace(
        tokens,
        sampling_logprob=tokens.logprob,
        logprob=unknown,
        margin=unknown,
        top_sampling_logprob=tokens.top_logprob,
        top_logprob=np.full_like(tokens.top_logprob, np.nan),
    )
    return replace(choice, tokens=moved)
