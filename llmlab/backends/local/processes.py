"""Where several processes run one program over one mesh (`jax.distributed`): process 0 has the lab, others follow it.

They meet once. Process 0 listens on a port and tells the others its addresses and a key, by JAX's own broadcast over
the devices; each of them connects, and both sides prove that they know the key. A broken connection tells at once that
a process is gone. JAX's own heartbeat takes 100 seconds for that by default.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from queue import Empty, SimpleQueue
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from llmlab.backends.local.follower import follow
from llmlab.backends.local.team import Team
from llmlab.engine.opened import close_engines
from llmlab.engine.programs import Programs
from llmlab.errors import EngineError, RequestError

__all__ = ["team_for"]

#: Seconds in which all processes connect to process 0, once it has told them where it is; and for each of its names.
_JOIN_SECONDS, _CONNECT_SECONDS = 120.0, 5.0
#: The size of that message.
_BYTES = 1024
#: How soon a machine that is switched off is noticed: seconds of silence, between probes, and how many of them.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

_team: Team | None = None
_following = False


def team_for(mesh: Any, load: Callable[[Mapping[str, Any]], Programs]) -> Team | None:
    """Returns the team over which a model is spread, in process 0; None if its mesh lies in this process.

    In every other process this does not return: it follows process 0, and ends the process when that one ends.

    Args:
        mesh: what `load` was given as its mesh.
        load: loads the model that process 0 names; only followers call it.

    Raises:
        RequestError: the mesh lacks devices of some process.
        EngineError: the processes cannot connect.
    """
    global _team, _following  # there is one such group of processes
    if mesh is None or _following or jax.process_count() == 1 or not _spans_processes(mesh):
        return None
    if jax.process_index() == 0:
        if _team is None:
            _team = _gather()
            atexit.register(_end, _team)
        if lost := _team.lost:
            raise lost
        return _team
    _following = True
    follow(_join(), load, who=f"process {jax.process_index()} of {jax.process_count()}")


def _spans_processes(mesh: Any) -> bool:
    if not isinstance(mesh, Mesh):
        return bool(mesh == "auto")
    there = sorted({device.process_index for device in mesh.devices.flat})
    if there == [jax.process_index()]:
        return False
    if there != list(range(jax.process_count())):
        raise RequestError(
            f"mesh has devices of processes {', '.join(map(str, there))} out of {jax.process_count()}: give it some of "
            "every process, or only those of this one (jax.local_devices())",
            param="mesh",
        )
    return True


def _gather() -> Team:
    """Process 0's side of the meeting."""
    key, count = secrets.token_bytes(32), jax.process_count()
    greeted: SimpleQueue[tuple[int, Connection]] = SimpleQueue()
    found: dict[int, Connection] = {}
    with socket.create_server(("", 0), backlog=count) as server:
        _broadcast({"hosts": _own_names(), "port": server.getsockname()[1], "key": key.hex()})
        limit = time.monotonic() + _JOIN_SECONDS
        server.settimeout(0.2)
        while len(found) < count - 1:
            with suppress(TimeoutError):
                sock, _ = server.accept()
                # On a thread, because whoever else connects here may say nothing.
                threading.Thread(target=_greet, args=(sock, key, greeted), daemon=True).start()
            with suppress(Empty):
                process, connection = greeted.get_nowait()
                found[process] = connection
            if time.monotonic() > limit:
                missing = sorted(set(range(1, count)) - set(found))
                raise EngineError(f"processes {missing} have not connected within {_JOIN_SECONDS:.0f} seconds")
    return Team(dict(sorted(found.items())))


def _greet(sock: socket.socket, key: bytes, greeted: SimpleQueue[tuple[int, Connection]]) -> None:
    connection = _connection(sock)
    try:
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        greeted.put((json.loads(connection.recv_bytes()), connection))
    except (OSError, EOFError, ValueError, AuthenticationError):  # it is none of ours
        connection.close()


def _join() -> Connection:
    """A follower's side of the meeting."""
    told, problems = _broadcast(None), []
    for host in told["hosts"]:
        try:
            connection = _connection(socket.create_connection((host, told["port"]), timeout=_CONNECT_SECONDS))
            answer_challenge(connection, bytes.fromhex(told["key"]))
            deliver_challenge(connection, bytes.fromhex(told["key"]))
            connection.send_bytes(json.dumps(jax.process_index()).encode())
            return connection
        except (OSError, EOFError, ValueError, AuthenticationError) as error:
            problems.append(f"{host}:{told['port']}: {error}")
    raise EngineError(
        f"process {jax.process_index()} cannot connect to process 0 ({'; '.join(problems)}): let the hosts reach each "
        "other on all TCP ports"
    )


def _broadcast(message: Mapping[str, Any] | None) -> dict[str, Any]:
    """Sends what process 0 says to all processes, and returns it."""
    said = b"" if message is None else json.dumps(message).encode()
    sent = multihost_utils.broadcast_one_to_all(np.frombuffer(said.ljust(_BYTES), np.uint8))
    found: dict[str, Any] = json.loads(np.asarray(sent).astype(np.uint8).tobytes())
    return found


def _own_names() -> list[str]:
    """The addresses under which others may reach this machine, the likeliest first."""
    names = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.connect(("192.0.2.1", 9))  # sends nothing: it finds the address that leads out
        names.append(sock.getsockname()[0])
    return [*names, socket.gethostname(), "127.0.0.1"]


def _connection(sock: socket.socket) -> Connection:
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(sock.detach())


def _end(team: Team) -> None:
    close_engines()
    team.end()
    if team.lost is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        # At an ordinary exit JAX would wait for the processes that are gone, and abort this one after that.
        os._exit(1)
