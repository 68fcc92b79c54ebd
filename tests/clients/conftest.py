"""`llmlab serve` with the embedded model, and the programs that ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.environment import Programs, python_of_the_programs
from tests.serve.process import Process


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """The programs; the server's width is that of the fixture `demo`, so that the answers are the same."""
    python, folder = python_of_the_programs(), tmp_path_factory.mktemp("clients")
    server = Process("--slots", "8", "--max-context", "512", log=folder / "log")
    try:
        yield Programs(python, api=server.api, home=folder)
        server.tell_to_end()
        code, _ = server.end()
        # Whatever the programs sent, it was answered or refused.
        statuses = [line["status"] for line in server.lines if "status" in line]
        assert code == 0 and statuses and max(statuses) < 500
    finally:
        server.kill()
