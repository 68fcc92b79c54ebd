"""Reads a backend's stream to its end, under a progress bar; an interrupt keeps the part that was generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from llmlab.display.progress import progress_bar
from llmlab.protocol.backend import Stream
from llmlab.protocol.completion import Completion

Kept = TypeVar("Kept")


def read(source: Stream, keep: Callable[[Completion], Kept]) -> Kept:
    """Waits for the end of a stream; returns what `keep` makes of the whole completion.

    An interrupt stops the work, passes the unfinished completion to `keep`, and is raised again. Any other error stops
    the work and is raised again.

    Args:
        source: the backend's stream.
        keep: called once, with the completion.
    """
    try:
        _wait(source)
    except KeyboardInterrupt as interrupt:
        keep_part(source, keep, interrupt)
        raise
    except BaseException:
        source.close()
        raise
    return keep(source.result())


def keep_part(source: Stream, keep: Callable[[Completion], object], interrupt: KeyboardInterrupt) -> None:
    """Stops a stream after an interrupt, keeps the unfinished completion, and notes in the error where it is."""
    source.close()
    keep(source.result())
    interrupt.add_note("What was made before the interrupt is in `lab.last`.")


def _wait(source: Stream) -> None:
    request = source.header.request
    total = None if request.token_limit is None else request.token_limit * request.n
    with progress_bar(total=total, unit="token") as bar:
        source.on_wait(bar.set_description_str)
        source.on_restart(lambda: bar.update(-bar.n))
        for delta in source:
            bar.set_description_str(None, refresh=False)
            bar.update(len(delta.tokens))
