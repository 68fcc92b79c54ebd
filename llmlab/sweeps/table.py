"""A sweep as a dataframe, with one row per completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.frames.samples import samples_frame, spelled_calls
from llmlab.frames.schema import build
from llmlab.frames.tokens import logprobs_frame
from llmlab.metrics import Metric
from llmlab.metrics.tokens import distinct
from llmlab.protocol.arguments import listed
from llmlab.protocol.completion import Choice, Completion
from llmlab.sweeps.grid import Cell, Grid
from llmlab.sweeps.intervals import measure, summary
from llmlab.sweeps.plot_axes import check_names

if TYPE_CHECKING:
    import pandas as pd


def check_metrics(metrics: Mapping[str, Metric] | None, taken: Mapping[str, Any]) -> dict[str, Metric]:
    """The caller's metrics as a dict.

    Raises:
        RequestError: a metric is not a function, or has the name of a column (one of `taken`, or of a sweep's columns).
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        raise RequestError(f"metrics must be a dict, name -> function, got {short(metrics)}", param="metrics")
    for name, metric in (metrics or {}).items():
        if not isinstance(name, str):
            raise RequestError(f"metrics: a name must be a string, got {short(name)}", param="metrics")
        if not callable(metric):
            raise RequestError(f"metric {name!r} must be a function frame -> number, got {metric!r}", param="metrics")
        if name in taken or name in SWEEP_COLUMNS or name in TOOL_COLUMNS:
            raise RequestError(f"metric {name!r} has the name of a column of the frame; rename it", param="metrics")
    return dict(metrics or {})


def sweep_frame(grid: Grid, cells: Sequence[tuple[Cell, Completion]], *, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """The frame of `Sweep.frame`, from the finished cells and their answers."""
    kinds = {**grid.columns, **sweep_columns(grid), **dict.fromkeys(metrics, "number")}
    rows: dict[str, list[Any]] = {name: [] for name in kinds}
    for cell, completion in cells:
        tokens = logprobs_frame(completion, names=completion.control_tokens) if metrics else None
        for choice in completion.choices:
            found: dict[str, Any] = {**cell.point, **_statistics(choice), "seed": completion.seed}
            found["lacks_end"] = completion.lacks_end(choice)
            if found["tokens"] < 0 and len(completion.choices) == 1:
                found["tokens"] = completion.completion_tokens
            if tokens is not None:
                own = tokens[tokens["choice"] == choice.index].reset_index(drop=True)
                found |= {name: measure(metric, own, name=name) for name, metric in metrics.items()}
            for name in kinds:
                rows[name].append(found[name])
    return build(rows, kinds)


def sweep_samples(grid: Grid, cells: Sequence[tuple[Cell, Completion]]) -> pd.DataFrame:
    """The samples of all finished cells: what was swept, then the columns of `frames.samples.samples_frame`."""
    import pandas as pd

    parts = [samples_frame(completion.choices) for _, completion in cells]
    points = {
        name: [cell.point[name] for (cell, _), part in zip(cells, parts, strict=True) for _ in range(len(part))]
        for name in grid.columns
    }
    together = pd.concat(parts, ignore_index=True) if parts else samples_frame(())
    return pd.concat([build(points, grid.columns), together], axis="columns")


def sweep_columns(grid: Grid) -> dict[str, str]:
    """Column -> kind, for the columns between the swept parameters and the caller's metrics."""
    if not any(getattr(cell.request, "tools", None) for cell in grid.cells):
        return SWEEP_COLUMNS
    at = list(SWEEP_COLUMNS).index("text") + 1
    items = list(SWEEP_COLUMNS.items())
    return dict([*items[:at], *TOOL_COLUMNS.items(), *items[at:]])


def sweep_summary(
    frame: pd.DataFrame,
    grid: Grid,
    columns: str | Sequence[str] | None,
    *,
    by: str | Sequence[str] | None,
    own: Sequence[str],
    metrics: Mapping[str, Metric] | None,
    over: str,
    **options: Any,
) -> pd.DataFrame:
    """The frame of `Sweep.summary_frame`.

    Args:
        frame: the sweep's frame.
        grid: its cells.
        columns: the columns to average; None for all of them.
        by: the parameters to group by; None for all of them.
        own: the columns that are the sweep's own metrics.
        metrics: name -> function of one cell's rows.
        over: what varies, "completions" or "prompts".
        options: confidence, resamples and seed.

    Raises:
        RequestError: a name is unknown; a metric failed or did not return a number.
    """
    numeric = [name for name, kind in SWEEP_COLUMNS.items() if kind == "number" or name == "tokens"]
    numeric += own
    if columns is None:
        columns = numeric if metrics is None else []
    columns = [columns] if isinstance(columns, str) else listed("columns", columns, of="columns")
    every = [name for name in grid.axes if not (name == "prompt" and over == "prompts")]
    axes = [by] if isinstance(by, str) else listed("by", every if by is None else by, of="axes")
    axes = list(dict.fromkeys(axes))
    check_names("columns", columns, numeric)
    check_names("by", axes, list(grid.axes))
    return summary(
        frame,
        by={name: grid.columns[name] for name in axes},
        cells=list(grid.axes),
        columns=columns,
        # The sweep's own columns are measurements, also where all of them happen to be 1.
        shares=[name for name in own if frame[name].dropna().isin((0, 1)).all()],
        metrics=check_metrics(metrics, {**grid.axes, **SWEEP_COLUMNS}),
        over=over,
        shared=not grid.independent,
        **options,
    )


def _statistics(choice: Choice) -> dict[str, Any]:
    """The columns of one choice; the statistics are those of `llmlab.metrics` over its tokens."""
    tokens = choice.tokens
    ids: list[Any] = tokens.ids.tolist()
    if len(tokens) and tokens.ids.min() < 0:  # a remote endpoint does not report token ids
        ids = [] if None in tokens.bytes else list(tokens.bytes)
    logprob, entropy = (x.astype(np.float64) for x in (tokens.logprob, tokens.entropy))
    mean = logprob.mean() if len(tokens) else np.nan
    with np.errstate(over="ignore"):
        perplexity = np.exp(-mean)
    return {
        "choice": choice.index,
        "text": choice.text,
        "tool_calls": spelled_calls(choice),
        "finish_reason": choice.finish_reason,
        # An endpoint that lists no tokens has generated some nevertheless: their number is not known.
        "tokens": len(tokens) if choice.is_listed else -1,
        "mean_logprob": mean,
        "perplexity": perplexity,
        "mean_entropy": entropy.mean() if len(tokens) else np.nan,
        "distinct_1": distinct([ids], n=1),
        "distinct_2": distinct([ids], n=2),
    }


#: Column -> kind, for the columns between the swept parameters and the caller's metrics (which are numbers).
SWEEP_COLUMNS: dict[str, str] = {
    "choice": "index",
    "seed": "index",
    "text": "text",
    "finish_reason": "text",
    "tokens": "count",
    "mean_logprob": "number",
    "perplexity": "number",
    "mean_entropy": "number",
    "distinct_1": "number",
    "distinct_2": "number",
    "lacks_end": "flag",
}
#: The column that comes after `text` in a sweep whose requests have tools.
TOOL_COLUMNS: dict[str, str] = {"tool_calls": "text"}
