"""Running a sweep: what is asked, what is there already, and what is left where it breaks off."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmlab.errors import RequestError
from llmlab.metrics import Metric
from llmlab.protocol.arguments import flag, listed
from llmlab.protocol.completion import Completion
from llmlab.sweeps.gather import gather
from llmlab.sweeps.grid import Grid, build
from llmlab.sweeps.sweep import Sweep
from llmlab.sweeps.table import check_metrics

if TYPE_CHECKING:
    from llmlab.lab.lab import Lab

#: A sweep that is being saved is written about once in so many seconds, and never takes more than a tenth of the time.
SAVE_SECONDS = 30.0


def sweep(
    lab: Lab,
    messages: Any,
    *,
    order: str | Sequence[str],
    n: int | None,
    seed: int | None,
    independent: bool,
    metrics: Mapping[str, Metric] | None,
    save: str | os.PathLike[str] | None,
    resume: bool | Sweep,
    fields: Mapping[str, Any],
) -> Sweep:
    """What `Lab.sweep` does."""
    if not isinstance(resume, Sweep):
        flag("resume", resume)
    flag("independent", independent)
    order = order if isinstance(order, str) else listed("order", order, of="orders")
    if getattr(messages, "ndim", 0) == 1:
        messages = messages.tolist()  # a frame's column of prompts
    path = target(save)
    earlier = resume if isinstance(resume, Sweep) else None
    if resume is True and path is not None and path.exists():
        earlier = Sweep.load(path)
    if seed is None and earlier is not None:
        seed = earlier.seed
    grid = build(
        lab.request,
        messages,
        model=lab.backend.name,
        order=order,
        n=n,
        seed=seed,
        independent=independent,
        fields=fields,
    )
    chosen = check_metrics(metrics, grid.axes)
    done: dict[int, Completion] = {}
    if earlier is not None:
        check_same_model(lab, earlier)
        done = _known(grid, earlier, path)
    return run(lab, grid, done, metrics=chosen, path=path)


def run(
    lab: Lab,
    grid: Grid,
    done: Mapping[int, Completion],
    *,
    metrics: Mapping[str, Metric],
    path: Path | None,
) -> Sweep:
    """Ask the cells that are not done, writing to `path` now and then; an interrupt leaves its part in `last_sweep`."""
    kept = dict(done)
    missing = [index for index in range(len(grid.cells)) if index not in kept]
    saved, took = time.monotonic(), 0.0

    def write() -> None:
        nonlocal saved, took
        if path is not None:
            began = time.monotonic()
            Sweep(grid, kept).save(path)
            saved = time.monotonic()
            took = saved - began

    def keep(index: int, completion: Completion) -> None:
        kept[missing[index]] = completion
        if time.monotonic() - saved > max(SAVE_SECONDS, 10 * took):
            write()

    try:
        gather(lab.backend, [grid.cells[index] for index in missing], keep=keep)
    except BaseException as error:
        lab.last_sweep = Sweep(grid, kept, lab=lab, metrics=metrics)
        error.add_note(
            f"{len(kept)} of {len(grid.cells)} cells are in `lab.last_sweep`{f' and in {path}' if path else ''}; "
            "its resume() asks the rest."
        )
        write()
        raise
    lab.last_sweep = Sweep(grid, kept, lab=lab, metrics=metrics)
    write()
    return lab.last_sweep


def check_same_model(lab: Lab, earlier: Sweep) -> None:
    """A sweep must not mix models, devices or versions: its cells would not be comparable."""
    here = lab.backend.name, lab.backend.system_fingerprint
    for completion in earlier.completions.values():
        # An endpoint elsewhere says its own fingerprint, and only with its answers.
        there = earlier.grid.model, completion.system_fingerprint if here[1] else ""
        if there != here:
            raise RequestError(
                f"the sweep to go on with is {' on '.join(filter(None, there))}'s, and this is "
                f"{' on '.join(filter(None, here))}; resume=False starts anew",
                param="resume",
            )


def _known(grid: Grid, earlier: Sweep, path: Path | None) -> dict[int, Completion]:
    """What an earlier sweep has of this one's cells; it may have no others, which would be lost."""
    index = {cell.key: at for at, cell in enumerate(grid.cells)}
    strangers = [cell for cell in earlier.cells if cell.key not in index]
    if strangers:
        where = f"{path} holds" if path is not None else "the sweep to go on with has"
        raise RequestError(
            f"{where} {len(strangers)} cells that this sweep does not ask for, such as {strangers[0].request!r}; "
            "name another file, or start anew with resume=False",
            param="resume",
        )
    return {
        index[cell.key]: completion
        for cell, completion in zip(earlier.cells, earlier.completions.values(), strict=True)
    }


def target(save: str | os.PathLike[str] | None) -> Path | None:
    """Where to save, if it can be written at all: better said before hours of work than after."""
    if save is None:
        return None
    from llmlab.frames.parquet import check_target

    return check_target(save)
