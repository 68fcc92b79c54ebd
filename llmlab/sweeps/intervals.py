"""Means of a sweep's groups with intervals: by the bootstrap, and by the jackknife where a resample would mislead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from llmlab.errors import RequestError, short
from llmlab.frames.schema import build
from llmlab.metrics import Metric
from llmlab.protocol.arguments import number, whole

#: How many figures one batch of resamples may hold.
_AT_ONCE = 2_000_000
#: More resamples than this are a mistake: an interval's ends are known to a thousandth of its length long before.
_MOST = 1_000_000


class Estimate(NamedTuple):
    """A figure of a group: its value, and where it may lie (NaN: one observation says nothing about that)."""

    value: float
    low: float
    high: float


class Units(NamedTuple):
    """Which of T completions stand or fall together: whole units are drawn again or left out, stratum by stratum."""

    stratum: np.ndarray  #: [T]
    unit: np.ndarray  #: [T], told apart within a stratum

    def of(self, rows: np.ndarray) -> Units:
        """Those of some rows."""
        return Units(self.stratum[rows], self.unit[rows])


def bootstrap_mean(
    values: np.ndarray, *, units: Units, confidence: float, resamples: int, rng: np.random.Generator
) -> Estimate:
    """The mean of some values [T], with the percentile interval of the bootstrap.

    Args:
        values: none of them NaN.
        units: of the values.
        confidence: the interval's, between 0 and 1.
        resamples: how many.
        rng: draws them.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13; Davison and Hinkley 1997,
    "Bootstrap methods and their application", sections 3.2 (strata) and 3.8 (units of several values).
    """
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan)
    value = float(values.mean())
    sums: np.ndarray = np.zeros(resamples)
    counts: np.ndarray = np.zeros(resamples)
    varies = False
    for stratum in np.unique(units.stratum):
        own = units.stratum == stratum
        _, which = np.unique(units.unit[own], return_inverse=True)
        total, count = np.bincount(which, values[own]), np.bincount(which)
        U = len(total)
        varies |= U > 1
        for at in range(0, resamples, step := max(1, _AT_ONCE // U)):
            drawn = rng.integers(0, U, (min(step, resamples - at), U))
            sums[at : at + step] += total[drawn].sum(1)
            counts[at : at + step] += count[drawn].sum(1)
    if not varies or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(sums / counts, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))


def jackknife_mean(
    cells: Sequence[pd.DataFrame], metric: Metric, *, name: str, units: Sequence[Units], confidence: float
) -> Estimate:
    """The mean over cells of a metric of many completions, with a normal interval from leaving out unit after unit.

    Not the bootstrap: a resample has answers twice, and would look less diverse than any real sample.

    Args:
        cells: the completions of each.
        metric: of one cell's completions.
        name: the metric's.
        units: of each cell's completions; a unit may be part of several cells.
        confidence: the interval's.

    Source: Tukey 1958, "Bias and confidence in not quite large samples"; Efron and Stein 1981, "The jackknife estimate
    of variance".
    """
    whole = np.array([measure(metric, cell, name=name) for cell in cells])
    value = float(whole.mean()) if len(whole) else math.nan
    if not math.isfinite(value):
        return Estimate(value, math.nan, math.nan)
    variance, varies = 0.0, False
    for stratum in np.unique(np.concatenate([own.stratum for own in units])):
        inside = [own.stratum == stratum for own in units]
        each = np.unique(np.concatenate([own.unit[here] for own, here in zip(units, inside, strict=True)]))
        if len(each) < 2:
            continue
        varies = True
        without = []
        for unit in each:
            left = []
            for cell, own, here, known in zip(cells, units, inside, whole, strict=True):
                out = here & (own.unit == unit)
                if not out.any():
                    left.append(float(known))
                elif not out.all():
                    left.append(measure(metric, cell[~out].reset_index(drop=True), name=name))
            without.append(float(np.mean(left)))
        variance += (len(each) - 1) / len(each) * float(np.square(np.array(without) - np.mean(without)).sum())
    if not varies:
        return Estimate(value, math.nan, math.nan)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)
    return Estimate(value, value - reach, value + reach)


def measure(metric: Metric, frame: pd.DataFrame, *, name: str) -> float:
    """A caller's metric of a frame, NaN where it says NA or None.

    Raises:
        RequestError: the metric failed, or gave something that is not a number; the message names it.
    """
    try:
        value: Any = metric(frame)
    except Exception as error:
        raise RequestError(f"metric {name!r} failed: {type(error).__name__}: {error}", param="metrics") from error
    if value is None or value is pd.NA:
        return math.nan
    value = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if not isinstance(value, int | float):
        raise RequestError(f"metric {name!r} has to give a number, and gave {short(value)}", param="metrics")
    return float(value)


def summary(
    frame: pd.DataFrame,
    *,
    by: Mapping[str, str],
    cells: Sequence[str],
    columns: Sequence[str],
    metrics: Mapping[str, Metric],
    over: str,
    shared: bool,
    confidence: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """One row a group and metric: how many completions had the figure, its value, and its interval.

    Args:
        frame: a sweep's.
        by: column -> kind, the columns to group by.
        cells: the columns that tell the cells apart.
        columns: of figures whose mean is asked.
        metrics: functions of one cell's rows.
        over: completions (of these prompts), or prompts (such as these): what another sample would have others of.
        shared: the cells share their noise, so that the same choice in several cells is one unit.
        confidence: of the intervals.
        resamples: of the bootstrap.
        seed: of the resamples.
    """
    confidence = number("confidence", confidence, 0, 1)
    if confidence in (0, 1):
        raise RequestError(f"confidence must lie between 0 and 1, got {confidence:g}", param="confidence")
    resamples, seed = whole("resamples", resamples, least=1, most=_MOST), whole("seed", seed, least=0)
    if over not in ("completions", "prompts"):
        raise RequestError(f"over must be 'completions' or 'prompts', got {short(over)}", param="over")
    cell_of = np.zeros(len(frame), np.int64)
    for cell, (_, at) in enumerate(_groups(frame, list(cells))):
        cell_of[at] = cell
    rows: dict[str, list[Any]] = {name: [] for name in (*by, *SUMMARY_COLUMNS)}
    for group, at in _groups(frame, list(by)):
        part = frame.iloc[at].reset_index(drop=True)
        own = cell_of[at]
        units = _units(part, own, over=over, shared=shared)
        single = [own == cell for cell in np.unique(own)]
        for name in columns:
            values = part[name].to_numpy(dtype=np.float64, na_value=np.nan)
            known = ~np.isnan(values)
            # A generator a group: one more group does not change the others' intervals.
            found = bootstrap_mean(
                values[known], units=units.of(known), confidence=confidence, resamples=resamples,
                rng=np.random.default_rng(seed),
            )  # fmt: skip
            _add(rows, (*group, name, int(known.sum()), *found))
        for name, metric in metrics.items():
            parts = [part[here].reset_index(drop=True) for here in single]
            found = jackknife_mean(
                parts, metric, name=name, units=[units.of(here) for here in single], confidence=confidence
            )
            _add(rows, (*group, name, len(part), *found))
    return build(rows, {**by, **SUMMARY_COLUMNS})


def _add(rows: Mapping[str, list[Any]], values: Sequence[Any]) -> None:
    for column, value in zip(rows.values(), values, strict=True):
        column.append(value)


def _groups(frame: pd.DataFrame, by: list[str]) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """Each group's values, and its rows' places."""
    if not len(frame):
        return
    number = frame.groupby(by, sort=False, dropna=False).ngroup().to_numpy() if by else np.zeros(len(frame), np.int64)
    for group in np.unique(number):  # numbered as they come
        at = np.flatnonzero(number == group)
        values = frame.iloc[at[0]][by].tolist() if by else []
        yield tuple(None if value is pd.NA or value != value else value for value in values), at


def _units(part: pd.DataFrame, cell: np.ndarray, *, over: str, shared: bool) -> Units:
    prompt = part["prompt"].to_numpy() if "prompt" in part.columns else np.zeros(len(part), np.int64)
    if over == "prompts":
        return Units(np.zeros(len(part), np.int64), prompt)
    # With shared noise the same choice of all cells of a prompt is one draw; else each row is one of its cell's.
    return Units(prompt, part["choice"].to_numpy()) if shared else Units(cell, np.arange(len(part)))


#: A sweep's summary: after the columns that it is grouped by.
SUMMARY_COLUMNS: dict[str, str] = {
    "metric": "text",
    "completions": "index",
    "value": "number",
    "low": "number",
    "high": "number",
}
