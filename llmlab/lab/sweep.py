"""Sweeps: a grid of parameters and prompts asked in one batch, as a frame with intervals and as pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmlab.backends.protocol import Choice, Completion
from llmlab.errors import RequestError
from llmlab.lab.gather import gather
from llmlab.lab.grid import Cell, Grid, build
from llmlab.lab.metrics import Metric, distinct
from llmlab.lab.result import Result

if TYPE_CHECKING:
    import pandas as pd

    from llmlab.lab.lab import Lab

#: A sweep that is being saved is written about once in so many seconds, and never takes more than a tenth of the time.
SAVE_SECONDS = 30.0


class Sweep:
    """The answers to a grid of requests, or to those of its cells that are done: immutable.

    `len(sweep)` is the number of completions. A notebook shows how far it is, and its frame's first rows.

    Args:
        grid: what is asked.
        completions: index of a cell -> its whole answer.
        lab: where it was asked; None for one that was loaded without.
        metrics: name -> function of one completion's `logprobs_frame()`, for `frame()`.

    Attributes:
        grid: its `axes` (what is swept -> its values), `cells` and `seed`.
    """

    def __init__(
        self,
        grid: Grid,
        completions: Mapping[int, Completion],
        *,
        lab: Lab | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        self.grid = grid
        self.completions = dict(sorted(completions.items()))
        self._lab = lab
        self._metrics = dict(metrics or {})
        self._frame: pd.DataFrame | None = None

    @property
    def axes(self) -> Mapping[str, tuple[Any, ...]]:
        """What is swept -> its values; "prompt", the number of a prompt, where a list of prompts was given."""
        return self.grid.axes

    @property
    def seed(self) -> int:
        """That every cell's seed is derived from."""
        return self.grid.seed

    @property
    def is_complete(self) -> bool:
        """Whether every cell has its answer."""
        return len(self.completions) == len(self.grid.cells)

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """One a cell that is done, in the order of the grid (the last axis fastest)."""
        return tuple(Result(completion, self._lab) for completion in self.completions.values())

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that are done, one a result."""
        return tuple(self.grid.cells[index] for index in self.completions)

    def at(self, **point: Any) -> Result:
        """The result of the one cell at these values of the axes.

        Raises:
            RequestError: there is no such axis or cell, or more than one.
        """
        for name in point:
            if name not in self.axes:
                raise RequestError(
                    f"{name} is not swept here; the axes are {', '.join(self.axes) or 'none'}", param=name
                )
        found = [
            result
            for cell, result in zip(self.cells, self.results, strict=True)
            if all(cell.point[name] == value for name, value in point.items())
        ]
        if len(found) != 1:
            raise RequestError(
                f"{len(found)} of the cells that are done are at {point}; the axes are {dict(self.axes)}"
            )
        return found[0]

    def frame(self, *, metrics: Mapping[str, Metric] | None = None) -> pd.DataFrame:
        """One row a completion: the swept parameters, choice, seed, text, finish_reason, tokens, mean_logprob,
        perplexity, mean_entropy, distinct_1, distinct_2, and a column a metric.

        mean_logprob and perplexity are of the raw law and over all generated tokens, the end token included; distinct-n
        is over token ids. `lab.chat` with a row's parameters, its `seed` and n above its `choice` gives it again.

        Args:
            metrics: in place of those that the sweep was made with.

        Raises:
            RequestError: a metric failed or gave no number; the message names it.
        """
        if metrics is not None:
            return _frame(self, check_metrics(metrics, self.axes))
        if self._frame is None:
            self._frame = _frame(self, self._metrics)
        return self._frame.copy()

    def summary(
        self,
        columns: str | Sequence[str] | None = None,
        *,
        by: str | Sequence[str] | None = None,
        metrics: Mapping[str, Metric] | None = None,
        over: Literal["completions", "prompts"] = "completions",
        confidence: float = 0.95,
        resamples: int = 2_000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Each group's figures with confidence intervals: one row a group and metric.

        Columns: those of `by`, metric, completions (how many have the figure), value, low, high. A column's value is
        its mean, with the bootstrap's percentile interval. A metric of many completions is worked out cell by cell; its
        value is the mean of the group's cells, and its interval is the jackknife's. Cells that share their noise lose
        or repeat the same choices together.

        Args:
            columns: of `frame()`; by default every one with figures.
            by: which axes to group by; by default all of them, which makes every cell a group.
            metrics: name -> function of one cell's rows of `frame()`, such as `metrics.self_bleu`.
            over: what an interval is about: other completions of these prompts, or other prompts (of which there should
                be a dozen at least).
            confidence: of the intervals.
            resamples: of the bootstrap.
            seed: of the resamples; the same one gives the same intervals.
        """
        from llmlab.lab.frames import SWEEP_COLUMNS
        from llmlab.lab.intervals import summary

        frame = self.frame()
        figures = [name for name, kind in SWEEP_COLUMNS.items() if kind == "number" or name == "tokens"]
        figures += self._metrics
        if columns is None:
            columns = figures if metrics is None else []
        columns = [columns] if isinstance(columns, str) else list(columns)
        axes = list(self.axes) if by is None else [by] if isinstance(by, str) else list(by)
        _check_names("columns", columns, figures)
        _check_names("by", axes, list(self.axes))
        return summary(
            frame,
            by={name: self.grid.columns[name] for name in axes},
            cells=list(self.axes),
            columns=columns,
            metrics=check_metrics(metrics, {**self.axes, **SWEEP_COLUMNS}),
            over=over,
            shared=not self.grid.independent,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )

    def resume(self, *, save: str | os.PathLike[str] | None = None) -> Sweep:
        """A sweep with the cells that are missing here asked as well; this one stays as it is.

        Raises:
            RequestError: there is no lab to ask (`Sweep.load(path, lab=lab)` has one), or it holds another model.
        """
        if self._lab is None:
            raise RequestError("this sweep has no lab to go on with; load it with Sweep.load(path, lab=lab)")
        check_same_model(self._lab, self)
        return run(self._lab, self.grid, self.completions, metrics=self._metrics, path=_parquet(save))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what is done to a .parquet file, a row a completion; `Sweep.load` reads it. Its path.

        The metrics of the caller's own, being functions, are not kept; `frame(metrics=...)` takes them again.
        """
        from llmlab.lab.keeping import save_sweep

        return save_sweep(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, lab: Lab | None = None) -> Sweep:
        """The sweep that `save` wrote; with a lab, one that can be gone on with.

        Raises:
            FileNotFoundError: there is no such file.
            RequestError: it holds something else.
        """
        from llmlab.lab.keeping import load_sweep

        return cls(*load_sweep(path), lab=lab)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `frame()` as CSV, and return its path."""
        path = Path(path).expanduser()
        self.frame().to_csv(path, index=False)
        return path

    def __len__(self) -> int:
        return sum(len(completion.choices) for completion in self.completions.values())

    def __repr__(self) -> str:
        axes = " × ".join(f"{name} ({len(values)})" for name, values in self.axes.items()) or "a single cell"
        done, cells = len(self.completions), len(self.grid.cells)
        state = f"{cells:,} cells" if self.is_complete else f"{done:,} of {cells:,} cells: resume() asks the rest"
        return f"Sweep: {axes} · {state} · {len(self):,} completions · seed {self.seed}"

    def _repr_html_(self) -> str:
        return f"<div>{escape(repr(self))}</div>{self.frame().head(10).to_html()}"


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
    path = _parquet(save)
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


def check_metrics(metrics: Mapping[str, Metric] | None, taken: Mapping[str, Any]) -> dict[str, Metric]:
    """The caller's metrics, if they can be told from the columns that are there anyhow."""
    from llmlab.lab.frames import SWEEP_COLUMNS

    for name, metric in (metrics or {}).items():
        if not callable(metric):
            raise RequestError(f"metric {name!r} must be a function frame -> number, got {metric!r}", param="metrics")
        if name in taken or name in SWEEP_COLUMNS:
            raise RequestError(f"metric {name!r} has the name of a column that is there; rename it", param="metrics")
    return dict(metrics or {})


def check_same_model(lab: Lab, earlier: Sweep) -> None:
    """A sweep must not mix models, devices or versions: its cells would not be comparable."""
    here = lab.backend.name, getattr(lab.backend, "system_fingerprint", "")
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


def _parquet(save: str | os.PathLike[str] | None) -> Path | None:
    """Where to save, if it can be written at all: better said before hours of work than after."""
    if save is None:
        return None
    from llmlab.lab.keeping import check_target

    return check_target(save)


def _check_names(param: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise RequestError(f"{param}: there is no {name!r}; there are {', '.join(known) or 'none'}", param=param)


def _frame(sweep: Sweep, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    from llmlab.lab.frames import SWEEP_COLUMNS, logprobs_frame
    from llmlab.lab.frames import build as build_frame
    from llmlab.lab.intervals import measure

    kinds = {**sweep.grid.columns, **SWEEP_COLUMNS, **dict.fromkeys(metrics, "number")}
    rows: dict[str, list[Any]] = {name: [] for name in kinds}
    for cell, completion in zip(sweep.cells, sweep.completions.values(), strict=True):
        tokens = logprobs_frame(completion, names=completion.names) if metrics else None
        for choice in completion.choices:
            found: dict[str, Any] = {**cell.point, **_figures(choice), "seed": completion.seed}
            if found["tokens"] < 0 and len(completion.choices) == 1:
                found["tokens"] = completion.completion_tokens
            if tokens is not None:
                own = tokens[tokens["choice"] == choice.index].reset_index(drop=True)
                found |= {name: measure(metric, own, name=name) for name, metric in metrics.items()}
            for name in kinds:
                rows[name].append(found[name])
    return build_frame(rows, kinds)


def _figures(choice: Choice) -> dict[str, Any]:
    """A choice's own columns; the figures are those of `metrics` over its tokens."""
    tokens = choice.tokens
    ids: list[Any] = tokens.ids.tolist()
    if len(tokens) and tokens.ids.min() < 0:  # an endpoint without ids
        ids = [] if None in tokens.bytes else list(tokens.bytes)
    logprob, entropy = (x.astype(np.float64) for x in (tokens.logprob, tokens.entropy))
    mean = logprob.mean() if len(tokens) else np.nan
    with np.errstate(over="ignore"):
        perplexity = np.exp(-mean)
    return {
        "choice": choice.index,
        "text": choice.text,
        "finish_reason": choice.finish_reason,
        # An endpoint that lists no tokens made some all the same.
        "tokens": len(tokens) if len(tokens) or not choice.text else -1,
        "mean_logprob": mean,
        "perplexity": perplexity,
        "mean_entropy": entropy.mean() if len(tokens) else np.nan,
        "distinct_1": distinct([ids], n=1),
        "distinct_2": distinct([ids], n=2),
    }
