"""Process 0 and its followers, without JAX's own part: the connections are real, the followers are threads."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from multiprocessing import Pipe

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from llmlab.backends.local import follower, processes
from llmlab.backends.local.follower import follow
from llmlab.backends.local.meshes import mesh_named, mesh_order
from llmlab.backends.local.team import CALL, DROP, END, LOAD, Team
from llmlab.errors import CheckpointError, EngineError, RequestError
from tests.serve.puppet import wait


@pytest.fixture
def pair():
    """A team of three processes, and the ends of the connections that its two followers have."""
    (one, first), (two, second) = Pipe(), Pipe()
    team = Team({1: one, 2: two})
    yield team, [first, second]
    team.end()
    for end in (first, second):
        end.close()


def test_a_load_waits_for_all_and_takes_the_least_memory(pair):
    team, ends = pair
    share = team.share({"name": "somebody"})
    share.load(dtype="float32")
    for end, free in zip(ends, (7, None), strict=True):
        message = end.recv_bytes()
        assert message[:1] == LOAD and json.loads(message[5:]) == {"name": "somebody", "dtype": "float32"}
        end.send_bytes(json.dumps({"lab": int.from_bytes(message[1:5], "little"), "free": free}).encode())
    assert share.loaded() == [7]
    share.close()
    share.close()
    assert [end.recv_bytes()[:1] for end in ends] == [DROP, DROP]
    team.end()
    assert [end.recv_bytes() for end in ends] == [END, END]
    assert team.lost is None


def test_a_load_that_one_refuses(pair):
    team, ends = pair
    share = team.share({})
    share.load()
    ends[0].send_bytes(json.dumps({"lab": 1, "free": 3}).encode())
    ends[1].send_bytes(json.dumps({"lab": 1, "refused": "no such folder"}).encode())
    with pytest.raises(CheckpointError, match="process 2 cannot load the model: no such folder"):
        share.loaded()
    assert team.lost is None


@pytest.mark.parametrize("said", [None, {"failed": "out of memory"}])
def test_one_that_is_gone_is_the_end_of_all(pair, said):
    team, ends = pair
    told = []
    team.on_lost = told.append
    share = team.share({})
    share.load()
    if said:
        ends[1].send_bytes(json.dumps(said).encode())
    else:
        ends[1].close()
    reason = "process 2 failed: out of memory" if said else "process 2 is gone"
    with pytest.raises(EngineError, match=rf"{reason}; .*all 3 processes: start all of them again") as caught:
        share.loaded()
    assert caught.value.code == "process_lost" and caught.value.status == 503
    # The other one is told by its connection.
    assert ends[0].recv_bytes()[:1] == LOAD
    with pytest.raises(EOFError):
        ends[0].recv_bytes()
    wait(lambda: told)
    assert [error.message for error in told] == [share.lost.message]
    for ask in (lambda: share.told("release", np.negative)(np.zeros(2)), lambda: team.tell(b"")):
        with pytest.raises(EngineError, match=reason):
            ask()
    # A program that needed it fails for that reason, and not for that which the device gives.
    assert reason in share.failed(RuntimeError("Gloo")).message
    share.close()


def test_a_program_that_fails_here_is_the_end_of_all(pair):
    team, ends = pair
    share = team.share({})
    error = share.failed(RuntimeError("RESOURCE_EXHAUSTED"))
    assert error.message.startswith("process 0 failed: RuntimeError: RESOURCE_EXHAUSTED")
    for end in ends:
        with pytest.raises(EOFError):
            end.recv_bytes()


class Programs:
    """Programs of a follower that note their calls."""

    mesh = None

    def __init__(self, calls):
        self.calls = calls

    def replay(self):
        return self

    def run(self, message):
        self.calls.append(message)
        if message == b"fail":
            raise RuntimeError("the device is on fire")


def about(kind, lab):
    return kind + lab.to_bytes(4, "little")


#: The thread on which a follower receives, by its name; and those of them that would have ended their process.
RECEIVER = "llmlab-follow"
_ENDED: list[threading.Thread] = []


@pytest.fixture
def ended(monkeypatch):
    """The exit codes by which followers end the process, and what they say; here they end their thread.

    It outlasts every thread that could end the process: `following` gives its connections up first.
    """
    codes, said = [], []

    def end(code):
        codes.append(code)
        if threading.current_thread().name == RECEIVER:
            _ENDED.append(threading.current_thread())
            threading.Event().wait()  # nothing of a process that has ended goes on; this daemon thread stays
        raise SystemExit

    monkeypatch.setattr(follower.os, "_exit", end)
    monkeypatch.setattr(follower, "_say", said.append)
    return codes, said


@pytest.fixture
def following(ended):
    """Starts a follower on a thread; returns process 0's end of its connection, and the thread."""
    made = []

    def start(load):
        here, there = Pipe()

        def run():
            with suppress(SystemExit):
                follow(there, load, who="process 1 of 2")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        made.append(here)
        return here, thread

    yield start
    # A receiver that outlived `ended` would end the process that runs the tests.
    for end in made:
        with suppress(OSError):
            end.send_bytes(END)
    wait(lambda: all(thread in _ENDED for thread in threading.enumerate() if thread.name == RECEIVER))
    for end in made:
        end.close()


def test_a_follower_loads_runs_drops_and_ends(ended, following):
    calls, orders = [], []

    def load(order):
        orders.append(order)
        if order["name"] == "none":
            raise CheckpointError("there is none")
        return Programs(calls)

    here, thread = following(load)
    here.send_bytes(about(LOAD, 1) + b'{"name": "none"}')
    assert json.loads(here.recv_bytes()) == {"lab": 1, "refused": "there is none"}
    here.send_bytes(about(LOAD, 2) + b'{"name": "some"}')
    assert json.loads(here.recv_bytes()).keys() == {"lab", "free"}
    for text in (b"one", b"two"):
        here.send_bytes(about(CALL, 2) + text)
    here.send_bytes(about(DROP, 2))
    here.send_bytes(END)
    thread.join(timeout=60)
    assert not thread.is_alive() and calls == [b"one", b"two"] and ended[0] == []
    assert [order["name"] for order in orders] == ["none", "some"]


def test_a_follower_whose_program_fails_says_so_and_ends(ended, following):
    here, thread = following(lambda order: Programs([]))
    here.send_bytes(about(LOAD, 1) + b"{}")
    here.recv_bytes()
    here.send_bytes(about(CALL, 1) + b"fail")
    assert json.loads(here.recv_bytes()) == {"failed": "RuntimeError: the device is on fire"}
    thread.join(timeout=60)
    assert not thread.is_alive() and ended[0] == [1]
    assert "process 1 of 2 ends: RuntimeError: the device is on fire" in ended[1]


def test_a_follower_ends_where_process_0_is_gone_although_a_program_runs(ended, following):
    here, _ = following(lambda order: Programs([]))
    here.close()
    wait(lambda: ended[0])
    assert ended[0] == [1] and "process 1 of 2 ends: process 0 is gone, or has lost another process" in ended[1]


def test_which_meshes_span_processes(monkeypatch):
    devices = jax.devices()[:1]
    mesh = Mesh(np.array(devices), ("model",))
    assert not processes._spans_processes(mesh) and not processes._spans_processes("none")
    assert processes._spans_processes("auto")
    # Seen from another process, and from one of two that a mesh of the first leaves out.
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert processes._spans_processes(mesh)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(RequestError, match=r"mesh has devices of processes 0 out of 2") as caught:
        processes._spans_processes(mesh)
    assert caught.value.param == "mesh"


def test_a_mesh_is_told_and_named():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "expert", "model"))
    assert mesh_named(json.loads(json.dumps(mesh_order(mesh)))) == mesh
