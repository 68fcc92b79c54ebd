"""A process that follows process 0: it loads the same models onto its own devices, and runs the same programs."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import FrameType
from typing import Any, NoReturn

from llmlab.backends.local.devices import free_memory, own_devices
from llmlab.backends.local.team import CALL, DROP, END, LOAD, NUMBER
from llmlab.engine.programs import Programs
from llmlab.engine.relay import Replay
from llmlab.errors import LLMLabError

#: Exit codes: something went wrong; a second Ctrl-C.
_FAILED, _INTERRUPTED = 1, 130


def follow(connection: Connection, load: Callable[[Mapping[str, Any]], Programs], *, who: str) -> NoReturn:
    """Does what process 0 says until that process ends; then this one ends too, with exit code 0.

    Exit code 1 tells that process 0 is gone without a word, or that a program failed; a line on stderr says which. The
    first Ctrl-C or SIGTERM is left to process 0, which has requests to finish; a second one ends this process.

    Args:
        connection: to process 0.
        load: loads the model that process 0 names, and returns its programs.
        who: this process, for messages.
    """
    _say(f"{who} follows process 0, and ends with it")
    _keep_signals_back(who)
    messages: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, messages, who), name="llmlab-follow", daemon=True).start()
    labs: dict[int, Replay] = {}
    while True:
        message = messages.get()
        kind, number = message[:1], int.from_bytes(message[1 : 1 + NUMBER], "little")
        if kind == END:
            raise SystemExit(0)
        if kind == DROP:
            labs.pop(number, None)
            gc.collect()
        elif kind == LOAD:
            reply: dict[str, Any] = {"lab": number}
            try:
                programs = load(json.loads(message[1 + NUMBER :]))
                labs[number] = programs.replay()
                reply["free"] = free_memory(own_devices(programs.mesh))
            except LLMLabError as error:
                reply["refused"] = error.message
            except Exception as error:  # whatever it is, process 0 waits for an answer
                reply["refused"] = f"{type(error).__name__}: {error}"
            _reply(connection, reply)
        elif kind == CALL:
            try:
                labs[number].run(message[1 + NUMBER :])
            except Exception as error:  # what the processes hold differs from here on
                reason = f"{type(error).__name__}: {error}"
                _reply(connection, {"failed": reason})
                _fail(f"{who} ends: {reason}")


def _receive(connection: Connection, messages: SimpleQueue[bytes], who: str) -> None:
    """Receives messages on a thread of its own: the main thread may wait in a program for a process that is gone."""
    kind = b""
    try:
        while kind != END:
            message = connection.recv_bytes()
            kind = message[:1]
            messages.put(message)
    except (EOFError, OSError):
        _fail(f"{who} ends: process 0 is gone, or has lost another process")


def _reply(connection: Connection, reply: Mapping[str, Any]) -> None:
    with suppress(OSError):  # the next message will not come either
        connection.send_bytes(json.dumps(reply).encode())


def _keep_signals_back(who: str) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        if seen:
            _say(f"{who} is interrupted")
            os._exit(_INTERRUPTED)
        seen.append(number)
        _say(f"{who} ends when process 0 does; Ctrl-C again ends it at once, and all others with it")

    seen: list[int] = []
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, handle)


def _say(text: str) -> None:
    sys.stderr.write(f"llmlab: {' '.join(text.split())}\n")
    sys.stderr.flush()


def _fail(text: str) -> NoReturn:
    _say(text)
    sys.stdout.flush()
    # Not SystemExit: at an ordinary exit JAX would wait for processes that are gone.
    os._exit(_FAILED)
