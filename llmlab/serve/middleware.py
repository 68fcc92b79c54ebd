"""What wraps every request: the checks of host and key, the refusal at shutdown, the log, a reply to any failure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmlab.errors import LLMLabError
from llmlab.serve.admission import Admission
from llmlab.serve.auth import ApiKey
from llmlab.serve.handler import Reply, plain_path, refusal, request_name
from llmlab.serve.hosts import AllowedHosts
from llmlab.serve.logs import LOG, unforeseen
from llmlab.serve.metrics import Metrics
from llmlab.serve.origins import AllowedOrigins
from llmlab.serve.routes import ROUTES

#: The paths that take no key where the server has one.
OPEN = frozenset({"/docs", "/openapi.json", *(route.path for route in ROUTES if route.is_open)})

#: The most characters of a path that a log line shows.
_PATH = 100


class Middleware:
    """Wraps an application. Handlers add to `scope["facts"]` what the log line should say.

    It is a plain ASGI application rather than a Starlette middleware, because those put a task and a queue between the
    answer and the socket, and hide that a client has disconnected.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: ApiKey,
        hosts: AllowedHosts,
        origins: AllowedOrigins,
        admission: Admission,
        metrics: Metrics | None,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins
        self._metrics = metrics
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
        asked = scope["path"][:_PATH]
        # HEAD is answered as GET; the web server, which sees HEAD in its own scope, leaves the body out.
        scope = {**scope, "path": plain_path(scope["path"]), "method": "GET" if method == "HEAD" else method}
        headers = dict(scope["headers"])
        more = self._origins.headers(headers)
        named = [(name.encode(), value.encode("latin-1")) for name, value in more.items()]

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name.encode()), *named]
            await send(message)

        try:
            try:
                preflight = self._origins.preflight(method, headers)
                self._check(scope, headers, open_to_all=preflight is not None)
                if preflight is not None:
                    await send_reply(Reply(200, iter([]), media_type="text/plain", headers=preflight), tell)
                else:
                    await self._app(scope, receive, tell)
            except LLMLabError as error:
                facts |= {"error": error.code or error.type}
                await send_reply(refusal(error), tell)
            except Exception as error:
                bad = unforeseen(error)
                if not status:
                    await send_reply(refusal(bad), tell)
        finally:
            seconds = time.perf_counter() - began
            shown = {"id": name, "method": method, "path": asked, "status": status}
            LOG.info("request", extra={"facts": shown | facts | {"ms": round(1e3 * seconds, 1)}})
            if self._metrics is not None:
                self._metrics.count(scope["path"], status=status, seconds=seconds, facts=facts)

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes], *, open_to_all: bool) -> None:
        self._hosts.check(headers, trusts_page=self._origins.allows(headers))
        self._admission.check_open()
        if not open_to_all and scope["path"] not in OPEN:
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
