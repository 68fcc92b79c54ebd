"""The dtype that each kind of column has: NumPy's own for numbers, so that several of them make a numeric array."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

#: kind -> (the dtype where no value is missing, the dtype where one is; None: no value may be missing)
DTYPES: dict[str, tuple[str, str | None]] = {
    "index": ("int64", None),
    "count": ("int64", "float64"),
    "integer": ("int64", "float64"),
    "number": ("float64", "float64"),
    "flag": ("bool", None),
    "switch": ("bool", "object"),
    "text": ("str", "str"),
    "segment": ("category", None),
    "token": ("category", None),
    "bytes": ("object", "object"),
}


def assert_declared(frame: pd.DataFrame, kinds: Mapping[str, str]) -> None:
    """Each column is there, in order, with the dtype of its kind, and the rows are numbered from 0."""
    expected = {name: DTYPES[kind][int(frame[name].isna().any())] for name, kind in kinds.items()}
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == expected
    assert list(frame.columns) == list(kinds) and frame.index.equals(pd.RangeIndex(len(frame)))
