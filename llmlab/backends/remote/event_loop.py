"""A thread that waits for endpoints, so that nobody else has to.

Work on an event loop can be cancelled at any await: while it connects, waits between two tries, or reads. Threads that
block in a socket cannot, and would keep an interpreter from its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from llmlab.errors import EngineError

T = TypeVar("T")

#: Seconds that `close` waits for what was cancelled to come to its end.
_PATIENCE = 5.0


class EventLoop:
    """An event loop on a thread of its own, from the start until `close`.

    Args:
        name: the thread's.
        on_close: what is to be done last.
    """

    def __init__(self, name: str, *, on_close: Callable[[], Awaitable[None]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        # A daemon: an endpoint that does not answer must not hold up the end of the program.
        self._thread = threading.Thread(target=_serve, args=(self._loop, on_close), name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start it; cancelling the future cancels the work.

        Raises:
            EngineError: the loop is closed.
        """
        with self._lock:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise EngineError("this lab is closed; llmlab.connect makes another", status=503)

    def close(self, *, wait: bool = True) -> None:
        """Cancel everything, and end the thread. Not to be waited for where a garbage collector calls this."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._loop.call_soon_threadsafe(self._loop.stop)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(_PATIENCE)


def _serve(loop: asyncio.AbstractEventLoop, on_close: Callable[[], Awaitable[None]]) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_end(asyncio.all_tasks(loop), on_close))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _end(tasks: set[asyncio.Task[Any]], on_close: Callable[[], Awaitable[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(Exception):  # connections that are gone already complain in many ways
        await on_close()
