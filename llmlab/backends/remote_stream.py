"""A request to an endpoint under way: its chunks as deltas, and the whole, with notes of the endpoint's habits."""

from __future__ import annotations

import json
import queue
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.backends.answers import Answer
from llmlab.backends.protocol import Choice, Completion, Delta, Header, Timing
from llmlab.backends.refusal import translated
from llmlab.errors import EngineError, LLMLabError
from llmlab.request import Request

if TYPE_CHECKING:
    from llmlab.backends.remote import RemoteBackend

#: How often a reader that waits is told so.
WAIT_SECONDS = 0.5
#: The fields that are sent although nobody asked for them; an endpoint may refuse them without an error.
_UNASKED = ("logprobs", "top_logprobs", "seed")
#: Rounds of asking for choices that did not come.
_ROUNDS = 128


class RemoteStream:
    """Iterate for deltas, or ask for the whole; `close` drops the connection, and what has come stays."""

    def __init__(
        self, backend: RemoteBackend, request: Request, *, seed: int, submit: Callable[[Callable[[], None]], Any]
    ) -> None:
        self._backend = backend
        self._where = str(backend.client.base_url)
        self._began = time.perf_counter()
        self._first: float | None = None
        self._total: float | None = None
        self._answers = [Answer(index) for index in range(request.n)]
        self._meta: dict[str, Any] = {}
        self._usage: dict[str, int] | None = None
        self._notes: dict[str, None] = {}  # an ordered set
        self._tell: Callable[[str], None] | None = None
        self._closed = False
        self._queue: queue.SimpleQueue[Delta | BaseException | None] = queue.SimpleQueue()
        self.header = Header(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=backend.name,
            request=request,
            seed=seed,
            prompt_ids=np.zeros(0, np.int32),
            system_fingerprint="",
        )
        self._deltas = self._read()
        self._work = submit(self._run)

    def __iter__(self) -> Iterator[Delta]:
        return self._deltas

    def on_wait(self, tell: Callable[[str], None]) -> None:
        """While nothing comes: be told, about twice a second."""
        self._tell = tell

    def close(self) -> None:
        """Stop; what was made stays."""
        self._closed = True
        self._work.cancel()
        self._queue.put(None)
        self._deltas.close()

    def result(self) -> Completion:
        """Run to the end; the whole."""
        for _ in self._deltas:
            pass
        names: dict[int, str] = {}
        choices = tuple(answer.choice(names) for answer in self._answers)
        meta = {name: self._meta[name] for name in ("id", "created", "model") if self._meta.get(name)}
        fingerprint = self._meta.get("system_fingerprint") or ""
        header = vars(self.header) | meta | {"system_fingerprint": fingerprint, "names": names}
        seed = self._meta.get("seed")
        return Completion(
            **header | ({"seed": int(seed)} if isinstance(seed, int) else {}),
            choices=tuple(self._as_sampled(choice) for choice in choices),
            timing=Timing(first_token=self._first or 0.0, total=self._total or time.perf_counter() - self._began),
            reported_usage=self._usage,
            notes=tuple(self._notes),
        )

    def _read(self) -> Generator[Delta, None, None]:
        while True:
            try:
                found = self._queue.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                if self._tell:
                    self._tell("waiting")
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            self._first = self._first or time.perf_counter() - self._began
            yield found

    # --- a thread of the backend's ---------------------------------------------------------------------------------

    def _run(self) -> None:
        import openai

        try:
            missing = list(range(self.header.request.n))
            for attempt in range(_ROUNDS):
                self._ask(missing, seed=_shifted(self.header.seed, attempt))
                left = [index for index in missing if self._answers[index].finish is None]
                if self._closed or not left:
                    break
                if len(left) == len(missing):
                    raise EngineError(f"{self._where} ended its answer without a finish_reason", status=502)
                self._note(f"n: {len(missing)} choices were asked for and {len(missing) - len(left)} sent")
                missing = left
            if not self._closed:
                self._look()
        except openai.OpenAIError as error:
            self._queue.put(translated(error, where=self._where))
        except LLMLabError as error:
            self._queue.put(error)
        except Exception as error:
            if not self._closed:  # a connection that was dropped on purpose complains in many ways
                self._queue.put(EngineError(f"{self._where} answers what cannot be read: {error}", status=502))
        finally:
            self._total = time.perf_counter() - self._began
            self._queue.put(None)

    def _ask(self, missing: list[int], *, seed: int) -> None:
        """Ask for so many choices; they take the places that are missing, in the order of their indices."""
        usage: dict[str, int] = {}
        streamed = False
        for chunk in self._chunks(seed=seed, n=len(missing)):
            if self._closed:
                return
            streamed = True
            usage = self._take(chunk, missing) or usage
        if not streamed:
            self._note("stream: nothing came, so the answer was asked for whole")
            whole = self._create({**self._backend.body(self.header.request, seed=seed, n=len(missing))})
            usage = self._take(whole, missing, whole=True) or usage
        if usage:
            total = self._usage or dict.fromkeys(usage, 0)
            self._usage = {name: total.get(name, 0) + value for name, value in usage.items()}
            self._usage["prompt_tokens"] = usage.get("prompt_tokens", 0)

    def _take(self, said: dict[str, Any], missing: list[int], *, whole: bool = False) -> dict[str, int] | None:
        for name in ("id", "created", "model", "system_fingerprint", "seed"):
            if said.get(name) is not None:
                self._meta.setdefault(name, said[name])
        for choice in said.get("choices") or ():
            at = int(choice.get("index") or 0)
            if at < len(missing):
                self._queue.put(self._answers[missing[at]].take(choice, whole=whole))
        usage = said.get("usage")
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        return None if not usage else {name: int(usage[name]) for name in counts if usage.get(name) is not None}

    def _chunks(self, *, seed: int, n: int) -> Iterator[dict[str, Any]]:
        stream = self._create({**self._backend.body(self.header.request, seed=seed, n=n)}, stream=True)
        with stream:
            for chunk in stream:
                yield chunk.to_dict(mode="json")

    def _create(self, body: dict[str, Any], *, stream: bool = False) -> Any:
        """Ask; a refused field that nobody asked for is left out, and noted, and one that somebody did is an error."""
        import openai

        given = self.header.request.model_fields_set
        sent = {**body, **({"stream": True, "stream_options": {"include_usage": True}} if stream else {})}
        while True:
            try:
                found = self._backend.client.chat.completions.create(**sent)
                if stream:
                    return found
                if not hasattr(found, "to_dict"):
                    raise EngineError(f"{self._where} answers no JSON: {str(found)[:80]!r}", status=502)
                return found.to_dict(mode="json")
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                told = translated(error, where=self._where)
                spare = [name for name in (*_UNASKED, "stream_options") if name in sent and name not in given]
                if told.param not in spare:
                    raise told from error
                drop = [told.param] if told.param != "logprobs" else ["logprobs", "top_logprobs"]
                for name in drop:
                    sent.pop(name, None)
                    self._backend.unwanted.add(name)
                self._note(f"{told.param}: refused, and so left out")

    def _look(self) -> None:
        """What the endpoint did with what it was asked, as far as the answer shows."""
        request = self.header.request
        for answer in self._answers:
            ends = any(answer.text.endswith(stop) for stop in request.stops)
            if any(stop in answer.text[:-1] and not ends for stop in request.stops):
                self._note("stop: ignored, the text goes on behind it")
            elif request.stops and answer.finish == "stop" and not ends and request.include_stop:
                self._note("stop: the stop's text may have been left out, the content does not end with it")
            if request.response_format and answer.finish == "stop" and not _is_json(request, answer.text):
                self._note("response_format: ignored, the content is not JSON")
            if not answer.entries:
                self._note("logprobs: none were sent")
            elif all(entry.get("bytes") is None and "token_id" not in entry for _, entry in answer.entries):
                self._note("logprobs: sent without bytes")
            limit = request.token_limit
            if limit is not None and len(answer.entries) > limit:
                self._note(f"max_tokens: {len(answer.entries)} tokens were sent where {limit} were asked for")
        if request.seed is not None and self._meta.get("seed") != request.seed and "seed" in self._meta:
            self._note("seed: the answer names another one")
        if self._plain() and _reshapes(request) and self._backend.processed(self._create, request):
            self._note("logprobs: those of the law after the temperature, and so under sampling_logprob")

    def _plain(self) -> bool:
        """Whether there are logprobs that do not say which law they are of."""
        entries = [entry for answer in self._answers for _, entry in answer.entries]
        return bool(entries) and all("sampling_logprob" not in entry for entry in entries)

    def _as_sampled(self, choice: Choice) -> Choice:
        """Logprobs that are known to be of the processed law stand under that name, and the raw ones are unknown."""
        if not any(note.startswith("logprobs: those of the law") for note in self._notes):
            return choice
        tokens = choice.tokens
        unknown = np.full(len(tokens), np.nan, np.float32)
        moved = vars(tokens) | {
            "sampling_logprob": tokens.logprob,
            "logprob": unknown,
            "margin": unknown,
            "top_sampling_logprob": tokens.top_logprob,
            "top_logprob": np.full_like(tokens.top_logprob, np.nan),
        }
        return Choice(**vars(choice) | {"tokens": type(tokens)(**moved)})

    def _note(self, text: str) -> None:
        self._notes.setdefault(text)


def _shifted(seed: int, attempt: int) -> int:
    """Another seed for choices that are asked for again: the same one would say the same thing."""
    return (seed + attempt + 2**63) % 2**64 - 2**63


def _reshapes(request: Request) -> bool:
    """Whether the law that is drawn from is another than the model's."""
    off = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "logit_bias": {}, "repetition_penalty": 1.0}
    off |= {"frequency_penalty": 0.0, "presence_penalty": 0.0}
    return any(getattr(request, name) != value for name, value in off.items())


def _is_json(request: Request, text: str) -> bool:
    form = request.response_format or {}
    if form.get("type") not in ("json_object", "json_schema"):
        return True
    try:
        json.loads(text.rpartition("</think>")[2])
    except ValueError:
        return False
    return True
