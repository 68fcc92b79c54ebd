"""Means with confidence intervals: Wilson's for shares, the bootstrap's for other columns.

Other metrics of many completions have the jackknife's, because resampling would mislead there.
"""

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

#: The most values that one batch of resamples holds, to bound its memory.
_AT_ONCE = 2_000_000
#: More resamples than this are refused: the ends of an interval are known to a thousandth of its length long before.
_MOST = 1_000_000
#: How far a share of completions may be from a whole number of them, because of rounding.
_ROUNDING = 1e-9


class Estimate(NamedTuple):
    """A value with the low and the high end of its interval, which are NaN if there is only one observation."""

    value: float
    low: float
    high: float


class Units(NamedTuple):
    """The sampling units of T completions. Resampling draws or leaves out whole units, separately in each stratum."""

    stratum: np.ndarray  #: [T]
    unit: np.ndarray  #: [T], a number that identifies the unit within its stratum

    def of(self, rows: np.ndarray) -> Units:
        """The units of some of the completions."""
        return Units(self.stratum[rows], self.unit[rows])


def bootstrap_mean(
    values: np.ndarray, *, units: Units, confidence: float, resamples: int, rng: np.random.Generator
) -> Estimate:
    """The mean of values [T], with the percentile interval of the bootstrap.

    Args:
        values: none of them NaN.
        units: the sampling units of the values.
        confidence: the confidence level, between 0 and 1.
        resamples: the number of resamples.
        rng: draws the resamples.

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


def wilson_mean(values: np.ndarray, *, units: Units, confidence: float) -> Estimate:
    """The share of ones among values [T] that are 0 or 1, with Wilson's score interval.

    It lies within 0 and 1, and it has a length where all values are equal: three successes of three do not show that
    there are no failures, as the bootstrap would have it. Where several values are of one unit, the number of
    independent values with the same variance of the mean takes the place of their number, if it is smaller. Where the
    values do not vary, the number of units does.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; with an effective
    number of values Franco, Little, Louis, Slud 2019, "Comparative study of confidence intervals for proportions in
    complex sample surveys".
    """
    T = len(values)
    if not T:
        return Estimate(math.nan, math.nan, math.nan)
    share = float(values.mean())
    variance, count = 0.0, 0
    for stratum in np.unique(units.stratum):
        own = units.stratum == stratum
        _, which = np.unique(units.unit[own], return_inverse=True)
        residual = np.bincount(which, values[own] - share) / T
        variance += float(np.square(residual - residual.mean()).sum())
        count += len(residual)
    varies = variance > 1e-12 and count > 1
    n = min(share * (1 - share) / variance, T) if varies else count
    return Estimate(share, *wilson_interval(share, n, z=NormalDist().inv_cdf((1 + confidence) / 2)))


def wilson_interval(share: float, n: float, *, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share of n values, which need not be a whole number; see `wilson_mean`.

    Args:
        share: the share.
        n: the number of independent values that have its variance.
        z: how many standard errors the interval reaches.
    """
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    # Rounding may leave the share itself a hair outside 0 and 1, and outside of the interval.
    reach = z / (1 + z**2 / n) * math.sqrt(max(share * (1 - share), 0.0) / n + z**2 / (4 * n**2))
    return max(0.0, min(middle - reach, share)), min(1.0, max(middle + reach, share))


def jackknife_mean(
    cells: Sequence[pd.DataFrame], metric: Metric, *, name: str, units: Sequence[Units], confidence: float
) -> Estimate:
    """The mean over cells of a metric of many completions, with the normal interval of the jackknife.

    The jackknife leaves out one unit at a time. The bootstrap would mislead here: a resample holds the same answer
    several times, and looks less diverse than any real sample.

    Args:
        cells: the completions of each cell, one row each.
        metric: a function of one cell's completions.
        name: the name of the metric, for errors.
        units: the sampling units of each cell's completions; a unit may be part of several cells.
        confidence: the confidence level, between 0 and 1.

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


def as_shares(cells: Sequence[pd.DataFrame], metric: Metric, *, name: str) -> list[np.ndarray] | None:
    """The zeros and ones, one per completion, whose mean a metric is in every cell; None if it is something else.

    They are the jackknife's pseudo-values: n times the metric, minus n - 1 times what it is without the completion.
    What is 0 everywhere, or 1, may be a share or anything else, and is None too.

    Args:
        cells: the completions of each cell, one row each.
        metric: a function of one cell's completions.
        name: the name of the metric, for errors.
    """
    found = []
    for cell in cells:
        n, whole = len(cell), measure(metric, cell, name=name)
        own: list[float] = []
        for at in range(n):
            try:
                rest = measure(metric, cell.drop(index=at).reset_index(drop=True), name=name) if n > 1 else 0.0
            except RequestError:  # it takes all completions or none
                return None
            value = n * whole - (n - 1) * rest
            if not min(abs(value), abs(value - 1)) < _ROUNDING:  # NaN too
                return None
            own.append(round(value))
        if not abs(np.mean(own) - whole) < _ROUNDING:
            return None
        found.append(np.array(own, np.float64))
    return found if len({value for own in found for value in own}) == 2 else None


def measure(metric: Metric, frame: pd.DataFrame, *, name: str) -> float:
    """The value of a caller's metric on a frame; NaN if the metric returns NA or None.

    Raises:
        RequestError: the metric failed, or returned something that is not a number; the message names it.
    """
    try:
        value: Any = metric(frame)
    except Exception as error:
        raise RequestError(f"metric {name!r} failed: {type(error).__name__}: {error}", param="metrics") from error
    if value is None or value is pd.NA:
        return math.nan
    value = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if not isinstance(value, int | float):
        raise RequestError(f"metric {name!r} must return a number, got {short(value)}", param="metrics")
    return float(value)


def summary(
    frame: pd.DataFrame,
    *,
    by: Mapping[str, str],
    cells: Sequence[str],
    columns: Sequence[str],
    shares: Sequence[str],
    metrics: Mapping[str, Metric],
    over: str,
    shared: bool,
    confidence: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """One row per group and metric: the number of completions that have a value, their mean, and its interval.

    Args:
        frame: the frame of a sweep.
        by: the columns to group by, and their kinds.
        cells: the columns that identify a cell.
        columns: the numeric columns to average.
        shares: those of them that hold zeros and ones only.
        metrics: name -> function of one cell's rows.
        over: "completions" or "prompts", what another sample would have others of.
        shared: whether cells share their noise, so that the same choice in several cells is one sampling unit.
        confidence: the confidence level of the intervals.
        resamples: the number of bootstrap resamples.
        seed: of the resamples.

    Raises:
        RequestError: an argument is out of range; a metric failed or did not return a number.
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
    every = [frame.iloc[cell_of == cell].reset_index(drop=True) for cell in np.unique(cell_of)]
    counted = {name: as_shares(every, metric, name=name) for name, metric in metrics.items()}
    rows: dict[str, list[Any]] = {name: [] for name in (*by, *SUMMARY_COLUMNS)}
    for group, at in _groups(frame, list(by)):
        part = frame.iloc[at].reset_index(drop=True)
        own = cell_of[at]
        units = _units(part, own, over=over, shared=shared)
        single = [own == cell for cell in np.unique(own)]
        for name in columns:
            values = part[name].to_numpy(dtype=np.float64)
            known = ~np.isnan(values)
            if name in shares:
                found = wilson_mean(values[known], units=units.of(known), confidence=confidence)
            else:
                # Each group has a generator of its own, so that another group does not change the intervals.
                found = bootstrap_mean(
                    values[known], units=units.of(known), confidence=confidence, resamples=resamples,
                    rng=np.random.default_rng(seed),
                )  # fmt: skip
            _add(rows, (*group, name, int(known.sum()), *found))
        for name, metric in metrics.items():
            parts = [part[here].reset_index(drop=True) for here in single]
            ones = counted[name]
            if ones is not None and len({len(one) for one in parts}) == 1:
                values = np.empty(len(part))
                for here, cell in zip(single, np.unique(own), strict=True):
                    values[here] = ones[cell]
                found = wilson_mean(values, units=units, confidence=confidence)
            else:
                found = jackknife_mean(
                    parts, metric, name=name, units=[units.of(here) for here in single], confidence=confidence
                )
            _add(rows, (*group, name, len(part), *found))
    return build(rows, {**by, **SUMMARY_COLUMNS})


def _add(rows: Mapping[str, list[Any]], values: Sequence[Any]) -> None:
    for column, value in zip(rows.values(), values, strict=True):
        column.append(value)


def _groups(frame: pd.DataFrame, by: list[str]) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """The values of the `by` columns of each group, and the positions of its rows."""
    if not len(frame):
        return
    number = frame.groupby(by, sort=False, dropna=False).ngroup().to_numpy() if by else np.zeros(len(frame), np.int64)
    for group in np.unique(number):  # numbered in the order of their first rows
        at = np.flatnonzero(number == group)
        values = [frame[name].iloc[at[0]] for name in by]
        yield tuple(None if value != value else value for value in values), at


def _units(part: pd.DataFrame, cell: np.ndarray, *, over: str, shared: bool) -> Units:
    prompt = part["prompt"].to_numpy() if "prompt" in part.columns else np.zeros(len(part), np.int64)
    if over == "prompts":
        return Units(np.zeros(len(part), np.int64), prompt)
    # With shared noise, the same choice in all cells of a prompt comes from one draw; otherwise each row is a draw.
    return Units(prompt, part["choice"].to_numpy()) if shared else Units(cell, np.arange(len(part)))


#: Column -> kind, for the columns after those that are grouped by.
SUMMARY_COLUMNS: dict[str, str] = {
    "metric": "text",
    "completions": "index",
    "value": "number",
    "low": "number",
    "high": "number",
}
