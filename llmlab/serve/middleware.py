"""What wraps every request: the checks of host and key, the refusal at shutdown, the log, a reply to any failure."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmlab.errors import LLMLabError
from llmlab.serve.admission import Admission
from llmlab.serve.auth import ApiKey
from llmlab.serve.handler import Reply, refusal, request_name
from llmlab.serve.hosts import AllowedHosts
from llmlab.serve.logs import LOG, unforeseen

#: The most characters of a path that a log line shows.
_PATH = 100


class Middleware:
    """Wraps an application. Handlers add to `scope["facts"]` what the log line should say.

    It is a plain ASGI application rather than a Starlette middleware, because those put a task and a queue between the
    answer and the socket, and hide that a client has disconnected.
    """

    def __init__(self, app: ASGIApp, *, key: ApiKey, hosts: AllowedHosts, admission: Admission) -> None:
        self._app = app
        self._hosts = hosts
        self._key = key
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; passes on what is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        name = request_name()
        status = 0
        scope["facts"] = facts = dict[str, Any]()
        method = scope["method"]
        if method == "HEAD":  # answered as GET; the web server, which sees HEAD in its own scope, leaves the body out
            scope = {**scope, "method": "GET"}

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name.encode())]
            await send(message)

        try:
            try:
                self._check(scope)
                await self._app(scope, receive, tell)
            except LLMLabError as error:
                facts |= {"error": error.code or error.type}
                await send_reply(refusal(error), tell)
            except Exception as error:
                bad = unforeseen(error)
                if not status:
                    await send_reply(refusal(bad), tell)
        finally:
            took = {"ms": round(1e3 * (time.perf_counter() - began), 1)}
            shown = {"id": name, "method": method, "path": scope["path"][:_PATH], "status": status}
            LOG.info("request", extra={"facts": shown | facts | took})

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        self._hosts.check(headers)
        self._admission.check_open()
        if scope["path"].startswith("/v1"):
            self._key.check(headers.get(b"authorization"))


async def send_reply(reply: Reply, send: Send) -> None:
    """Sends a complete reply as one part."""
    body = b"".join(reply.parts)
    await send(start_of(reply, length=len(body)))
    await send({"type": "http.response.body", "body": body})


def start_of(reply: Reply, *, length: int | None) -> Message:
    """Returns the ASGI message that begins a response."""
    headers = {"content-type": reply.media_type, **reply.headers}
    if length is not None:
        headers["content-length"] = str(length)
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": reply.status, "headers": raw}
