"""One request on its way to an answer: bytes in, a status and bytes out. No web framework, no network.

The HTTP server and `lab.client()` both answer through this, so that the two cannot differ.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmlab.errors import LLMLabError
from llmlab.protocol.backend import Backend
from llmlab.protocol.completion import Delta
from llmlab.protocol.wire import finish_reason
from llmlab.serve import body as bodies
from llmlab.serve import sse
from llmlab.serve.errors import PathError, RefusalError
from llmlab.serve.route import JSON, Answered, Answering, Asked, Conversion, Generation, Route
from llmlab.serve.routes import ROUTES

#: Neither caches nor the buffers of proxies may hold events back.
_UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass(frozen=True, eq=False)
class Reply:
    """A response. Its body comes in parts; there is one part where it is not a stream of events."""

    status: int
    parts: Iterator[bytes]
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def streams(self) -> bool:
        """Whether the parts come over time."""
        return self.media_type == sse.MEDIA_TYPE


class ClientGoneError(Exception):
    """The client disconnected before there was an answer, so no response can be sent."""


class Handler:
    """Handles one request with a body. Its steps run one after the other; any thread may call `leave` at any time.

    Args:
        backend: the backend that answers.
        route: the path's route.
    """

    def __init__(self, backend: Backend, route: Generation | Conversion) -> None:
        self.facts: dict[str, Any] = {}  #: for the log: numbers and names, never a text of the client's or the model's
        self.left = False  #: whether the client has disconnected
        self._backend = backend
        self._route = route
        self._began = time.perf_counter()
        self._stream: Answering | None = None

    def start(self, data: bytes) -> Reply:
        """Calls `read`, then `run`, and returns the reply."""
        try:
            request = self.read(data)
        except LLMLabError as error:
            return refusal(error)
        return self.run(request)

    def read(self, data: bytes) -> Asked:
        """Returns the request in a body.

        Raises:
            LLMLabError: the body holds no valid request.
        """
        try:
            request = self._route.read(bodies.parse(data))
        except LLMLabError as error:
            raise self._noted(error) from None
        self.facts |= {"model": self._backend.name, "stream": request.stream, "n": request.n}
        return request

    def run(self, request: Asked) -> Reply:
        """Answers a request that `read` returned; without `stream`, runs it to its end.

        Raises:
            ClientGoneError: the client disconnected meanwhile.
            Exception: an error that is no `LLMLabError`, here or while the parts are read, is a fault of the server.
        """
        route = self._route
        try:
            if isinstance(route, Conversion):
                return answer(route.convert(self._backend, request))
            self._stream = stream = route.start(self._backend, request)
            if self.left:  # before there was a stream to close
                stream.close()
            if request.stream:
                parts = self._events(route, stream, request)
                return Reply(200, parts, media_type=sse.MEDIA_TYPE, headers=_UNBUFFERED)
            body = self._whole(route, stream)
        except LLMLabError as error:
            return refusal(self._noted(error))
        except Exception:
            if self.left:  # reading a stream that another thread closed may raise anything
                raise ClientGoneError from None
            raise
        return Reply(200, iter([body]))

    def leave(self) -> None:
        """Frees what the request holds, since the client has disconnected. Harmless at any time."""
        self.left = True
        if self._stream is not None:
            self._stream.close()

    def _whole(self, route: Generation, stream: Answering) -> bytes:
        try:
            for _ in stream:
                self._first_token()
            if self.left:
                raise ClientGoneError
            completion = stream.result()
        finally:
            stream.close()
        self._ended(completion)
        return sse.encode(route.whole(completion))

    def _events(self, route: Generation, stream: Answering, request: Asked) -> Iterator[bytes]:
        try:
            for event in route.events(_Observed(stream, self._first_token), request):
                if self.left:
                    return
                yield sse.event(event)
            if self.left:
                return
            self._ended(stream.result())
        except LLMLabError as error:
            noted = self._noted(error)
            if not route.tells_failure:
                yield sse.event(noted.to_dict())
        except Exception:
            if self.left:
                return
            raise
        finally:
            stream.close()
        if not route.tells_failure:
            yield sse.DONE

    def _first_token(self) -> None:
        self.facts.setdefault("first_token_ms", round(1e3 * (time.perf_counter() - self._began), 1))

    def _ended(self, completion: Answered) -> None:
        self.facts |= {
            "completion": completion.id,
            "prompt_tokens": len(completion.prompt_ids),
            "completion_tokens": completion.completion_tokens,
            "finish_reasons": [finish_reason(choice.finish_reason) for choice in completion.choices],
        }

    def _noted(self, error: LLMLabError) -> LLMLabError:
        # The log names no field that only the client knows.
        request = self._route.request
        known = error.param in (None, bodies.WHOLE) or (request is not None and error.param in request.model_fields)
        self.facts |= {"error": error.code or error.type, "param": error.param if known else "unknown"}
        return error


class _Observed:
    """A stream that tells when it yields something; in all else it is the stream that it wraps."""

    def __init__(self, stream: Answering, tell: Callable[[], None]) -> None:
        self._stream = stream
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[Delta]:
        for delta in self._stream:
            self._tell()
            yield delta


def find(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """Returns the route at a path and the path's parameters.

    Raises:
        PathError: the path has no route, or takes another method.
    """
    path = plain_path(path)
    for route in ROUTES:
        parameters = route.match(path)
        if parameters is not None:
            if method != route.method:
                raise PathError(f"{method} {path}: this path takes {route.method}", allowed=route.method)
            return route, parameters
    raise PathError(f"{method} {path}: this path does not exist")


def request_name() -> str:
    """Returns a new id for a request, for `x-request-id` and the log."""
    return f"req_{secrets.token_hex(12)}"


def answer(value: Any, *, media_type: str = JSON) -> Reply:
    """Returns a JSON value, or with another media type a text, as a reply."""
    return Reply(200, iter([sse.encode(value) if media_type == JSON else value.encode()]), media_type=media_type)


def plain_path(path: str) -> str:
    """Returns a path without a slash at its end and without empty parts, as it is meant.

    Clients join a base address and a path, and either may bring a slash.
    """
    return re.sub("/{2,}", "/", path).rstrip("/") or "/"


def refusal(error: LLMLabError) -> Reply:
    """Returns an error as a reply."""
    headers = error.headers if isinstance(error, RefusalError) else {}
    return Reply(error.status, iter([sse.encode(error.to_dict())]), headers=headers)
