"""Servers for the tests: in this process, on a free port, with a puppet or the embedded model behind them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from llmlab.serve.app import create_app
from llmlab.serve.server import Server, bind, config, url_of
from tests.serve.puppet import Puppet, wait


class Running:
    """A server that is running in a thread of this process."""

    def __init__(self, backend: Any, **options: Any):
        self.backend = backend
        self.app = create_app(backend, **options)
        self.admission = self.app.state.admission
        self._sock = bind("127.0.0.1", 0, api_key=options.get("api_key"))
        self.port = self._sock.getsockname()[1]
        self.url = url_of(self._sock)
        self.server = Server(config(self.app), admission=self.admission)
        self._clients: list[openai.OpenAI] = []
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._sock]})

    def client(self, **options: Any) -> openai.OpenAI:
        """A client of it; a client's connections are closed with the server."""
        given = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
        self._clients.append(openai.OpenAI(base_url=f"{self.url}/v1", **given))
        return self._clients[-1]

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's."""
        assert self.server.loop is not None
        return self.server.loop

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self.server.should_exit = True
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()
        self.app.state.threads.shutdown()


@contextmanager
def running(backend: Any, **options: Any) -> Iterator[Running]:
    server = Running(backend, **options)
    server.thread.start()
    try:
        wait(lambda: server.server.started)
        yield server
    finally:
        server.stop()


@pytest.fixture(name="running")
def _running():
    return running


@pytest.fixture
def unforeseen():
    """For tests of failures that nobody foresaw: they may be logged."""


@pytest.fixture(autouse=True)
def nothing_unforeseen(request, caplog):
    yield
    if "unforeseen" not in request.fixturenames:
        found = [record.facts for record in caplog.get_records("call") if record.getMessage() == "unforeseen"]
        assert not found


@pytest.fixture
def puppet():
    return Puppet()


@pytest.fixture(scope="session")
def server(demo):
    """The embedded model, served."""
    with running(demo.backend) as server:
        yield server
