"""Reads the columns of a frame for the metrics; one that is missing is an error that names it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from llmlab.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd


def numbers(frame: pd.DataFrame, column: str, metric: str) -> np.ndarray:
    """A column as float64; what is missing is NaN."""
    need(frame, column, metric)
    return frame[column].to_numpy(dtype=np.float64, na_value=np.nan)


def need(frame: pd.DataFrame, column: str, metric: str) -> None:
    """Raise a RequestError if the frame has no such column."""
    if column not in frame.columns:
        raise RequestError(
            f"{metric} reads the column {column!r}, and the frame has {', '.join(map(str, frame.columns))}",
            param="frame",
        )


def mean(values: np.ndarray) -> float:
    """The mean; NaN of no values."""
    return float(values.mean()) if len(values) else math.nan
