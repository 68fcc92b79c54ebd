"""A request to an endpoint in progress: its chunks as deltas, and the whole answer with notes about deviations."""

from __future__ import annotations

import queue
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from llmlab.backends.remote.attempts import PROCESSED, Attempts, Received, choices_of
from llmlab.backends.remote.choice_parser import ChoiceParser
from llmlab.backends.remote.deviations import deviations
from llmlab.backends.remote.endpoint import Endpoint
from llmlab.backends.remote.errors import unreadable_answer
from llmlab.backends.remote.logprobs import TokenTexts, parse_tokens
from llmlab.errors import EngineError
from llmlab.protocol.completion import Choice, Completion, Delta, Header, Timing
from llmlab.protocol.request import Request

#: Seconds after which a waiting reader's `on_wait` is called, again and again.
WAIT_SECONDS = 0.5


class RemoteStream:
    """A request in progress. Iterate over it for deltas, or call `result` for the whole answer.

    `close` drops the connection and keeps what has been read. The connection is dropped as well when nobody holds the
    stream any more.

    Args:
        endpoint: the endpoint, with its model.
        request: the request.
        seed: the request's seed, or the one drawn for it.
        submit: starts a coroutine on the backend's event loop.
        owner: the backend, which closes that loop when nobody holds it; held as long as this stream.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        request: Request,
        *,
        seed: int,
        submit: Callable[[Coroutine[Any, Any, None]], Future[None]],
        owner: object,
    ) -> None:
        self._owner = owner
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answer = _AnswerSoFar(request, where=endpoint.where)
        self.header = Header(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=endpoint.model,
            request=request,
            seed=seed,
            prompt_ids=np.zeros(0, np.int32),
            system_fingerprint="",
            control_tokens=self._answer.texts.by_id,
        )
        # Neither the coroutine nor the generator refers to this object, so that a stream that is dropped goes at once.
        self._work = submit(Attempts(endpoint, request, seed=seed, put=events.put).run())
        self._work.add_done_callback(lambda work: events.put(_closed() if work.cancelled() else None))
        self._events = events
        self._deltas = _deltas(events, self._answer)
        weakref.finalize(self, self._work.cancel).atexit = False

    def __iter__(self) -> Iterator[Delta]:
        return self._deltas

    def on_wait(self, tell: Callable[[str], None]) -> None:
        """Call `tell` about twice a second while nothing comes, with "waiting"."""
        self._answer.tell = tell

    def on_restart(self, tell: Callable[[], None]) -> None:
        """An answer of one endpoint never begins anew."""

    def on_done(self, tell: Callable[[], None]) -> None:
        """Call `tell` when nothing more comes from the endpoint, read or not; from any thread, perhaps at once."""
        self._work.add_done_callback(lambda _: tell())

    def close(self) -> None:
        """Stop; what was read is kept. Any thread may call this: if another one reads, its iteration ends by itself."""
        self._answer.closed = True
        self._work.cancel()
        self._events.put(None)
        try:
            self._deltas.close()
        except ValueError:  # another thread is reading
            return

    def result(self) -> Completion:
        """Run to the end; returns the whole answer.

        Raises:
            LLMLabError: the endpoint refused the request, or its answer broke off.
        """
        for _ in self._deltas:
            pass
        if self._answer.error is not None:
            raise self._answer.error
        return self._answer.completion(self.header)


class _AnswerSoFar:
    """What has been read of an answer. Only the reader's thread touches it, except for `closed`."""

    def __init__(self, request: Request, *, where: str) -> None:
        self.where = where
        self.texts = TokenTexts()
        self.tell: Callable[[str], None] | None = None
        self.closed = False
        self.ended = False  #: whether the whole answer has been read
        self.error: BaseException | None = None
        self._request = request
        self._choices = [ChoiceParser(index) for index in range(request.n)]
        self._notes: dict[str, None] = {}  # an ordered set
        self._fields: dict[str, Any] = {}  # of the answer itself: its id, model, seed, ...
        self._usage: dict[int, Mapping[str, Any]] = {}  # attempt -> the latest usage that was sent
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last = self._began

    def note(self, text: str) -> None:
        """Add a note."""
        self._notes.setdefault(text)

    def take(self, received: Received) -> list[Delta]:
        """Add a chunk; returns what is new in it.

        Raises:
            EngineError: the chunk does not follow the API.
        """
        try:
            return list(self._new(received))
        except Exception as error:
            self.error = unreadable_answer(self.where, error)
            raise self.error from error

    def _new(self, received: Received) -> Iterator[Delta]:
        self._last, body = received.time, received.body
        for name in ("id", "created", "model", "system_fingerprint", "seed"):
            if body.get(name) is not None:
                self._fields.setdefault(name, body[name])
        self._usage.setdefault(received.attempt, {})
        if isinstance(body.get("usage"), Mapping):
            self._usage[received.attempt] = body["usage"]  # the last one counts: some endpoints send running totals
        for index, choice in choices_of(body, received.indices):
            delta = self._choices[index].feed(choice, texts=self.texts, whole=received.whole)
            if delta.text or delta.reasoning or delta.calls or delta.finish_reason or len(delta.tokens):
                self._first = self._first or received.time
                yield delta  # a chunk that only sends the role makes no delta
        if len(body.get("choices") or ()) > len(received.indices):
            self.note("n: more choices were sent than asked for")

    def unfinished(self) -> Iterator[Delta]:
        """Yields the end of each choice for which none was sent: its text is all that there is."""
        for parser in self._choices:
            if parser.finish is None:
                nothing = parse_tokens((), texts=self.texts, exact=True)
                yield Delta(index=parser.index, text="", tokens=nothing, finish_reason="interrupted")

    def usage(self) -> dict[str, int] | None:
        """Returns the tokens of all attempts, with the prompt counted once; None if an attempt did not report them."""
        prompt = generated = 0
        for usage in self._usage.values():
            read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if not isinstance(read, int) or not isinstance(written, int):
                return None
            prompt, generated = max(prompt, read), generated + written
        if not prompt:
            return None
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    def completion(self, header: Header) -> Completion:
        """Returns the whole answer, or, if the stream was closed, what there is of it."""
        texts, fields, usage = TokenTexts(), self._fields, self.usage()
        choices = tuple(parser.choice(texts) for parser in self._choices)
        notes = list(self._notes)
        if self.ended:  # a part of an answer shows no deviations
            reported = {**fields, "model": None if fields.get("model") == header.model else fields.get("model")}
            generated = None if usage is None else usage["completion_tokens"]
            seen = deviations(self._request, self._choices, reported=reported, generated=generated)
            notes = list(dict.fromkeys([*seen, *notes]))
        known = {
            **({"id": fields["id"]} if isinstance(fields.get("id"), str) else {}),
            **({"created": fields["created"]} if isinstance(fields.get("created"), int) else {}),
            **({"seed": fields["seed"]} if isinstance(fields.get("seed"), int) else {}),
            "system_fingerprint": str(fields.get("system_fingerprint") or ""),
            "control_tokens": texts.by_id,
            "notes": tuple(notes),
        }
        return Completion(
            **{**vars(header), **known},
            choices=tuple(map(_as_processed, choices)) if PROCESSED in notes else choices,
            timing=Timing(first_token=(self._first or self._began) - self._began, total=self._last - self._began),
            reported_usage=usage,
        )


def _closed() -> EngineError:
    return EngineError("the lab was closed before this answer was whole", status=503)


def _deltas(events: queue.SimpleQueue[Any], answer: _AnswerSoFar) -> Generator[Delta, None, None]:
    while True:
        try:
            event = events.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            if answer.tell:
                answer.tell("waiting")
            continue
        if answer.closed:
            return
        if event is None:
            answer.ended = True
            yield from answer.unfinished()
            if usage := answer.usage():
                nothing = parse_tokens((), texts=answer.texts, exact=True)
                yield Delta(index=0, text="", tokens=nothing, finish_reason=None, reported_usage=usage)
            return
        if isinstance(event, Received):
            yield from answer.take(event)
        elif isinstance(event, str):
            answer.note(event)
        else:
            answer.error = event
            raise event


def _as_processed(choice: Choice) -> Choice:
    """The choice with its logprobs moved to `sampling_logprob`; the raw logprobs are unknown."""
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
