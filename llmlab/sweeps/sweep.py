"""A sweep: the answers to a grid of requests, as dataframes, with confidence intervals, and as plots."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from llmlab.display.html import Markup, fragment
from llmlab.errors import RequestError, short
from llmlab.metrics import Metric
from llmlab.protocol.arguments import check_lab, listed, one_of
from llmlab.protocol.completion import Completion
from llmlab.results.result import Asker, Result
from llmlab.sweeps.estimates import Estimates
from llmlab.sweeps.grid import Grid
from llmlab.sweeps.plot_axes import choose_axes, metric_names, name_averaged, panels_summary
from llmlab.sweeps.run import check_same_model, run, target

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes


@runtime_checkable
class SweepAsker(Asker, Protocol):
    """Who can run the cells of a sweep; a `Lab` is one. A sweep knows no more of it than this."""

    last_sweep: Sweep | None  #: the sweep that was run last, also when it was interrupted


class Sweep(Estimates):
    """The answers to a grid of requests. It is immutable, and may lack the answers to some cells after an interrupt.

    `len(sweep)` is the number of completions. A notebook shows which cells are done, and the first rows of `frame()`.

    Args:
        grid: the cells: which requests are sent, with which seeds.
        completions: index of a cell -> its answer.
        lab: where the requests are sent; None for a sweep that was loaded without a lab.
        metrics: name -> function of one completion's `logprobs_frame()`; each is a column of `frame()`.

    Attributes:
        grid: has the `axes` (name of a swept parameter -> its values), the `cells` and the `seed`.
        completions: index of a finished cell -> its answer.
    """

    _asker: SweepAsker | None

    def __init__(
        self,
        grid: Grid,
        completions: Mapping[int, Completion],
        *,
        lab: SweepAsker | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__(grid, completions, metrics=metrics)
        self._asker = lab

    @property
    def seed(self) -> int:
        """The seed that the seed of every cell is derived from."""
        return self.grid.seed

    @property
    def is_complete(self) -> bool:
        """Whether every cell has an answer."""
        return len(self.completions) == len(self.grid.cells)

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """One result per finished cell, in the order of the grid: the last axis varies fastest."""
        return tuple(Result(completion, self._asker) for completion in self.completions.values())

    def at(self, **point: Any) -> Result:
        """Returns the result of the one cell that has these values of the swept parameters.

            sweep.at(temperature=0.5, top_p=0.9)
            sweep.at(prompt="Name an animal.")          # or its number, from 0

        Raises:
            RequestError: a parameter is not swept; no finished cell has these values, or more than one has.
        """
        wanted = self.grid.values_at(point)
        found = [
            result
            for cell, result in zip(self.cells, self.results, strict=True)
            if all(cell.point[name] == value for name, value in wanted.items())
        ]
        if len(found) != 1:
            raise RequestError(f"{len(found)} of the finished cells are at {point}; the axes are {dict(self.axes)}")
        return found[0]

    def plot(
        self,
        metric: str | Sequence[str] | None = None,
        *,
        metrics: Mapping[str, Metric] | None = None,
        kind: Literal["lines", "heatmap"] | None = None,
        x: str | None = None,
        by: str | None = None,
        over: Literal["completions", "prompts"] = "completions",
        confidence: float = 0.95,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Axes | np.ndarray:
        """Plots metrics, a panel each, against one or two of the swept parameters; it is averaged over the others.

        Args:
            metric: a numeric column of `frame()` (by default mean_entropy), a name in `metrics`, or a list of these.
            metrics: name -> function of the rows of one cell; if `metric` is not given, all of them are drawn.
            kind: "lines" with confidence bands, or "heatmap"; by default lines, and a heat map where the second
                parameter has too many values for lines that can be told apart.
            x: the parameter along the x axis; by default the first swept parameter.
            by: the second parameter: one line, or one row of the heat map, for each of its values; by default the next
                swept parameter.
            over: as in `summary_frame`.
            confidence: the confidence level of the intervals.
            ax: where to draw; by default on a new figure. For several metrics as many axes.

        Returns:
            The axes; an array of them if several metrics are drawn.

        Raises:
            RequestError: an argument is unknown; nothing is swept.
        """
        from llmlab.plots import sweep
        from llmlab.sweeps.table import check_metrics

        if kind is not None:
            one_of("kind", kind, ("lines", "heatmap"))
        x, by = choose_axes(self.axes, x, by)
        if metrics is not None:
            check_metrics(metrics, {})
        groups = [x] if by is None else [x, by]
        names = metric_names(metric, metrics)
        found = self._summary(names, metrics, by=groups, over=over, confidence=confidence)
        if kind is None:
            kind = "heatmap" if by is not None and len(self.axes[by]) > len(sweep.STYLES) else "lines"
        if kind == "heatmap":
            if by is None:
                raise RequestError("a heat map needs two swept parameters; take kind='lines'", param="kind")
            drawn = sweep.plot_heatmap(found, x=x, by=by, axes=self.axes, ax=ax)
        else:
            drawn = sweep.plot_lines(found, x=x, by=by, axes=self.axes, ax=ax)
        name_averaged(drawn, self.axes, x, by)
        return drawn

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
        """Plots the diversity of each setting's completions against their likelihood.

        Args:
            diversity: a column of `frame()`, or {name: function of the rows of one cell}; by default 1 - pairwise
                BLEU, whose expectation does not depend on the number of completions.
            likelihood: a column of `frame()`.
            along: the parameter whose values are connected by a line and written at its points.
            by: the parameter with one line for each value.
            over: as in `summary_frame`.
            confidence: the confidence level of the intervals.
            ax: where to draw; by default on a new figure.

        Raises:
            RequestError: an argument is unknown; nothing is swept.
        """
        from llmlab.metrics import pairwise_bleu
        from llmlab.plots.diversity import plot_diversity
        from llmlab.sweeps.table import check_metrics

        along, by = choose_axes(self.axes, along, by)
        groups = [along] if by is None else [along, by]
        default = {"diversity (1 − pairwise BLEU)": lambda rows: 1 - pairwise_bleu(rows)}
        chosen = default if diversity is None else diversity
        options: dict[str, Any] = {"by": groups, "over": over, "confidence": confidence}
        if isinstance(chosen, str):
            tall = self._summary([chosen], None, **options)
        else:
            if not (isinstance(chosen, Mapping) and len(check_metrics(chosen, {})) == 1):
                raise RequestError(
                    "diversity must be a column of frame(), or {name: function of one cell's rows}, got "
                    f"{short(chosen)}",
                    param="diversity",
                )
            tall = self._summary(list(chosen), chosen, **options)
        flat = self._summary([likelihood], None, **options)
        ax = plot_diversity(flat, tall, along=along, by=by, axes=self.axes, ax=ax)
        name_averaged(ax, self.axes, along, by)
        return ax

    def _summary(self, names: Sequence[str], metrics: Mapping[str, Metric] | None, **options: Any) -> pd.DataFrame:
        """The summary of metrics, in the order of their names: functions in `metrics`, or else columns."""
        sizes = {len(completion.choices) for completion in self.completions.values()}
        return panels_summary(names, metrics or {}, partial(self.summary_frame, **options), sizes=sizes)

    def resume(self, *, save: str | os.PathLike[str] | None = None) -> Sweep:
        """Runs the cells that have no answer yet; returns a complete sweep, and leaves this one as it is.

        Args:
            save: a .parquet file that the complete sweep is written to.

        Raises:
            RequestError: this sweep has no lab (`Sweep.load(path, lab=lab)` gives one), or its lab has another model.
        """
        if self._asker is None:
            raise RequestError("this sweep has no lab to resume it with; load it with Sweep.load(path, lab=lab)")
        check_same_model(self._asker.backend, self.grid, self.completions)
        return self._run(self._asker, self.grid, self.completions, metrics=self._metrics, path=target(save))

    @classmethod
    def _run(
        cls,
        asker: SweepAsker,
        grid: Grid,
        done: Mapping[int, Completion],
        *,
        metrics: Mapping[str, Metric],
        path: Path | None,
    ) -> Sweep:
        """Run the cells that are not in `done`; an interrupt leaves the finished ones in the asker's `last_sweep`."""
        kept = dict(done)
        try:
            run(asker.backend, grid, kept, path=path)
        except BaseException as error:
            error.add_note(
                f"{len(kept)} of {len(grid.cells)} cells are in `lab.last_sweep`{f' and in {path}' if path else ''}; "
                "its resume() runs the rest."
            )
            raise
        finally:
            asker.last_sweep = sweep = cls(grid, kept, lab=asker, metrics=metrics)
        return sweep

    @classmethod
    def concat(cls, sweeps: Sequence[Sweep], *, label: Sequence[str] | None = None) -> Sweep:
        """Returns several sweeps of the same parameters as one, such as those of two models or of two evenings.

            Sweep.concat([one.sweep(...), other.sweep(...)], label=["one", "other"]).plot(by="sweep")

        It has the cells of all, and can be framed, plotted and saved; it cannot be resumed where the models differ.

        Args:
            sweeps: the sweeps; the same parameters are swept in all of them, with the same values or with others.
            label: a text for each sweep, which becomes the first parameter, "sweep"; None where no cell is in two.

        Raises:
            RequestError: the parameters differ, a cell is in two sweeps, or the labels are not as many texts.
        """
        from llmlab.sweeps.concat import concat

        parts = listed("sweeps", sweeps, of="sweeps")
        for one in parts:
            if not isinstance(one, Sweep):
                raise RequestError(f"sweeps must be a list of sweeps, got {short(one)} in it", param="sweeps")
        grid, completions = concat([(one.grid, one.completions) for one in parts], label=label)
        return cls(grid, completions, lab=parts[0]._asker, metrics=parts[0]._metrics)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the finished cells to a .parquet file, one row per completion, for `Sweep.load`; returns its path.

        Metrics are functions and are not saved; give them to `frame(metrics=...)` again after loading.
        """
        from llmlab.sweeps.file import save_sweep

        return save_sweep(self.grid, self.completions, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, lab: SweepAsker | None = None) -> Sweep:
        """Returns the sweep that `save` wrote.

        Args:
            path: the file.
            lab: a lab with the same model; the sweep can then be resumed, and its results can be asked further.

        Raises:
            FileNotFoundError: there is no such file.
            RequestError: the file holds something else.
        """
        from llmlab.sweeps.file import load_sweep

        check_lab(lab)
        return cls(*load_sweep(path), lab=lab)

    def __len__(self) -> int:
        return sum(len(completion.choices) for completion in self.completions.values())

    def __repr__(self) -> str:
        axes = " × ".join(f"{name} ({len(values)})" for name, values in self.axes.items()) or "a single cell"
        done, cells = len(self.completions), len(self.grid.cells)
        state = f"{cells:,} cells" if self.is_complete else f"{done:,} of {cells:,} cells: resume() runs the rest"
        return f"Sweep: {axes} · {state} · {len(self):,} completions · seed {self.seed}"

    def _repr_html_(self) -> str:
        # The frame's own notebook view shortens long texts; to_html() would write them in full.
        return str(fragment("<div>{}</div>{}", repr(self), Markup(self.frame().head(10)._repr_html_() or "")))
