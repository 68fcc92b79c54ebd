"""Compiles programs before they are wanted: at once while a caller waits, or while the engine has nothing to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmlab.engine.lanes import Lanes
from llmlab.engine.programs import Programs
from llmlab.engine.sharing import visits as shared_visits
from llmlab.engine.visits import Visit, visits

__all__ = ["Spare", "every_visit"]


def every_visit(programs: Programs, lanes: Lanes, *, lengths: tuple[int, ...], orders: tuple[str, ...]) -> list[Visit]:
    """Visits to every shape that an engine can meet: single rows and short texts first, as they will be wanted."""
    widths = {length: lanes.allowed_widths(length) for length in lengths}
    found = [
        *visits(programs, widths=widths, orders=orders),
        *shared_visits(programs, lengths=lengths, widths=lanes.shared_widths, orders=orders),
    ]
    return sorted(found, key=lambda visit: visit.size)


class Spare:
    """Visits that the driver thread makes while it has nothing else to do, one program at a time.

    A request that comes meanwhile waits for one program at most. The first program that cannot be compiled ends this;
    the request that needs it gets the error.
    """

    def __init__(self) -> None:
        self._left: list[Visit] = []
        self._steps: Iterator[None] | None = None

    def add(self, visits: Sequence[Visit]) -> None:
        """Makes these visits too, after those that are left."""
        self._left += visits

    def clear(self) -> None:
        """Drops all that is left."""
        self._left, self._steps = [], None

    def pause(self) -> None:
        """Frees the arrays of the visit that is being made, which is made again from its beginning."""
        self._steps = None

    def step(self) -> None:
        """Compiles what comes next."""
        if self._steps is None:
            self._steps = self._left[0].steps()
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
            del self._left[0]
        except Exception:
            self.clear()

    def __bool__(self) -> bool:
        return bool(self._left)
