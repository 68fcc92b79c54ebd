"""Sweeps that need not be run: what a metric would be under other settings, and differences between settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from llmlab.counterfactuals.answered import logits_backend
from llmlab.errors import RequestError
from llmlab.protocol.arguments import listed, number, order_name
from llmlab.protocol.completion import Completion
from llmlab.protocol.signatures import SAMPLING_FIELDS
from llmlab.sweeps.grid import Cell, Grid
from llmlab.sweeps.intervals import wilson_interval
from llmlab.sweeps.pareto import effective_size, smoothed, trusted_shape
from llmlab.sweeps.table import SWEEP_COLUMNS
from llmlab.sweeps.weighing import Paths, paths

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PAIRED_COLUMNS", "REWEIGHTED_COLUMNS", "checked_columns", "paired", "reweighted", "target_axes"]

REWEIGHTED_COLUMNS: dict[str, str] = {
    "metric": "text",
    "completions": "index",
    "value": "number",
    "low": "number",
    "high": "number",
    "effective": "number",
    "pareto_k": "number",
    "missing": "number",
    "problem": "text",
}
PAIRED_COLUMNS: dict[str, str] = {
    "metric": "text",
    "completions": "index",
    "difference": "number",
    "low": "number",
    "high": "number",
    "variance_ratio": "number",
}
#: The most probability that may be out of the reach of every answer that there is.
_MISSING = 1e-3
#: The fewest effective answers to a prompt.
_EFFECTIVE = 8
#: Fields whose value is a list; a list of these is a list of values.
_LISTS = frozenset({"dry_sequence_breakers", "bad_words", "allowed_token_ids"})


class _Prompt(NamedTuple):
    """The answers to one prompt: their rows in the sweep's frame, their sampling units, their probabilities."""

    rows: Int64[np.ndarray, " N"]
    units: Int64[np.ndarray, " N"]
    mixture: Float64[np.ndarray, " N"]  #: log-probability under the mixture of all settings that were run
    targets: Float64[np.ndarray, "N G"]
    missing: Float64[np.ndarray, " G"]


class Estimate(NamedTuple):
    """A mean under other settings, its interval, and what the weights are worth."""

    value: float
    low: float
    high: float
    effective: float
    shape: float
    missing: float
    problem: str


def target_axes(grid: Grid, fields: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The settings that are asked about: a list of a field's values, or one; swept fields that are not given as swept.

    Raises:
        RequestError: a field is none of the sampler's; the sweep varies something that is neither a prompt nor one.
    """
    strange = [name for name in grid.axes if name not in (*SAMPLING_FIELDS, "prompt", "order")]
    if strange:
        raise RequestError(
            f"this sweep varies {strange[0]}: answers can be weighed for other settings of the sampler only",
            param=strange[0],
        )
    found = {name: values for name, values in grid.axes.items() if name != "prompt"}
    for name, value in fields.items():
        if name not in SAMPLING_FIELDS and name != "order":
            raise RequestError(f"{name} is not a field of the sampler, so answers cannot be weighed for it", param=name)
        many = isinstance(value, list | tuple | range | np.ndarray) and not (
            name in _LISTS and not any(isinstance(one, list | tuple) for one in value)
        )
        found[name] = tuple(listed(name, value)) if many else (value,)
        if not found[name]:
            raise RequestError(f"{name} must be a list of values, got an empty one", param=name)
    return found


def checked_columns(columns: str | Sequence[str] | None, *, own: Sequence[str]) -> list[str]:
    """The numeric columns of a sweep's frame that are meant; all of them by default."""
    numeric = [name for name, kind in SWEEP_COLUMNS.items() if kind == "number" or name == "tokens"] + list(own)
    wanted = numeric if columns is None else [columns] if isinstance(columns, str) else listed("columns", columns)
    for name in wanted:
        if name not in numeric:
            raise RequestError(f"columns: there is no column {name!r}, only {', '.join(numeric)}", param="columns")
    return wanted


def reweighted(
    frame: pd.DataFrame,
    grid: Grid,
    cells: Sequence[tuple[Cell, Completion]],
    backend: Any,
    *,
    axes: Mapping[str, tuple[Any, ...]],
    columns: Sequence[str],
    confidence: float,
) -> pd.DataFrame:
    """The frame of `Sweep.reweight_frame`."""
    from llmlab.frames.schema import build, column_kind, plain

    confidence = _checked_confidence(confidence)
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    prompts = _prompts(frame, grid, cells, backend, points=points)
    kinds = {**{name: column_kind(name) for name in axes}, **REWEIGHTED_COLUMNS}
    rows: dict[str, list[Any]] = {name: [] for name in kinds}
    for at, point in enumerate(points):
        for name in columns:
            values = frame[name].to_numpy(np.float64)
            found = _over_prompts([_estimate(one, values, at) for one in prompts], values, confidence=confidence)
            row = {**{axis: plain(value) for axis, value in point.items()}, "metric": name}
            row |= {"completions": int(np.isfinite(values).sum()), **found._asdict(), "pareto_k": found.shape}
            for column in kinds:
                rows[column].append(row[column])
    return build(rows, kinds)


class _One(NamedTuple):
    """An estimate from the answers to one prompt."""

    value: float
    variance: float
    effective: float
    shape: float
    answers: int
    missing: float


def _estimate(prompt: _Prompt, values: Float64[np.ndarray, " R"], target: int) -> _One:
    """The self-normalized estimate, with the variance of its linear part; units that share noise count as one."""
    f = values[prompt.rows]
    known = np.isfinite(f)
    f, units = f[known], prompt.units[known]
    if not len(f):
        return _One(math.nan, math.nan, 0.0, math.inf, 0, float(prompt.missing[target]))
    ratios = (prompt.targets[:, target] - prompt.mixture)[known]
    weights, shape = smoothed(ratios)
    total = float(weights.sum())
    if total == 0:
        return _One(math.nan, math.nan, 0.0, math.inf, len(f), float(prompt.missing[target]))
    value = float((weights * f).sum()) / total
    _, which = np.unique(units, return_inverse=True)
    parts = np.bincount(which, weights * (f - value) / total)
    U = len(parts)
    variance = float(np.square(parts).sum()) * U / (U - 1) if U > 1 else math.nan
    # Answers that share their noise are worth no more than one: the sums of their weights.
    effective = min(effective_size(weights), effective_size(np.bincount(which, weights)))
    return _One(value, variance, effective, shape, len(f), float(prompt.missing[target]))


def _over_prompts(parts: Sequence[_One], values: np.ndarray, *, confidence: float) -> Estimate:
    """The mean over the prompts; refused where one of them has too little."""
    missing, shape = max(one.missing for one in parts), max(one.shape for one in parts)
    effective = sum(one.effective for one in parts)
    if problem := next((said for one in parts if (said := _problem(one))), ""):
        return Estimate(math.nan, math.nan, math.nan, effective, shape, missing, problem)
    value = float(np.mean([one.value for one in parts]))
    variance = float(np.sum([one.variance for one in parts])) / len(parts) ** 2
    if np.isin(values[np.isfinite(values)], (0, 1)).all():
        low, high = _wilson(value, variance, effective, confidence=confidence)
    else:
        reach = _quantile(confidence, effective - len(parts)) * math.sqrt(variance)
        low, high = value - reach, value + reach
    return Estimate(value, low, high, effective, shape, missing, "")


def _problem(one: _One) -> str:
    """Why an estimate is refused; "" where it is not."""
    if one.missing > _MISSING:
        return (
            f"{one.missing:.2g} of the probability is of answers that no setting of the sweep can draw: sweep one that "
            "truncates less"
        )
    if one.effective < _EFFECTIVE:
        return f"the weights leave {one.effective:.1f} effective answers of {one.answers}, and {_EFFECTIVE} are needed"
    # Half of the answers being effective says as much of so few weights as their tail does.
    if one.shape > trusted_shape(one.answers) and one.effective < one.answers / 2:
        return (
            f"a few answers have most of the weight: the tail's shape is {one.shape:.2f}, and at most "
            f"{trusted_shape(one.answers):.2f} is trusted with {one.answers} answers"
        )
    return ""


def _wilson(share: float, variance: float, effective: float, *, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share, with as many answers as have this variance, or as are effective if fewer.

    Student's quantile takes the place of the normal one, for the variance is estimated.
    """
    n = min(share * (1 - share) / variance, effective) if variance > 1e-12 else effective
    return wilson_interval(share, n, z=_quantile(confidence, n - 1))


def _quantile(confidence: float, freedom: float) -> float:
    """How many standard errors a two-sided interval reaches, by Student's distribution."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, max(freedom, 1.0)))


def _prompts(
    frame: pd.DataFrame,
    grid: Grid,
    cells: Sequence[tuple[Cell, Completion]],
    backend: Any,
    *,
    points: Sequence[Mapping[str, Any]],
) -> list[_Prompt]:
    """The answers to each prompt under the settings that were run and those that are asked about."""
    model = logits_backend(backend)
    groups: dict[Any, list[int]] = {}
    for at, (cell, _) in enumerate(cells):
        groups.setdefault(cell.point.get("prompt"), []).append(at)
    first_row = np.cumsum([0, *(len(completion.choices) for _, completion in cells)])
    prompts = []
    for own in groups.values():
        sources = [(cells[at][0].request, cells[at][0].order) for at in own]
        counts = np.array([len(cells[at][1].choices) for at in own], np.float64)
        targets = [_asked(cells[own[0]][0], point) for point in points]
        rows: list[int] = []
        units: list[int] = []
        found: list[Paths] = []
        known: dict[bytes, Paths] = {}  # short answers are often the same
        for at in own:
            for k, choice in enumerate(cells[at][1].choices):
                rows.append(int(first_row[at]) + k)
                units.append(len(units) if grid.independent else choice.index)
                ids = choice.tokens.ids.tobytes()
                if ids not in known:
                    known[ids] = paths(cells[at][1], choice.index, model, sources=sources, targets=targets)
                found.append(known[ids])
        prompts.append(_prompt(found, rows, units, counts / counts.sum()))
    return prompts


def _prompt(found: Sequence[Paths], rows: list[int], units: list[int], shares: np.ndarray) -> _Prompt:
    log_shares = np.log(shares)
    # All answers are taken for draws from the mixture of the settings (Veach and Guibas 1995, the balance heuristic).
    mixture = np.array([np.logaddexp.reduce(log_shares + one.sources) for one in found])
    G = len(found[0].targets)
    missing = np.zeros(G)
    for one in found:
        before = np.logaddexp.reduce(log_shares[:, None] + one.before, axis=0)
        for target, (reach, stray) in enumerate(one.strays):
            some = stray > 0
            missing[target] += float((np.exp(reach[some] - before[some]) * stray[some]).sum())
    return _Prompt(
        np.array(rows, np.int64), np.array(units, np.int64), mixture, np.stack([one.targets for one in found]),
        np.minimum(missing / len(found), 1.0),
    )  # fmt: skip


def _asked(cell: Cell, point: Mapping[str, Any]) -> tuple[Any, str]:
    """The request of a cell under other settings, and the order of its stages."""
    fields = {name: value for name, value in point.items() if name != "order"}
    order = order_name(point["order"]) if "order" in point else cell.order
    return cell.request.replace(**fields), order


def _checked_confidence(value: float) -> float:
    found = number("confidence", value, 0, 1)
    if found in (0, 1):
        raise RequestError(f"confidence must lie between 0 and 1, got {found:g}", param="confidence")
    return found


def paired(
    frame: pd.DataFrame, grid: Grid, *, along: str | None, columns: Sequence[str], confidence: float
) -> pd.DataFrame:
    """The frame of `Sweep.paired_frame`."""
    from llmlab.frames.schema import build

    confidence = _checked_confidence(confidence)
    swept = [name for name in grid.axes if name != "prompt"]
    if grid.independent:
        raise RequestError("the cells of this sweep have noise of their own: there is nothing that pairs them")
    if not swept or (along is not None and along not in swept):
        raise RequestError(
            f"along must be one of {', '.join(swept) or 'the swept fields, and there are none'}", param="along"
        )
    along = along or swept[0]
    others = [name for name in swept if name != along]
    kind = grid.columns[along]
    kinds = {**{name: grid.columns[name] for name in others}, along: kind, f"{along}_after": kind, **PAIRED_COLUMNS}
    rows: dict[str, list[Any]] = {name: [] for name in kinds}
    keys = [name for name in ("prompt", "choice") if name in frame]
    values = list(dict.fromkeys(frame[along].tolist()))
    for group in frame[others].drop_duplicates().itertuples(index=False) if others else [()]:
        part = frame
        for name, value in zip(others, group, strict=True):
            part = part[part[name] == value]
        for before, after in itertools.pairwise(values):
            left, right = (part[part[along] == value].set_index(keys) for value in (before, after))
            both = left.index.intersection(right.index)
            for name in columns:
                found = _difference(left.loc[both], right.loc[both], name, confidence=confidence)
                row = {**dict(zip(others, group, strict=True)), along: before, f"{along}_after": after, "metric": name}
                row |= found
                for column in kinds:
                    rows[column].append(row[column])
    return build(rows, kinds)


def _difference(left: pd.DataFrame, right: pd.DataFrame, name: str, *, confidence: float) -> dict[str, Any]:
    a, b = left[name].to_numpy(np.float64), right[name].to_numpy(np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    N = len(a)
    if N < 2:
        value = float((b - a).mean()) if N else math.nan
        nothing = dict.fromkeys(("low", "high", "variance_ratio"), math.nan)
        return {"completions": N, "difference": value, **nothing}
    difference = b - a
    own, apart = float(difference.var(ddof=1)), float(a.var(ddof=1) + b.var(ddof=1))
    reach = _quantile(confidence, N - 1) * math.sqrt(own / N)
    value = float(difference.mean())
    ratio = own / apart if apart > 0 else math.nan
    return {"completions": N, "difference": value, "low": value - reach, "high": value + reach, "variance_ratio": ratio}
