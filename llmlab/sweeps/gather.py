"""Sends many requests to a backend concurrently, and hands over each answer as soon as it is finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any

from llmlab.display.progress import progress_bar
from llmlab.protocol.backend import Backend, Stream
from llmlab.protocol.completion import Completion
from llmlab.sweeps.grid import Cell

#: How many completions are open at once, except that all cells of one prompt are opened together. It is twice the
#: largest batch, so that for each batch slot that becomes free there is a row waiting.
OPEN = 256
#: How many streams are read at once.
READERS = 32
#: Seconds between two updates of the progress bar.
_UPDATE = 0.2
#: Seconds that an interrupt waits for the reader threads. They may be waiting for a compilation, which can take long.
_LAST = 2.0
_NAME = "sweep"


def gather(backend: Backend, cells: Sequence[Cell], *, keep: Callable[[int, Completion], None]) -> None:
    """Run the requests of all cells, and call `keep` with each cell's index and answer as soon as it is finished.

    All cells of a prompt are opened together, so that its prefill runs once; then those of the next prompt follow, as
    long as there is room. `keep` is called on the calling thread. An interrupt or an error stops all running requests,
    and is raised after `keep` was called for each answer that was finished by then.

    Args:
        backend: the model to ask. If it has a `concurrency`, at most so many requests are open at a time; it may change
            while the sweep runs.
        cells: in the order in which they are run; those of one prompt are next to each other.
        keep: takes an index and an answer; if it raises an error, everything stops.
    """
    waiting = deque(enumerate(cells))
    reading: dict[Future[Completion], tuple[int, Stream]] = {}
    count = _Count()
    latest: Cell | None = None
    # Where the backend has a limit, each open stream has a reader; threads are only made when they are needed.
    readers = READERS if backend.concurrency is None else max(OPEN, backend.concurrency)
    pool = ThreadPoolExecutor(readers, thread_name_prefix="llmlab-sweep")
    with (
        progress_bar(total=sum(cell.request.n for cell in cells), unit="completion", description=_NAME) as bar,
        backend.together(),
    ):
        try:
            while waiting or reading:
                streams = [stream for _, stream in reading.values()]
                opened = bool(waiting) and _is_room(waiting[0][1], latest, streams, backend.concurrency)
                if opened:
                    index, latest = waiting.popleft()
                    stream = backend.stream(latest.request, order=latest.order)
                    reading[pool.submit(_read, stream, count)] = index, stream
                done, _ = wait(reading, timeout=0 if opened else _UPDATE, return_when=FIRST_COMPLETED)
                for future in done:
                    keep(reading.pop(future)[0], future.result())
                count.show(bar)
        except BaseException:
            for _, stream in reading.values():
                stream.close()  # its reader thread then ends by itself
            for future in wait(reading, timeout=_LAST).done:
                if future.exception() is None and _is_whole(future.result()):
                    keep(reading[future][0], future.result())
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _is_room(cell: Cell, latest: Cell | None, open_streams: Sequence[Stream], limit: int | None) -> bool:
    """Whether the request of `cell` may be opened now."""
    if limit is not None:
        return len(open_streams) < limit
    if latest is not None and latest.point.get("prompt") == cell.point.get("prompt"):
        return True
    return sum(stream.header.request.n for stream in open_streams) < OPEN


def _read(stream: Stream, count: _Count) -> Completion:
    ended = 0

    def restart() -> None:
        nonlocal ended
        count.end(-ended)
        ended = 0

    stream.on_wait(count.wait)
    stream.on_restart(restart)
    for delta in stream:
        if delta.finish_reason is not None:
            ended += 1
            count.end()
    return stream.result()


def _is_whole(completion: Completion) -> bool:
    reasons = [choice.finish_reason for choice in completion.choices]
    return len(reasons) >= completion.request.n and "interrupted" not in reasons


class _Count:
    """Counts the finished completions of all reader threads, and knows what they wait for."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._completions = 0
        self._waits_for = ""

    def end(self, more: int = 1) -> None:
        """Count more finished completions, or fewer where an answer begins anew."""
        with self._lock:
            self._completions += more
            self._waits_for = ""

    def wait(self, what: str) -> None:
        """Note what a reader waits for, such as a compilation; waiting for the answer itself is not worth a word."""
        self._waits_for = "" if what == "waiting" else what

    def show(self, bar: Any) -> None:
        """Update a progress bar."""
        bar.set_description_str(f"{_NAME}, {self._waits_for}" if self._waits_for else _NAME, refresh=False)
        bar.update(self._completions - bar.n)
