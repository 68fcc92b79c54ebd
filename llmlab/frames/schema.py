"""How a frame is built: columns, their order and their dtypes, declared once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from llmlab.protocol.completion import SEGMENTS
from llmlab.protocol.fields import FIELDS


def build(columns: Mapping[str, object], kinds: Mapping[str, str]) -> pd.DataFrame:
    """The columns as a frame, each with the dtype of its kind, in the order of `kinds`.

    Kinds: index (int64), count (Int64; negative or NaN is NA), integer (Int64, exact; None is NA), number (Float64;
    NaN is NA), flag (bool), switch (boolean; None is NA), text (str, before pandas 3 objects; None is NA), segment and
    token (categorical), bytes (objects: bytes or None).
    """
    return pd.DataFrame({name: _column(columns[name], kind) for name, kind in kinds.items()}, columns=list(kinds))


def _column(values: Any, kind: str) -> object:
    if kind == "bytes":
        # Filled one by one: NumPy would strip the trailing zero bytes of its own byte strings.
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return pd.Series(column, dtype=object)
    if kind == "segment":
        return pd.Categorical(values, categories=pd.Index(SEGMENTS, dtype="str"))
    if kind == "token":
        return pd.Categorical(values, categories=pd.Index(sorted(set(values)), dtype="str"))
    if kind in ("switch", "integer"):
        return pd.array(list(values), dtype="boolean" if kind == "switch" else "Int64")
    if kind == "text":
        return pd.Series(list(values), dtype="str")
    if kind == "index":
        return np.asarray(values, dtype=np.int64)
    if kind == "flag":
        return np.asarray(values, dtype=bool)
    number = np.asarray(values, dtype=np.float64)
    if kind == "number":
        return pd.arrays.FloatingArray(number, np.isnan(number))
    unknown = ~(number >= 0)
    return pd.arrays.IntegerArray(np.where(unknown, 0, number).astype(np.int64), unknown)


def column_kind(field: str) -> str:
    """The kind of the column that a field's values make in a frame; texts, and what is written as JSON, are "text"."""
    known = FIELDS.get(field)
    if known is None:
        return "text"
    if known.kind == "integer":
        return "integer" if known.low is not None and known.low < 0 else "count"
    return {"number": "number", "flag": "switch"}.get(known.kind, "text")


def plain(value: Any) -> Any:
    """A field's value as a frame holds it: a number, a switch, text, None; anything else as its JSON."""
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, sort_keys=True)
