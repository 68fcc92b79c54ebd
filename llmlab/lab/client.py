"""The `openai` package's own client, connected to a backend in this process: no network, no server, no key.

A client passes its requests to a transport. This transport answers them itself, with the code of the HTTP server. The
answer is read from the backend as the client asks for it, so that a stream arrives token by token.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmlab.errors import LLMLabError
from llmlab.protocol.backend import Backend
from llmlab.serve.body import check_headers
from llmlab.serve.handler import Handler, Reply, answer, find, refusal, request_name
from llmlab.serve.route import Conversion, Generation, Lookup, Query

if TYPE_CHECKING:
    import openai

#: No address is ever looked up: the transport answers every request.
_ADDRESS = "http://llmlab.invalid"


def client(backend: Backend, **options: Any) -> openai.OpenAI:
    """Returns an `openai.OpenAI` client whose requests this backend answers.

    Args:
        backend: what runs the model.
        options: options of `openai.OpenAI`, such as `timeout` or `default_headers`. By default there are no retries,
            because a request that fails here fails again.
    """
    import openai

    http = _http()
    given = {"base_url": f"{_ADDRESS}/v1", "api_key": "none-is-needed", "max_retries": 0, **options}
    return openai.OpenAI(**given, http_client=http.Client(transport=_Transport(backend, http)))


def _http() -> Any:
    """The HTTP library that the installed `openai` package uses; it differs between versions."""
    import openai

    return sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]


class _Transport:
    """Answers the requests of one client."""

    def __init__(self, backend: Backend, http: Any) -> None:
        self._backend = backend
        self._http = http
        # The HTTP library requires a body of its own class, and which library it is is known only here.
        self._body = type("Body", (_Body, http.SyncByteStream), {})

    def __enter__(self) -> _Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to close: the backend belongs to the lab."""

    def handle_request(self, request: Any) -> Any:
        """Answers one request as the HTTP server would."""
        handler: Handler | None = None
        try:
            route, parameters = find(request.method, request.url.path)
            if isinstance(route, Lookup):
                query = Query(self._backend, parameters, running=0)  # there is no queue here
                reply = answer(route.look(query), media_type=route.media_type)
            else:
                assert isinstance(route, Conversion | Generation)
                kind, encoding = (request.headers.get(name) for name in ("content-type", "content-encoding"))
                check_headers(content_type=kind, content_encoding=encoding)
                handler = Handler(self._backend, route)
                reply = handler.start(request.read())
        except LLMLabError as error:
            reply = refusal(error)
        headers = {"content-type": reply.media_type, "x-request-id": request_name(), **reply.headers}
        body = self._body(reply, handler)
        return self._http.Response(reply.status, headers=headers, stream=body, request=request)


class _Body:
    """The parts of a reply; closing it ends the request's work."""

    def __init__(self, reply: Reply, handler: Handler | None) -> None:
        self._parts = reply.parts
        self._handler = handler

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts

    def close(self) -> None:
        """Ends the work: the client has read the body, or stops reading it."""
        if self._handler is not None:
            self._handler.leave()
