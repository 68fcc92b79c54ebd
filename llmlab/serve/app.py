"""The endpoint as a FastAPI application: which path does what. What is answered lives in `conversation`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from llmlab.errors import LLMLabError
from llmlab.protocol.backend import Backend
from llmlab.serve import conversation as talk
from llmlab.serve import openapi
from llmlab.serve.auth import ApiKey
from llmlab.serve.conversation import Conversation, Reply
from llmlab.serve.exchange import SILENCE, STALLED, Exchange
from llmlab.serve.gate import Gate, send_reply
from llmlab.serve.line import Line
from llmlab.serve.page import page
from llmlab.serve.refusals import PathError
from llmlab.version import __version__

#: What the engine's widest batch holds, for a backend that does not pin its slots.
SLOTS = 128

#: Answers that may wait for a slot.
QUEUE = 128

#: Of the page: a browser loads and runs nothing but its style.
_NOTHING_FROM_ELSEWHERE = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


def create_app(
    backend: Backend,
    *,
    api_key: str | None = None,
    max_queue: int = QUEUE,
    silence: float = SILENCE,
    stalled: float = STALLED,
) -> FastAPI:
    """The application, to be run by any ASGI server.

    Args:
        backend: who answers.
        api_key: what requests to /v1 have to bring; None lets everybody in.
        max_queue: how many answers may wait (a request wants n) besides as many as there are slots; more are refused
            with 429, but for a request that is alone.
        silence: seconds without a token after which a stream sends a comment.
        stalled: seconds after which a client that takes nothing of what it asked for, or sends nothing of its body,
            counts as gone.
    """
    line = Line(slots=backend.describe().get("slots") or SLOTS, queue=max_queue)
    # A thread for each request inside: it waits for the engine most of the time, and the engine makes one batch of all.
    threads = ThreadPoolExecutor(max_workers=line.places, thread_name_prefix="llmlab-serve")
    app = _Application(
        title="llmlab",
        version=__version__,
        description=openapi.DESCRIPTION,
        docs_url=None,  # the framework's loads its script from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.line = line
    app.state.threads = threads
    app.add_middleware(Gate, key=ApiKey(api_key), line=line)

    @app.post(talk.CHAT, **openapi.chat_completions())
    async def create_chat_completion(request: Request) -> Response:
        return Exchange(Conversation(backend), line=line, threads=threads, silence=silence, stalled=stalled)

    @app.get("/v1/models", **openapi.models())
    async def list_models() -> Response:
        return _Ready(talk.answer(talk.models(backend)))

    @app.get("/v1/models/{model:path}", **openapi.model())
    async def retrieve_model(model: str) -> Response:
        return _Ready(talk.answer(talk.model(backend, model)))

    @app.get("/health", **openapi.health())
    async def health() -> Response:
        return _Ready(talk.answer({"status": "ok", "model": backend.name, "requests": line.inside}))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(page(app.openapi(), url=str(request.base_url).rstrip("/")), headers=_NOTHING_FROM_ELSEWHERE)

    @app.exception_handler(LLMLabError)
    async def refused(request: Request, error: LLMLabError) -> Response:
        request.scope["facts"] |= {"error": error.code or error.type}
        return _Ready(talk.refusal(error))

    @app.exception_handler(HTTPException)
    async def nowhere(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}"
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            bad = PathError(f"{what}: this path takes {allowed}", allowed=allowed)
        else:
            bad = PathError(f"{what}: there is nothing; see /docs for what there is")
        return await refused(request, bad)

    return app


class _Application(FastAPI):
    """Its OpenAPI page describes the requests as `ChatRequest` takes them."""

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi.complete(super().openapi())
        return self.openapi_schema


class _Ready(Response):
    """A reply that is there already."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(status_code=reply.status)
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_reply(self._reply, send)
