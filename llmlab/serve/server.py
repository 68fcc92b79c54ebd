"""Listening: a socket, uvicorn on it, and an end that loses nobody's answer."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from llmlab.errors import RequestError
from llmlab.protocol.backend import Backend
from llmlab.serve.app import QUEUE, create_app
from llmlab.serve.auth import ApiKey, check_address
from llmlab.serve.line import Line

#: Seconds that connections without a running request are given at the end.
_GOODBYE = 3


def bind(host: str, port: int, *, api_key: str | None) -> socket.socket:
    """A socket bound to an address that may be listened on; port 0 picks a free one. Nobody can connect yet.

    Raises:
        RequestError: an address that needs a key, is taken, or is none of this machine's.
    """
    check_address(host, key=ApiKey(api_key))
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(f"cannot listen on {host}:{port}: {reason}", param="port") from None
    return sock


def listen(sock: socket.socket) -> str:
    """From now on clients may connect, and wait until `serve` answers them; where, as a URL."""
    sock.listen()
    return url_of(sock)


def url_of(sock: socket.socket) -> str:
    """Where it can be reached."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(backend: Backend, sock: socket.socket, *, api_key: str | None = None, max_queue: int = QUEUE) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish what runs; a second signal ends it at once."""
    app = create_app(backend, api_key=api_key, max_queue=max_queue)
    Server(config(app), line=app.state.line).run(sockets=[sock])
    app.state.threads.shutdown(wait=False)


class Server(uvicorn.Server):
    """Between the first signal and the last answer it goes on listening, so as to refuse with 503 what comes."""

    def __init__(self, config: uvicorn.Config, *, line: Line) -> None:
        super().__init__(config)
        self._line = line
        self.loop: asyncio.AbstractEventLoop | None = None  #: once it runs
        self._closing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. Unlike uvicorn's own, it is not raised again at the end: the exit code is 0."""
        if self.loop is None or self._line.closing:
            self.should_exit = self.force_exit = True
        else:
            self.loop.call_soon_threadsafe(self.close)

    def close(self) -> None:
        """Take nothing more and end when what runs has ended. For the event loop's thread."""
        self._line.closing = True
        self._closing = asyncio.create_task(self._finish())

    async def _finish(self) -> None:
        await self._line.empty()
        self.should_exit = True


def config(app: FastAPI) -> uvicorn.Config:
    """How uvicorn runs it: without lines of its own in the log."""
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="off",  # there is nothing to set up, and an end by force would be a traceback in the log
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GOODBYE,
    )
