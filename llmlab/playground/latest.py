"""Runs jobs in the background when they are requested faster than they can be done: only the latest one counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Latest:
    """Runs jobs on a thread of its own, one at a time. A job that has not started is replaced by the next one.

    The thread exists only while there is something to do.

    Args:
        name: the name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._job: tuple[Callable[[], None], float] | None = None
        self._busy = False

    def ask(self, job: Callable[[], None], *, delay: float = 0.0) -> None:
        """Run a job next, after `delay` seconds at the earliest; until it starts, another job can replace it."""
        with self._changed:
            self._job = (job, time.monotonic() + delay)
            self._changed.notify_all()
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is nothing left to do; returns False if that took longer than `timeout` seconds."""
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
