"""An event loop on a thread of its own, which waits for endpoints.

Work on an event loop can be cancelled at any await: while it connects, waits between two tries, or reads. Threads that
block in a socket cannot, and would keep the interpreter from ending.

`anyio.from_thread.start_blocking_portal` does almost this, and is not used because of what happens when the garbage
collector closes it, measured with anyio 4.16. If it is collected on the loop's own thread, it tries to join that thread
("cannot join current thread") and the thread stays. If it is collected on another thread, that thread waits until the
loop is free: 3.0 seconds if a callback takes 3 seconds. `close(wait=False)` only posts a callback.
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

#: Seconds that `close` waits for cancelled work to end.
_CLOSE_SECONDS = 5.0


class EventLoop:
    """An event loop on a thread of its own, which runs until `close`.

    Args:
        name: the thread's name.
        on_close: is awaited last, after everything else was cancelled.
    """

    def __init__(self, name: str, *, on_close: Callable[[], Awaitable[None]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        # A daemon thread: an endpoint that does not answer must not delay the end of the program.
        self._thread = threading.Thread(target=_serve, args=(self._loop, on_close), name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine; returns its future. Cancelling the future cancels the coroutine.

        Raises:
            EngineError: the loop is closed.
        """
        with self._lock:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise EngineError("this lab is closed; llmlab.connect makes another", status=503)

    def close(self, *, wait: bool = True) -> None:
        """Cancel all work and end the thread. `wait` must be False where the garbage collector may call this."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._loop.call_soon_threadsafe(self._loop.stop)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_SECONDS)


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
    with contextlib.suppress(Exception):  # closing connections that are gone already raises many kinds of errors
        await on_close()
