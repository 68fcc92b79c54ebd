from __future__ import annotations

import threading
from collections.abc import Iterator

import openai
import pytest
import uvicorn

from llmlab.lab.lab import Lab
from llmlab.serve.app import create_app
from llmlab.serve.server import Server, bind, url_of
from tests.contract.ways import NAMES, Way


@pytest.fixture(scope="session")
def client(demo: Lab) -> Iterator[openai.OpenAI]:
    """The `openai` client of an endpoint that runs what `llmlab serve` runs, on a socket, beside the tests."""
    sock = bind("127.0.0.1", 0, api_key="secret")
    app = create_app(demo.backend, api_key="secret")
    server = Server(uvicorn.Config(app, log_config=None), line=app.state.line)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    with openai.OpenAI(base_url=url_of(sock) + "/v1", api_key="secret", max_retries=0, timeout=120) as client:
        yield client
    server.should_exit = True
    thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.fixture(scope="session", params=NAMES)
def way(request: pytest.FixtureRequest, demo: Lab, client: openai.OpenAI) -> Way:
    """Each way to ask, one after the other."""
    return Way(request.param, demo, client)


@pytest.fixture(scope="session", params=[name for name in NAMES if name != "chat"])
def streaming(request: pytest.FixtureRequest, demo: Lab, client: openai.OpenAI) -> Way:
    """The ways that give an answer in chunks."""
    return Way(request.param, demo, client)
