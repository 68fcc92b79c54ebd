"""Work that is asked for faster than it can be done: only what was asked last counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Latest:
    """Runs jobs on a thread of its own, one at a time; one that has not begun gives way to the next.

    The thread is there only while there is something to do.

    Args:
        name: the thread's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._job: tuple[Callable[[], None], float] | None = None
        self._busy = False

    def ask(self, job: Callable[[], None], *, delay: float = 0.0) -> None:
        """Run this next, and in `delay` seconds at the earliest: until then another one can take its place."""
        with self._changed:
            self._job = (job, time.monotonic() + delay)
            self._changed.notify_all()
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Until there is nothing left to do; whether that came about in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._job is not None and self._job[1] > time.monotonic():
                    self._changed.wait(self._job[1] - time.monotonic())
                if self._job is None:
                    self._busy = False
                    self._changed.notify_all()
                    return
                job, self._job = self._job[0], None
            try:
                job()
            except BaseException:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
                raise
