"""Runs the cells of a grid that have no answer yet, and writes the answers to a file while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from llmlab.errors import RequestError
from llmlab.protocol.backend import Backend
from llmlab.protocol.completion import Completion
from llmlab.sweeps.file import save_sweep
from llmlab.sweeps.gather import gather
from llmlab.sweeps.grid import Grid

#: The least number of seconds between two writes of the file while a sweep runs. The pause is at least ten times as
#: long as the last write, so that writing never takes more than a tenth of the time.
SAVE_SECONDS = 30.0


def run(backend: Backend, grid: Grid, kept: dict[int, Completion], *, path: Path | None = None) -> None:
    """Ask for the answers that are missing in `kept`, and add them to it as they finish.

    If it is interrupted or fails, the answers that were finished by then are in `kept`, and in the file.

    Args:
        backend: the model to ask.
        grid: the cells.
        kept: index of a cell -> its answer; changed in place.
        path: a .parquet file, which is written from time to time and at the end; None writes no file.
    """
    missing = [index for index in range(len(grid.cells)) if index not in kept]
    saved, took = time.monotonic(), 0.0

    def write() -> None:
        nonlocal saved, took
        if path is not None:
            began = time.monotonic()
            save_sweep(grid, dict(sorted(kept.items())), path)
            saved = time.monotonic()
            took = saved - began

    def keep(index: int, completion: Completion) -> None:
        kept[missing[index]] = completion
        if time.monotonic() - saved > max(SAVE_SECONDS, 10 * took):
            write()

    try:
        gather(backend, [grid.cells[index] for index in missing], keep=keep)
    finally:
        write()


def check_same_model(backend: Backend, grid: Grid, completions: Mapping[int, Completion]) -> None:
    """Check that a saved sweep can be continued here: answers of different models, devices or versions do not compare.

    Raises:
        RequestError: the sweep was made with another model, on another device, or with another version.
    """
    here = backend.name, backend.system_fingerprint
    for completion in completions.values():
        # A remote endpoint reports its fingerprint with each answer only, so it cannot be compared beforehand.
        there = grid.model, completion.system_fingerprint if here[1] else ""
        if there != here:
            raise RequestError(
                f"the sweep to resume was made with {' on '.join(filter(None, there))}, and this lab has "
                f"{' on '.join(filter(None, here))}; resume=False starts a new sweep",
                param="resume",
            )


def target(save: str | os.PathLike[str] | None) -> Path | None:
    """The path to save to, checked before the sweep runs: an error after hours of work would come too late.

    Raises:
        RequestError: it does not end in .parquet, or its folder does not exist.
    """
    if save is None:
        return None
    from llmlab.frames.parquet import check_target

    return check_target(save)
