"""The engines that are open, which have to end before the interpreter does."""

from __future__ import annotations

import atexit
import weakref
from typing import Protocol

__all__ = ["OPENED", "close_engines"]


class _Closable(Protocol):
    def close(self) -> None: ...


OPENED: weakref.WeakSet[_Closable] = weakref.WeakSet()


@atexit.register
def close_engines() -> None:
    """Ends all driver threads at exit: one inside XLA while the interpreter shuts down would abort the process."""
    for engine in list(OPENED):
        engine.close()
