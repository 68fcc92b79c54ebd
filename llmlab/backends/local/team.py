"""The processes that share a mesh, as process 0 sees them: it has the lab, and the others follow it."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from llmlab.engine.relay import Calls
from llmlab.errors import CheckpointError, EngineError, cut

#: What a message is about: a model to load, the call of a program, a model to drop, the end.
LOAD, CALL, DROP, END = b"L", b"C", b"D", b"E"
#: The bytes that hold a lab's number, after the kind.
NUMBER = 4
#: Seconds in which a lost connection is noticed after a program that needed it has failed.
_NOTICE_SECONDS = 2.0


class Team:
    """The followers of process 0. Any thread may use it.

    Args:
        connections: one per follower, by the number of its process.

    Attributes:
        lock: is held while a program is told and started, so that all processes start programs in one order.
        on_lost: is called once, from any thread, when a follower is lost.
    """

    def __init__(self, connections: Mapping[int, Connection]) -> None:
        self.lock = threading.RLock()
        self.on_lost: Callable[[EngineError], None] | None = None
        self._connections = dict(connections)
        self._replies: dict[tuple[int, int], dict[str, Any]] = {}  # (lab, process) -> how its load went
        self._changed = threading.Condition()
        self._reason = ""
        self._ended = False
        self._labs = 0
        for process in self._connections:
            threading.Thread(target=self._listen, args=(process,), name="llmlab-team", daemon=True).start()

    @property
    def lost(self) -> EngineError | None:
        """Why nothing can run any more; None while every follower is there."""
        if not self._reason:
            return None
        return EngineError(
            f"{self._reason}; the model was spread over all {len(self._connections) + 1} processes: start all of them "
            "again",
            code="process_lost",
            status=503,
        )

    def share(self, order: Mapping[str, Any]) -> Share:
        """Returns a new lab's part in the team; `order` is what followers load, as far as it is known."""
        with self._changed:
            self._labs += 1
            return Share(self, self._labs, order)

    def tell(self, message: bytes) -> None:
        """Sends a message to all followers.

        Raises:
            EngineError: one of them is lost.
        """
        with self.lock:
            for process, connection in self._connections.items():
                if self._reason or self._ended:
                    break
                try:
                    connection.send_bytes(message)
                except OSError:
                    self.lose(f"process {process} is gone")
        if self._ended:
            raise EngineError("this process is ending", status=503)
        if lost := self.lost:
            raise lost

    def replies(self, lab: int) -> list[dict[str, Any]]:
        """Waits until all followers have said how a load went.

        Raises:
            CheckpointError: it went wrong on one of them; EngineError: one of them is lost.
        """
        keys = [(lab, process) for process in self._connections]
        with self._changed:
            while not all(key in self._replies for key in keys):
                if lost := self.lost:
                    raise lost
                self._changed.wait(timeout=1)  # so that an interrupt is noticed
            found = [self._replies.pop(key) for key in keys]
        for process, reply in zip(self._connections, found, strict=True):
            if "refused" in reply:
                raise CheckpointError(f"process {process} cannot load the model: {reply['refused']}")
        return found

    def lose(self, reason: str) -> None:
        """Notes that the processes no longer agree. The followers end, as their connections do."""
        with self._changed:
            if self._reason or self._ended:
                return
            self._reason = reason
            self._changed.notify_all()
        for connection in self._connections.values():
            _hang_up(connection)
        lost = self.lost
        if self.on_lost is not None and lost is not None:
            self.on_lost(lost)

    def failed(self, error: BaseException) -> EngineError:
        """Notes that a program failed in this process; returns the reason of that."""
        # Where it needed another process, that one's end is the reason, which is noticed a moment later.
        limit = time.monotonic() + _NOTICE_SECONDS
        with self._changed:
            while not self._reason and time.monotonic() < limit:
                self._changed.wait(timeout=limit - time.monotonic())
        self.lose(f"process 0 failed: {type(error).__name__}: {cut(str(error))}")
        lost = self.lost
        assert lost is not None or self._ended
        return lost or EngineError("this process is ending", status=503)

    def end(self) -> None:
        """Lets the followers end, as this process does."""
        with self.lock:
            if not self._reason and not self._ended:
                self._ended = True
                for connection in self._connections.values():
                    with suppress(OSError):  # it has ended already
                        connection.send_bytes(END)

    def _listen(self, process: int) -> None:
        connection = self._connections[process]
        try:
            while True:
                reply = json.loads(connection.recv_bytes())
                if "failed" in reply:
                    self.lose(f"process {process} failed: {reply['failed']}")
                    return
                with self._changed:
                    self._replies[reply["lab"], process] = reply
                    self._changed.notify_all()
        except (EOFError, OSError):
            self.lose(f"process {process} is gone")


def _hang_up(connection: Connection) -> None:
    """Ends a connection that other threads may be reading; closing it would end it only after they have read."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)


class Share:
    """A lab's part in a team: the `Relay` of its engine.

    Args:
        team: the team.
        number: of the lab, by which followers know what belongs to it.
        order: what they load, as far as it is known.
    """

    def __init__(self, team: Team, number: int, order: Mapping[str, Any]) -> None:
        self._team = team
        self._number = number
        self._order = order
        self._calls = Calls(lambda message: team.tell(self._about(CALL) + message), lock=team.lock)
        self._open = False

    @property
    def lost(self) -> EngineError | None:
        """Why nothing can run any more; None while every follower is there."""
        return self._team.lost

    def on_lost(self, tell: Callable[[EngineError], None]) -> None:
        """Calls `tell` once, from any thread, when a follower is lost."""
        self._team.on_lost = tell

    def load(self, **more: Any) -> None:
        """Lets the followers load the model, while this process does the same."""
        self._team.tell(self._about(LOAD) + json.dumps({**self._order, **more}, default=str).encode())
        self._open = True

    def loaded(self) -> list[int]:
        """Waits for the followers; returns the free bytes of each one's devices, of those that know them.

        Raises:
            CheckpointError: one of them cannot load the model; EngineError: one of them is lost.
        """
        frees = [reply["free"] for reply in self._team.replies(self._number)]
        return [free for free in frees if free is not None]

    def told(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a program with its calls made by all processes."""
        return self._calls.told(name, function)

    def failed(self, error: BaseException) -> EngineError:
        """Notes that a program failed in this process; returns the reason of that."""
        return self._team.failed(error)

    def close(self) -> None:
        """Lets the followers free the model. It may run inside a garbage collection, so it waits for no lock."""
        if not self._open or self._team.lost is not None:
            return
        self._open = False
        if self._team.lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._team.lock.release()
        else:
            threading.Thread(target=self._drop, name="llmlab-team", daemon=True).start()

    def _drop(self) -> None:
        with suppress(EngineError):  # nobody is left who would hold it
            self._team.tell(self._about(DROP))

    def _about(self, kind: bytes) -> bytes:
        return kind + self._number.to_bytes(NUMBER, "little")
