"""Sweeps: a grid of parameters and prompts asked in one batch, as a frame with intervals and as pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmlab.errors import RequestError, short
from llmlab.metrics import Metric
from llmlab.protocol.arguments import check_lab, file_path, listed, one_of
from llmlab.protocol.completion import Completion
from llmlab.results.result import Result
from llmlab.sweeps.grid import Cell, Grid

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.lab.lab import Lab


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

        The figures are over all generated tokens, the end token included (an endpoint lists none: there they are over
        the others); mean_logprob and perplexity are of the raw law, distinct-n is over token ids. `lab.chat` with a
        row's parameters, its `seed` and n above its `choice` gives it again.

        Args:
            metrics: in place of those that the sweep was made with.

        Raises:
            RequestError: a metric failed or gave no number; the message names it.
        """
        if metrics is not None:
            from llmlab.sweeps.table import check_metrics

            return self._with(check_metrics(metrics, self.axes))
        if self._frame is None:
            self._frame = self._with(self._metrics)
        return self._frame.copy()

    def _with(self, metrics: Mapping[str, Metric]) -> pd.DataFrame:
        from llmlab.sweeps.table import sweep_frame

        return sweep_frame(self.grid, list(zip(self.cells, self.completions.values(), strict=True)), metrics=metrics)

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
        its mean, with the bootstrap's percentile interval, which is short for few completions: where 95% are asked, 89%
        of intervals from 8 normal values held the mean, 93% from 16, 94% from 32 (84%, 88% and 92% of skewed ones,
        exponential). A metric of many completions is worked out cell by cell; its
        value is the mean of the group's cells, and its interval is the jackknife's: symmetric, so that it may reach
        beyond what the metric can be. Cells that share their noise lose or repeat the same choices together.

        Args:
            columns: of `frame()`; by default every one with figures.
            by: which axes to group by; by default all of them, which makes every cell a group (over prompts: all others
                than the prompts).
            metrics: name -> function of one cell's rows of `frame()`, such as `metrics.self_bleu`.
            over: what an interval is about: other completions of these prompts, or other prompts (of which there should
                be a dozen at least).
            confidence: of the intervals.
            resamples: of the bootstrap.
            seed: of the resamples; the same one gives the same intervals.
        """
        from llmlab.sweeps.intervals import summary
        from llmlab.sweeps.table import SWEEP_COLUMNS, check_metrics

        frame = self.frame()
        figures = [name for name, kind in SWEEP_COLUMNS.items() if kind == "number" or name == "tokens"]
        figures += self._metrics
        if columns is None:
            columns = figures if metrics is None else []
        columns = [columns] if isinstance(columns, str) else listed("columns", columns, of="columns")
        every = [name for name in self.axes if not (name == "prompt" and over == "prompts")]
        axes = [by] if isinstance(by, str) else listed("by", every if by is None else by, of="axes")
        axes = list(dict.fromkeys(axes))
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

    def plot(
        self,
        metric: str | None = None,
        *,
        metrics: Mapping[str, Metric] | None = None,
        kind: Literal["lines", "heatmap"] | None = None,
        x: str | None = None,
        by: str | None = None,
        over: Literal["completions", "prompts"] = "completions",
        confidence: float = 0.95,
        ax: Axes | None = None,
    ) -> Axes:
        """A metric along one or two of the swept parameters; the others are averaged over.

        Args:
            metric: a column of `frame()` with figures (by default mean_entropy), or a name of `metrics`.
            metrics: name -> function of one cell's rows; by default its only one is drawn.
            kind: lines with their intervals, or a heat map; by default a map where a second parameter has more values
                than lines can be told apart.
            x: the parameter from left to right; by default the first one that is swept.
            by: the second parameter, each value a line or a row of the map; by default the next one.
            over: as in `summary`.
            confidence: of the intervals.
            ax: where to draw; by default a figure of its own.
        """
        from llmlab.plots import sweep
        from llmlab.sweeps.table import check_metrics

        if kind is not None:
            one_of("kind", kind, ("lines", "heatmap"))
        x, by = self._two(x, by)
        if metrics is not None:
            check_metrics(metrics, {})
        name = metric if metric is not None else next(iter(metrics or ()), "mean_entropy")
        found = self._single(name, metrics, by=[x] if by is None else [x, by], over=over, confidence=confidence)
        if kind is None:
            kind = "heatmap" if by is not None and len(self.axes[by]) > len(sweep.STYLES) else "lines"
        if kind == "heatmap":
            if by is None:
                raise RequestError("a heat map needs two swept parameters; take kind='lines'", param="kind")
            ax = sweep.plot_heatmap(found, x=x, by=by, axes=self.axes, ax=ax)
        else:
            ax = sweep.plot_lines(found, x=x, by=by, axes=self.axes, ax=ax)
        self._say_rest(ax, x, by)
        return ax

    def plot_diversity(
        self,
        *,
        diversity: str | Mapping[str, Metric] | None = None,
        likelihood: str = "mean_logprob",
        along: str | None = None,
        by: str | None = None,
        over: Literal["completions", "prompts"] = "completions",
        confidence: float = 0.95,
        ax: Axes | None = None,
    ) -> Axes:
        """How diverse the completions of a setting are against how likely they are.

        Args:
            diversity: a column of `frame()`, or {name: function of one cell's rows}; by default 1 - self-BLEU.
            likelihood: a column of `frame()`.
            along: the parameter whose values are joined by a line and written at its points.
            by: the parameter that has a line for each value.
            over: as in `summary`.
            confidence: of the intervals.
            ax: where to draw; by default a figure of its own.
        """
        from llmlab.metrics import self_bleu
        from llmlab.plots import sweep
        from llmlab.sweeps.table import check_metrics

        along, by = self._two(along, by)
        groups = [along] if by is None else [along, by]
        chosen = {"diversity (1 − self-BLEU)": lambda rows: 1 - self_bleu(rows)} if diversity is None else diversity
        options: dict[str, Any] = {"by": groups, "over": over, "confidence": confidence}
        if isinstance(chosen, str):
            tall = self._single(chosen, None, **options)
        else:
            if not (isinstance(chosen, Mapping) and len(check_metrics(chosen, {})) == 1):
                raise RequestError(
                    "diversity must be a column of frame(), or {name: function of one cell's rows}, got "
                    f"{short(chosen)}",
                    param="diversity",
                )
            tall = self._single(next(iter(chosen)), chosen, **options)
        flat = self._single(likelihood, None, **options)
        ax = sweep.plot_diversity(flat, tall, along=along, by=by, axes=self.axes, ax=ax)
        self._say_rest(ax, along, by)
        return ax

    def _two(self, x: str | None, by: str | None) -> tuple[str, str | None]:
        """The parameters that a picture is along: those that are named, else the first that are swept."""
        _check_names("x", [name for name in (x,) if name is not None], list(self.axes))
        _check_names("by", [name for name in (by,) if name is not None], list(self.axes))
        if x is not None and x == by:
            raise RequestError(f"by is {by!r}, which x is already: name another parameter", param="by")
        # Prompts come first in the grid, and last as something to draw along.
        free = sorted((name for name in self.axes if name not in (x, by)), key=lambda name: name == "prompt")
        if x is None:
            if not free:
                raise RequestError("nothing is swept here: there is nothing to draw along", param="x")
            x = free.pop(0)
        if by is None and free and free[0] != "prompt":
            by = free[0]
        return x, by

    def _single(self, name: str, metrics: Mapping[str, Metric] | None, **options: Any) -> pd.DataFrame:
        """The summary of one metric."""
        if metrics is not None and name in metrics:
            return self.summary([], metrics={name: metrics[name]}, **options)
        return self.summary(name, **options)

    def _say_rest(self, ax: Axes, x: str, by: str | None) -> None:
        rest = [
            f"{name} ({len(values)})" for name, values in self.axes.items() if name not in (x, by) and len(values) > 1
        ]
        if rest:
            said = ax.get_title(loc="left")
            ax.set_title(
                ", ".join([*([said] if said else []), f"mean over {' × '.join(rest)}"]), fontsize=9, loc="left"
            )

    def resume(self, *, save: str | os.PathLike[str] | None = None) -> Sweep:
        """A sweep with the cells that are missing here asked as well; this one stays as it is.

        Raises:
            RequestError: there is no lab to ask (`Sweep.load(path, lab=lab)` has one), or it holds another model.
        """
        if self._lab is None:
            raise RequestError("this sweep has no lab to go on with; load it with Sweep.load(path, lab=lab)")
        from llmlab.sweeps.run import check_same_model, run, target

        check_same_model(self._lab, self)
        return run(self._lab, self.grid, self.completions, metrics=self._metrics, path=target(save))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what is done to a .parquet file, a row a completion; `Sweep.load` reads it. Its path.

        The metrics of the caller's own, being functions, are not kept; `frame(metrics=...)` takes them again.
        """
        from llmlab.sweeps.file import save_sweep

        return save_sweep(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, lab: Lab | None = None) -> Sweep:
        """The sweep that `save` wrote; with a lab, one that can be gone on with.

        Raises:
            FileNotFoundError: there is no such file.
            RequestError: it holds something else.
        """
        from llmlab.sweeps.file import load_sweep

        check_lab(lab)
        return cls(*load_sweep(path), lab=lab)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `frame()` as CSV, and return its path."""
        path = file_path(path)
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
        # As a notebook shows a frame, with long texts cut: to_html() would write them out.
        return f"<div>{escape(repr(self))}</div>{self.frame().head(10)._repr_html_() or ''}"


def _check_names(param: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise RequestError(
                f"{param}: there is no {short(name)}; there are {', '.join(known) or 'none'}", param=param
            )
