"""The endpoint as a FastAPI application: paths, bodies, threads; what is answered lives in `conversation`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmlab import __version__
from llmlab.backends.protocol import Backend
from llmlab.errors import LLMLabError
from llmlab.serve import conversation as talk
from llmlab.serve import openapi, sse
from llmlab.serve.auth import ApiKey
from llmlab.serve.body import MAX_BYTES, WHOLE, check_headers
from llmlab.serve.conversation import ClientGoneError, Conversation, Reply
from llmlab.serve.gate import Gate, send_reply, start_of
from llmlab.serve.line import Line
from llmlab.serve.logs import unforeseen
from llmlab.serve.refusals import BodyTooLargeError, PathError

#: What the engine's widest batch holds, for a backend that does not pin its slots.
SLOTS = 128

#: Requests that may wait for a slot.
QUEUE = 128

#: Seconds of silence after which a stream says that it is still there.
SILENCE = 15.0

#: Seconds after which a client that takes nothing counts as gone.
STALLED = 60.0

#: What is still taken in of a body that is too large, so that a client in the middle of sending comes to read why.
_DISCARDED = 64 * 2**20


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
        max_queue: how many requests may wait besides as many as there are slots; more are refused with 429.
        silence: seconds without a token after which a stream sends a comment.
        stalled: seconds after which a client that takes nothing of what it asked for counts as gone.
    """
    line = Line(slots=backend.describe().get("slots") or SLOTS, queue=max_queue)
    # A thread for each request inside: it waits for the engine most of the time, and the engine makes one batch of all.
    threads = ThreadPoolExecutor(max_workers=line.places, thread_name_prefix="llmlab-serve")
    app = _Application(
        title="llmlab", version=__version__, description=openapi.DESCRIPTION, redoc_url=None, redirect_slashes=False
    )
    app.state.line = line
    app.state.threads = threads
    app.add_middleware(Gate, key=ApiKey(api_key), line=line)

    @app.post("/v1/chat/completions", **openapi.chat_completions())
    async def create_chat_completion(request: Request) -> Response:
        return _Answer(backend, line=line, threads=threads, silence=silence, stalled=stalled)

    @app.get("/v1/models", **openapi.models())
    async def list_models() -> Response:
        return _Ready(talk.answer(talk.models(backend)))

    @app.get("/v1/models/{model:path}", **openapi.model())
    async def retrieve_model(model: str) -> Response:
        return _Ready(talk.answer(talk.model(backend, model)))

    @app.get("/health", **openapi.health())
    async def health() -> Response:
        return _Ready(talk.answer({"status": "ok", "model": backend.name, "requests": line.inside}))

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


class _Answer(Response):
    """Reads the body, runs the request on a thread, and sends what comes; one that is left behind ends its work."""

    def __init__(
        self, backend: Backend, *, line: Line, threads: ThreadPoolExecutor, silence: float, stalled: float
    ) -> None:
        super().__init__()
        self._talk = Conversation(backend)
        self._line = line
        self._threads = threads
        self._silence = silence
        self._stalled = stalled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        kind, encoding = (headers.get(name) for name in (b"content-type", b"content-encoding"))
        try:
            check_headers(content_type=_text(kind), content_encoding=_text(encoding))
            data = await _body(receive, announced=headers.get(b"content-length"))
            entered = self._line.enter()
        except ClientGoneError:
            scope["facts"]["left"] = True
            return
        except BodyTooLargeError as error:
            scope["facts"] |= {"error": error.code}
            await _refuse_and_drain(talk.refusal(error), receive, send)
            return
        except LLMLabError as error:
            scope["facts"] |= {"error": error.code or error.type, "param": error.param}
            await send_reply(talk.refusal(error), send)
            return
        watch = asyncio.create_task(self._watch(receive))
        try:
            await self._converse(data, send)
        except ClientGoneError:
            scope["facts"]["left"] = True
        finally:
            self._talk.leave()
            watch.cancel()
            self._line.leave(entered)
            scope["facts"] |= self._talk.facts

    async def _converse(self, data: bytes, send: Send) -> None:
        loop = asyncio.get_running_loop()
        try:
            reply = await loop.run_in_executor(self._threads, self._talk.start, data)
        except ClientGoneError:
            raise
        except Exception as error:
            reply = talk.refusal(unforeseen(error))
        if not reply.streams:
            await send_reply(reply, send)
            return
        await send(start_of(reply, length=None))
        while True:
            coming = loop.run_in_executor(self._threads, _next, reply.parts)
            while not (await asyncio.wait([coming], timeout=self._silence))[0]:
                await self._send(sse.STILL_HERE, send)
            try:
                part = coming.result()
            except Exception as error:
                await self._send(sse.event(unforeseen(error).to_dict()) + sse.DONE, send)
                break
            if part is None:
                break
            await self._send(part, send)
        if self._talk.left:
            raise ClientGoneError
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, part: bytes, send: Send) -> None:
        try:
            async with asyncio.timeout(self._stalled):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except TimeoutError:
            raise ClientGoneError from None

    async def _watch(self, receive: Receive) -> None:
        """Once the body is read, the next thing that a client can do is to leave."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._talk.leave()


def _next(parts: Iterator[bytes]) -> bytes | None:
    return next(parts, None)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


async def _body(receive: Receive, *, announced: bytes | None) -> bytes:
    """The whole body, which is never held beyond the limit.

    Raises:
        BodyTooLargeError: as soon as that is known. ClientGoneError: the client left while sending.
    """
    if announced is not None and announced.isdigit() and (len(announced) > 15 or int(announced) > MAX_BYTES):
        raise BodyTooLargeError(f"the body may have {MAX_BYTES} bytes; this one has more", param=WHOLE)
    data = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        data += message.get("body", b"")
        if len(data) > MAX_BYTES:
            raise BodyTooLargeError(f"the body may have {MAX_BYTES} bytes; this one has more", param=WHOLE)
        if not message.get("more_body"):
            return bytes(data)


async def _refuse_and_drain(reply: Reply, receive: Receive, send: Send) -> None:
    """Say so at once, then let the client finish: a connection that is cut while it sends loses the answer."""
    body = b"".join(reply.parts)
    await send(start_of(reply, length=len(body)))
    await send({"type": "http.response.body", "body": body, "more_body": True})
    discarded = 0
    try:
        async with asyncio.timeout(STALLED):
            while discarded < _DISCARDED:
                message = await receive()
                discarded += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
    except TimeoutError:
        pass  # whoever sends so slowly may lose it
    await send({"type": "http.response.body", "body": b""})
