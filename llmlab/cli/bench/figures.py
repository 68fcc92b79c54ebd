"""One measured figure, and how it travels between the processes that measure."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO, TypeVar

__all__ = ["Figure", "ceilings_of", "compiled", "from_line", "in_turn", "last_line", "seconds", "to_line"]


K = TypeVar("K")


class Figure(NamedTuple):
    """What was measured, of what, and how much of what the device can do that is."""

    work: str  #: the kind of work, such as "decode"
    setting: str  #: what distinguishes this figure from the others of its work
    value: float | None  #: None where it could not be measured; `note` says why
    unit: str  #: "tokens/s", "ms", "GB/s", "x" (a ratio)
    share: float | None = None  #: of the device's ceiling, 0..1; None where no ceiling applies
    ceiling: str = ""  #: the name of that ceiling
    note: str = ""


def to_line(figure: Figure) -> str:
    """A figure as one line of JSON."""
    return json.dumps(figure._asdict())


def from_line(line: str) -> Figure | None:
    """The figure of a line; None for a line of something else, such as a library's own output."""
    try:
        return Figure(**json.loads(line))
    except (ValueError, TypeError):
        return None


def seconds(run: Callable[[], Any], *, repeats: int = 3) -> float:
    """The median time of a run; the first, which compiles, is not counted."""
    return in_turn({"": run}, repeats=repeats)[""]


def in_turn(runs: Mapping[K, Callable[[], Any]], *, repeats: int = 3) -> dict[K, float]:
    """The median time of each run, one after the other in each round, so that a slow moment meets all of them."""
    for run in runs.values():
        run()
    rounds = [{name: _timed(run) for name, run in runs.items()} for _ in range(repeats)]
    return {name: statistics.median(one[name] for one in rounds) for name in runs}


def _timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@contextmanager
def compiled() -> Iterator[list[float]]:
    """A list that the seconds of each compilation are added to while the context lasts."""
    import jax

    found: list[float] = []
    open_ = [True]

    def count(event: str, duration_secs: float, **_: str | int) -> None:
        if open_ and event.endswith("backend_compile_duration"):
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        yield found
    finally:
        open_.clear()  # jax has no public way to take a listener back


def last_line(said: TextIO) -> str:
    """The last line of what a process wrote into a file, which is where Python says what went wrong."""
    said.seek(0)
    return (said.read().strip().splitlines() or [""])[-1]


def ceilings_of(figures: Sequence[Figure]) -> dict[str, float]:
    """The device's own rates by name, in bytes, operations or launches a second, out of the figures of a run."""
    rates = [one for one in figures if one.work == "ceiling" and one.unit.startswith("G")]
    return {one.setting: one.value * 1e9 for one in rates if one.value}
