"""The `openai` package's own client, wired to a backend in this process: no network, no server, no key.

A client hands its requests to a transport; this one answers them itself, with the code that the HTTP server answers
with. The answer is read from the backend as the client asks for it, so that a stream comes token by token.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmlab.errors import LLMLabError
from llmlab.protocol.backend import Backend
from llmlab.serve import conversation as talk
from llmlab.serve.body import check_headers
from llmlab.serve.conversation import Conversation, Reply

if TYPE_CHECKING:
    import openai

#: Nobody looks it up: the transport takes every request for itself.
_ADDRESS = "http://llmlab.invalid"


def client(backend: Backend, **options: Any) -> openai.OpenAI:
    """A real `openai.OpenAI` whose answers come from this backend.

    Args:
        backend: who answers.
        options: of `openai.OpenAI`, such as `timeout` or `default_headers`; there are no retries unless asked for,
            since what fails here fails again.
    """
    import openai

    http = _http()
    given = {"base_url": f"{_ADDRESS}/v1", "api_key": "none-is-needed", "max_retries": 0, **options}
    return openai.OpenAI(**given, http_client=http.Client(transport=_Transport(backend, http)))


def _http() -> Any:
    """The HTTP library that the installed `openai` runs on; which one that is differs between its versions."""
    import openai

    return sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]


class _Transport:
    """Answers the requests of one client."""

    def __init__(self, backend: Backend, http: Any) -> None:
        self._backend = backend
        self._http = http
        # The library insists that a body is one of its own streams; which library that is, is known only now.
        self._body = type("Body", (_Body, http.SyncByteStream), {})

    def __enter__(self) -> _Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to close: the backend belongs to the lab."""

    def handle_request(self, request: Any) -> Any:
        """Answer one request, as the HTTP server would."""
        talking = Conversation(self._backend)
        try:
            reply = self._reply(request, talking)
        except LLMLabError as error:
            reply = talk.refusal(error)
        headers = {"content-type": reply.media_type, "x-request-id": talk.request_name(), **reply.headers}
        body = self._body(reply, talking)
        return self._http.Response(reply.status, headers=headers, stream=body, request=request)

    def _reply(self, request: Any, talking: Conversation) -> Reply:
        if (request.method, request.url.path) != ("POST", talk.CHAT):
            return talk.answer(talk.route(self._backend, method=request.method, path=request.url.path))
        kind, encoding = (request.headers.get(name) for name in ("content-type", "content-encoding"))
        check_headers(content_type=kind, content_encoding=encoding)
        return talking.start(request.read())


class _Body:
    """The parts of a reply, and the end of its work when the client leaves it."""

    def __init__(self, reply: Reply, talking: Conversation) -> None:
        self._parts = reply.parts
        self._talking = talking

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts

    def close(self) -> None:
        """The client has read it, or has had enough."""
        self._talking.leave()
