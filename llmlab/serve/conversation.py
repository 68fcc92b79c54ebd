"""One request on its way to an answer: bytes in, a status and bytes out. No web framework, no network.

The HTTP server and `lab.client()` both answer through this, so that the two cannot differ.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmlab.errors import LLMLabError, ModelNotFoundError
from llmlab.protocol.backend import Backend, Stream
from llmlab.protocol.chunks import chunks
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import ChatRequest
from llmlab.protocol.wire import finish_reason, whole
from llmlab.serve import body as bodies
from llmlab.serve import sse
from llmlab.serve.refusals import PathError, RefusalError

JSON = "application/json"

#: Where conversations are held.
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, eq=False)
class Reply:
    """A response: its body comes in parts, one part where it is not a stream of events."""

    status: int
    parts: Iterator[bytes]
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def streams(self) -> bool:
        """Whether the parts come over time."""
        return self.media_type == sse.MEDIA_TYPE


class ClientGoneError(Exception):
    """The client left before there was an answer; there is nobody to tell."""


class Conversation:
    """A chat-completion request. Its steps, and the parts of the reply, come one after the other; any thread may
    `leave` at any time.

    Args:
        backend: who answers.
    """

    def __init__(self, backend: Backend) -> None:
        self.facts: dict[str, Any] = {}  #: what a log may say: figures, never a text of the client's or the model's
        self._backend = backend
        self._began = time.perf_counter()
        self.left = False  #: whether the client is gone
        self._stream: Stream | None = None

    def start(self, data: bytes) -> Reply:
        """`read` and `run`."""
        try:
            request = self.read(data)
        except LLMLabError as error:
            return refusal(error)
        return self.run(request)

    def read(self, data: bytes) -> ChatRequest:
        """The request in a body.

        Raises:
            LLMLabError: it is none.
        """
        try:
            request = ChatRequest(**bodies.parse(data))
        except LLMLabError as error:
            raise self._noted(error) from None
        self.facts |= {"model": self._backend.name, "stream": request.stream, "n": request.n}
        return request

    def run(self, request: ChatRequest) -> Reply:
        """Answer it; one that does not stream is run to its end.

        Raises:
            ClientGoneError: the client left meanwhile. Anything but an `LLMLabError` that happens inside, also while
                the parts are read: nobody foresaw it.
        """
        try:
            self._stream = stream = self._backend.stream(request)
            if self.left:  # before there was a stream to close
                stream.close()
            if request.stream:
                return Reply(200, self._events(stream, request), media_type=sse.MEDIA_TYPE, headers=_UNBUFFERED)
            answered = self._answered(stream)
        except LLMLabError as error:
            return refusal(self._noted(error))
        except Exception:
            if self.left:  # a stream that is closed while it is read may well complain
                raise ClientGoneError from None
            raise
        return Reply(200, iter([answered]))

    def leave(self) -> None:
        """The client is gone: free what the request holds. Harmless at any time."""
        self.left = True
        if self._stream is not None:
            self._stream.close()

    def _answered(self, stream: Stream) -> bytes:
        try:
            for _ in stream:
                self._first_token()
            if self.left:
                raise ClientGoneError
            completion = stream.result()
        finally:
            stream.close()
        self._ended(completion)
        return sse.encode(whole(completion))

    def _events(self, stream: Stream, request: ChatRequest) -> Iterator[bytes]:
        options = request.stream_options
        try:
            for chunk in chunks(stream, include_usage=None if options is None else options.get("include_usage", False)):
                if self.left:
                    return
                if chunk["choices"] and "role" not in chunk["choices"][0]["delta"]:
                    self._first_token()
                yield sse.event(chunk)
            if self.left:
                return
            self._ended(stream.result())
        except LLMLabError as error:
            yield sse.event(self._noted(error).to_dict())
        except Exception:
            if self.left:
                return
            raise
        finally:
            stream.close()
        yield sse.DONE

    def _first_token(self) -> None:
        self.facts.setdefault("first_token_ms", round(1e3 * (time.perf_counter() - self._began), 1))

    def _ended(self, completion: Completion) -> None:
        self.facts |= {
            "completion": completion.id,
            "prompt_tokens": len(completion.prompt_ids),
            "completion_tokens": completion.completion_tokens,
            "finish_reasons": [finish_reason(choice.finish_reason) for choice in completion.choices],
        }

    def _noted(self, error: LLMLabError) -> LLMLabError:
        # An unknown field is named by the client.
        known = error.param is None or error.param == bodies.WHOLE or error.param in ChatRequest.model_fields
        self.facts |= {"error": error.code or error.type, "param": error.param if known else "unknown"}
        return error


def models(backend: Backend) -> dict[str, Any]:
    """`GET /v1/models`: the one model there is."""
    return {"object": "list", "data": [_model(backend)]}


def model(backend: Backend, name: str) -> dict[str, Any]:
    """`GET /v1/models/{name}`.

    Raises:
        ModelNotFoundError: it is another one.
    """
    if name != backend.name:
        raise ModelNotFoundError(f"the model {name!r} does not exist; loaded is {backend.name!r}", param="model")
    return _model(backend)


def route(backend: Backend, *, method: str, path: str) -> Any:
    """What lives at a path, but for conversations.

    Raises:
        PathError: nothing does, or not by this method.
    """
    here = {CHAT: "POST", "/v1/models": "GET"}
    allowed = here.get(path) or ("GET" if path.startswith("/v1/models/") else "")
    if not allowed:
        raise PathError(f"{method} {path}: there is nothing")
    if method != allowed:
        raise PathError(f"{method} {path}: this path takes {allowed}", allowed=allowed)
    return models(backend) if path == "/v1/models" else model(backend, path.removeprefix("/v1/models/"))


def request_name() -> str:
    """A name for a request: `x-request-id`, and in the log."""
    return f"req_{secrets.token_hex(12)}"


def answer(value: Any) -> Reply:
    """A JSON value as a reply."""
    return Reply(200, iter([sse.encode(value)]))


def refusal(error: LLMLabError) -> Reply:
    """An error as a reply."""
    headers = error.headers if isinstance(error, RefusalError) else {}
    return Reply(error.status, iter([sse.encode(error.to_dict())]), headers=headers)


def _model(backend: Backend) -> dict[str, Any]:
    described = backend.describe()
    facts = {"context_length": described.get("context"), "dtype": described.get("dtype")}
    return {"id": backend.name, "object": "model", "created": _STARTED, "owned_by": "llmlab", **facts}


#: The API wants to know when a model was made; what is known is when it was loaded.
_STARTED = int(time.time())

#: Neither caches nor the buffers of proxies may hold events back.
_UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}
