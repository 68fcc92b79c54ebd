"""Two and four processes over one mesh answer as one process does, and none is left where one of them dies."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import llmlab
from llmlab.testing import tiny_checkpoint
from tests.backends.processes import Processes, answers, environment, free_port
from tests.serve.process import _SERVE, Process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny", num_hidden_layers=1)


@pytest.fixture(scope="module")
def alone(folder):
    """The answers of one process."""
    lab = llmlab.load(folder, slots=4, max_context=128, quiet=True)
    yield answers(lab, every=True)
    lab.close()


@pytest.fixture
def start(folder, tmp_path):
    started = []

    def make(**options):
        started.append(Processes(folder, logs=tmp_path, **options))
        return started[-1]

    yield make
    for each in started:
        each.kill()


def test_two_processes_answer_as_one_and_end_with_process_0(start, alone):
    two = start(shape=(1, 2), every=True)
    found = two.said()
    assert found["chat"] == alone["chat"] and found["json"] == alone["json"]
    for name in ("next", "step", "score"):
        difference = np.abs(np.array(found[name]) - np.array(alone[name])).max()
        print(f"{name}: largest difference {difference:.1e}")
        assert difference < 1e-4
    assert 0.5 <= found["held"] < 0.8  # heads and units are divided; a vocabulary of 261 and norms are not
    # A second model in the same processes.
    assert two.ask("again")["chat"] == alone["chat"]
    two.all[0].kill()
    codes = two.end()
    # JAX may notice it first, and then aborts the process with a message of its own.
    said = two.logs[1].read_text()
    assert codes[1] != 0 and ("process 1 of 2 ends: process 0 is gone" in said or "another task died" in said)


@pytest.mark.exhaustive
def test_four_processes_answer_as_one_and_end_with_any_of_them(start, alone):
    four = start(shape=(2, 2), every=False)
    assert four.said()["chat"] == alone["chat"]
    four.all[3].kill()
    four.all[3].wait()
    lost = four.ask("more")
    assert lost["code"] == "process_lost" and lost["error"].startswith("process 3 is gone; ")
    codes = four.end()
    assert codes[0] == 1 and 0 not in codes
    for log in four.logs[1:3]:
        assert "process 0 is gone, or has lost another process" in log.read_text() or "ends:" in log.read_text()


def test_the_same_command_on_each_host_serves_and_ends(folder, alone, tmp_path):
    options = [
        *("--model", str(folder), "--slots", "4", "--max-context", "128"),
        *("--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--process"),
    ]
    with (tmp_path / "1.log").open("w") as err:
        command = [sys.executable, "-c", _SERVE, "serve", *options, "1"]
        follower = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=err)
    server = None
    try:
        server = Process(*options, "0", log=tmp_path / "0.log", JAX_PLATFORMS="cpu", XLA_FLAGS="")
        there = llmlab.connect(server.api, quiet=True)
        assert there.chat("Hello", seed=3, max_tokens=12, temperature=0.8, n=3).texts == alone["texts"]
        there.close()
        server.tell_to_end()
        assert server.end()[0] == 0 and follower.wait(timeout=60) == 0
    finally:
        if server is not None:
            server.kill()
        follower.kill()
        follower.wait()
