"""Many requests at once: opened together, read side by side, counted as they finish, kept where a run breaks off."""

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

#: Completions that are open at once, if that is not in the middle of a prompt's cells: twice the widest batch, so that
#: a row waits for every slot that comes free.
OPEN = 256
#: Streams that are read at once.
READERS = 32
#: Seconds between two looks at how far the readers are.
_LOOK = 0.2
#: Seconds that an interrupt waits for the readers: the engine may be compiling, and nothing comes of waiting for that.
_LAST = 2.0
_NAME = "sweep"


def gather(backend: Backend, cells: Sequence[Cell], *, keep: Callable[[int, Completion], None]) -> None:
    """Ask everything, and hand each cell's index and whole answer to `keep`, on this thread, as they get whole.

    All cells of a prompt are opened together, so that the prompt is read once, and then those of the next, as long as
    there is room; the cells get whole one after the other. An interrupt or an error stops what runs; what was whole by
    then has been kept before it is raised.

    Args:
        backend: who answers. One with a `concurrency` is asked so many requests at a time.
        cells: in the order in which they are to be asked, those of one prompt next to each other.
        keep: may raise, which stops everything.
    """
    limit = backend.concurrency
    waiting = deque(enumerate(cells))
    reading: dict[Future[Completion], tuple[int, Stream]] = {}
    count = _Count()
    latest: Cell | None = None
    pool = ThreadPoolExecutor(limit or READERS, thread_name_prefix="llmlab-sweep")
    with (
        progress_bar(total=sum(cell.request.n for cell in cells), unit="completion", description=_NAME) as bar,
        backend.together(),
    ):
        try:
            while waiting or reading:
                opened = bool(waiting) and _is_room(waiting[0][1], latest, [s for _, s in reading.values()], limit)
                if opened:
                    index, latest = waiting.popleft()
                    stream = backend.stream(latest.request, order=latest.order)
                    reading[pool.submit(_read, stream, count)] = index, stream
                done, _ = wait(reading, timeout=0 if opened else _LOOK, return_when=FIRST_COMPLETED)
                for future in done:
                    keep(reading.pop(future)[0], future.result())
                count.show(bar)
        except BaseException:
            for _, stream in reading.values():
                stream.close()  # its reader then comes to the end by itself
            for future in wait(reading, timeout=_LAST).done:
                if future.exception() is None and _is_whole(future.result()):
                    keep(reading[future][0], future.result())
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _is_room(cell: Cell, latest: Cell | None, open_streams: Sequence[Stream], limit: int | None) -> bool:
    """Whether one more request may be opened."""
    if limit is not None:
        return len(open_streams) < limit
    if latest is not None and latest.point.get("prompt") == cell.point.get("prompt"):
        return True
    return sum(stream.header.request.n for stream in open_streams) < OPEN


def _read(stream: Stream, count: _Count) -> Completion:
    stream.on_wait(count.wait)
    for delta in stream:
        if delta.finish_reason is not None:
            count.end()
    return stream.result()


def _is_whole(completion: Completion) -> bool:
    reasons = [choice.finish_reason for choice in completion.choices]
    return len(reasons) >= completion.request.n and "interrupted" not in reasons


class _Count:
    """How many completions the readers have seen the end of, and what they wait for."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._completions = 0
        self._waits_for = ""

    def end(self) -> None:
        """A completion has ended."""
        with self._lock:
            self._completions += 1
            self._waits_for = ""

    def wait(self, what: str) -> None:
        """A reader waits; the backend says what for, and that is worth a word where it is not for the answer."""
        self._waits_for = "" if what == "waiting" else what

    def show(self, bar: Any) -> None:
        """Bring a progress bar up to date."""
        bar.set_description_str(f"{_NAME}, {self._waits_for}" if self._waits_for else _NAME, refresh=False)
        bar.update(self._completions - bar.n)
