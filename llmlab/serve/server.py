"""Runs the application with uvicorn: binds a socket, listens, and shuts down after the last answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from llmlab.errors import RequestError
from llmlab.protocol.backend import Backend
from llmlab.serve.admission import Admission
from llmlab.serve.app import QUEUE, create_app
from llmlab.serve.auth import ApiKey, check_address

#: Seconds that idle connections get at shutdown.
_GOODBYE = 3


def bind(host: str, port: int, *, api_key: str | None) -> socket.socket:
    """Returns a socket bound to an address; port 0 picks a free one. Clients cannot connect before `listen`.

    Raises:
        RequestError: the address needs a key, is in use, or is not an address of this machine.
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
    """Lets clients connect (they wait until `serve` answers them), and returns the URL."""
    sock.listen()
    return url_of(sock)


def url_of(sock: socket.socket) -> str:
    """Returns the URL of a bound socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    backend: Backend,
    sock: socket.socket,
    *,
    api_key: str | None = None,
    allow_hosts: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
    max_queue: int = QUEUE,
) -> None:
    """Answers requests until SIGTERM or SIGINT, then finishes running ones; a second signal stops at once."""
    app = create_app(
        backend, api_key=api_key, allow_hosts=allow_hosts, allow_origins=allow_origins, max_queue=max_queue
    )
    Server(config(app), admission=app.state.admission).run(sockets=[sock])
    app.state.threads.shutdown(wait=False)


class Server(uvicorn.Server):
    """A server that keeps listening between the first signal and the last answer, to refuse new requests with 503."""

    def __init__(self, config: uvicorn.Config, *, admission: Admission) -> None:
        super().__init__(config)
        self._admission = admission
        self.loop: asyncio.AbstractEventLoop | None = None  #: None before it runs
        self._closing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to accept connections."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal. Unlike uvicorn, does not raise it again at the end, so that the exit code is 0."""
        if self.loop is None or self._admission.closing:
            self.should_exit = self.force_exit = True
        else:
            self.loop.call_soon_threadsafe(self.close)

    def close(self) -> None:
        """Accepts no more requests and stops after the running ones. Call it on the event loop's thread."""
        self._admission.closing = True
        self._closing = asyncio.create_task(self._finish())

    async def _finish(self) -> None:
        await self._admission.empty()
        self.should_exit = True


def config(app: FastAPI) -> uvicorn.Config:
    """Returns uvicorn's configuration: no log lines of its own, no lifespan, no websockets."""
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="off",  # there is nothing to set up, and a forced stop would log a traceback
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GOODBYE,
    )
