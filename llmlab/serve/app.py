"""The endpoint as a FastAPI application. What lives at each path is in `routes/`, how it is answered in `handler`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from llmlab.errors import LLMLabError
from llmlab.protocol.backend import Backend
from llmlab.serve import openapi
from llmlab.serve.admission import Admission
from llmlab.serve.auth import ApiKey
from llmlab.serve.docs_page import page
from llmlab.serve.errors import PathError
from llmlab.serve.exchange import SILENCE, STALLED, Exchange
from llmlab.serve.handler import Handler, Reply, answer, refusal
from llmlab.serve.hosts import AllowedHosts
from llmlab.serve.metrics import Metrics
from llmlab.serve.middleware import Middleware, send_reply
from llmlab.serve.origins import AllowedOrigins
from llmlab.serve.route import Conversion, Generation, Lookup, Query, Route
from llmlab.serve.routes import ROUTES
from llmlab.version import __version__

#: The rows of the engine's widest batch, for a backend that does not pin its slots.
SLOTS = 128

#: Answers that may wait for a slot.
QUEUE = 128

#: Headers of the page at /docs: a browser loads nothing for it and runs no script.
_NO_SCRIPTS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


def create_app(
    backend: Backend,
    *,
    api_key: str | None = None,
    allow_hosts: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
    max_queue: int = QUEUE,
    silence: float = SILENCE,
    stalled: float = STALLED,
) -> FastAPI:
    """Returns the application, to be run by any ASGI server.

    Args:
        backend: the backend that answers.
        api_key: the key that requests to /v1 must carry; None asks for no key.
        allow_hosts: without a key, the names besides loopback that requests may be sent to, or come from in a browser.
        allow_origins: the origins of web pages that may read the answers (CORS), such as `https://lab.example`.
        max_queue: how many answers (a request counts `n`) may wait, besides as many as there are slots; more are
            refused with 429, except for a request that is alone.
        silence: seconds without a token after which a stream sends a comment.
        stalled: seconds after which a client that does not read its answer, or does not send its body, counts as gone.
    """
    slots = backend.describe().get("slots") or SLOTS
    admission = Admission(slots=slots, queue=max_queue)
    metrics = _metrics(admission, slots=slots)
    # One thread per admitted request: it mostly waits for the engine, which makes one batch of all of them.
    threads = ThreadPoolExecutor(max_workers=admission.places, thread_name_prefix="llmlab-serve")
    app = _Application(
        title="llmlab",
        version=__version__,
        description=openapi.DESCRIPTION,
        docs_url=None,  # FastAPI's page loads its script from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.admission = admission
    app.state.threads = threads
    hosts = AllowedHosts(allow_hosts, checked=api_key is None)
    origins = AllowedOrigins(allow_origins, keyed=api_key is not None)
    app.add_middleware(
        Middleware, key=ApiKey(api_key), hosts=hosts, origins=origins, admission=admission, metrics=metrics
    )
    text = None if metrics is None else metrics.text

    def add(route: Route) -> None:
        async def respond(request: Request) -> Response:
            if isinstance(route, Lookup):
                query = Query(backend, request.path_params, running=admission.inside, metrics=text)
                return _Ready(answer(route.look(query), media_type=route.media_type))
            assert isinstance(route, Conversion | Generation)
            handler = Handler(backend, route)
            return Exchange(handler, admission=admission, threads=threads, silence=silence, stalled=stalled)

        app.add_api_route(route.path, respond, methods=[route.method], **openapi.operation(route))

    for route in ROUTES:
        add(route)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(page(app.openapi(), url=str(request.base_url).rstrip("/")), headers=_NO_SCRIPTS)

    @app.exception_handler(LLMLabError)
    async def refused(request: Request, error: LLMLabError) -> Response:
        request.scope["facts"] |= {"error": error.code or error.type}
        return _Ready(refusal(error))

    @app.exception_handler(HTTPException)
    async def no_such_path(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}"
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            bad = PathError(f"{what}: this path takes {allowed}", allowed=allowed)
        else:
            bad = PathError(f"{what}: this path does not exist; see /docs for those that do")
        return await refused(request, bad)

    return app


def _metrics(admission: Admission, *, slots: int) -> Metrics | None:
    try:
        return Metrics(admission, slots=slots)
    except ModuleNotFoundError:  # an installation without the package counts nothing
        return None


class _Application(FastAPI):
    """An application whose OpenAPI document has the schemas of `ChatRequest` and of the answers."""

    def openapi(self) -> dict[str, Any]:
        """Returns the document, which is made once."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi.complete(super().openapi(), ROUTES)
        return self.openapi_schema


class _Ready(Response):
    """A reply that is complete already."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(status_code=reply.status)
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_reply(self._reply, send)
