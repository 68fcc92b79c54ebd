"""Starts a sweep: builds its grid, takes over the answers of an earlier sweep, and runs the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmlab.errors import RequestError
from llmlab.metrics import Metric
from llmlab.protocol.arguments import OrderLike, flag, order_or_several
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import Request
from llmlab.sweeps.grid import Grid, build
from llmlab.sweeps.run import check_same_model, target
from llmlab.sweeps.sweep import Sweep, SweepAsker
from llmlab.sweeps.table import check_metrics


def sweep(
    asker: SweepAsker,
    messages: Any,
    *,
    request: Callable[..., Request],
    order: OrderLike,
    n: int | None,
    seed: int | None,
    independent: bool,
    metrics: Mapping[str, Metric] | None,
    save: str | os.PathLike[str] | None,
    resume: bool | Sweep,
    fields: Mapping[str, Any],
    label: Sequence[str] | None = None,
) -> Sweep:
    """Run a grid of requests; see `Lab.sweep` for the arguments.

    Args:
        asker: has the model, and keeps the sweep as its `last_sweep`, also an interrupted one.
        request: makes one validated request of messages and fields, as `Lab.request` does.
    """
    if not isinstance(resume, Sweep):
        flag("resume", resume)
    flag("independent", independent)
    order = order_or_several("order", order)
    if getattr(messages, "ndim", 0) == 1:
        messages = messages.tolist()  # a frame's column of prompts
    path = target(save)
    earlier = resume if isinstance(resume, Sweep) else None
    if resume is True and path is not None and path.exists():
        earlier = Sweep.load(path)
    if seed is None and earlier is not None:
        seed = earlier.seed
    grid = build(
        request,
        messages,
        model=asker.backend.name,
        models=asker.backend.models,
        order=order,
        n=n,
        seed=seed,
        independent=independent,
        fields=fields,
        label=label,
    )
    chosen = check_metrics(metrics, grid.axes)
    done: dict[int, Completion] = {}
    if earlier is not None:
        check_same_model(asker.backend, earlier.grid, earlier.completions)
        done = _taken_over(grid, earlier, path)
    return Sweep._run(asker, grid, done, metrics=chosen, path=path)


def _taken_over(grid: Grid, earlier: Sweep, path: Path | None) -> dict[int, Completion]:
    """The answers of an earlier sweep, by the index of their cell in this grid.

    Raises:
        RequestError: the earlier sweep has a cell that this grid lacks, and whose answer would be lost.
    """
    index = {cell.key: at for at, cell in enumerate(grid.cells)}
    unknown = [cell for cell in earlier.cells if cell.key not in index]
    if unknown:
        where = f"{path} holds" if path is not None else "the sweep to resume has"
        raise RequestError(
            f"{where} {len(unknown)} cells that this sweep does not ask for, such as {unknown[0].request!r}; "
            "name another file, or start a new sweep with resume=False",
            param="resume",
        )
    return {
        index[cell.key]: completion
        for cell, completion in zip(earlier.cells, earlier.completions.values(), strict=True)
    }
