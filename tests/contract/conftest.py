from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from llmlab.lab.lab import Lab
from tests.contract.ways import NAMES, Way
from tests.serve.process import Process


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The `openai` client of `llmlab serve`, which runs in a process of its own until it is told to end."""
    options = ("--model", "demo", "--slots", "8", "--max-context", "512")  # as the lab beside it
    process = Process(*options, log=tmp_path_factory.mktemp("serve") / "log", LLMLAB_API_KEY="secret")
    try:
        with openai.OpenAI(base_url=process.api, api_key="secret", max_retries=0, timeout=120) as client:
            yield client
        process.tell_to_end()
        assert process.end() == (0, "")
    finally:
        process.kill()
    answered = [line for line in process.lines if line["event"] == "request"]
    assert len(answered) > 1 and answered == process.lines, "nothing that nobody foresaw, and nothing else to say"
    assert {line["status"] for line in answered} <= {200, 400, 404}
    assert "Traceback" not in process.log and "Warning" not in process.log


@pytest.fixture(scope="session", params=NAMES)
def way(request: pytest.FixtureRequest, client: openai.OpenAI, demo: Lab) -> Way:
    """Each way to ask, one after the other."""
    return Way(request.param, demo, client)


@pytest.fixture(scope="session", params=[name for name in NAMES if name != "chat"])
def streaming(request: pytest.FixtureRequest, client: openai.OpenAI, demo: Lab) -> Way:
    """The ways that give an answer in chunks."""
    return Way(request.param, demo, client)
