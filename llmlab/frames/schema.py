"""Columns and dtypes of the frames of completions, declared once, and the function that builds a frame from them.

A frame is declared as a mapping from its columns, in their order, to a `Kind` each; the kind decides the dtype.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from llmlab.protocol.completion import SEGMENTS
from llmlab.protocol.fields import field_named

#: What a column holds. Numbers have NumPy's own dtypes, so that several numeric columns make a numeric array: pandas'
#: nullable ones make an array of objects, which seaborn, scikit-learn and torch refuse.
#:
#: - index: int64, never missing
#: - count: int64; float64 if one is missing (a negative value, None or NaN), which is then NaN
#: - integer: int64 of any sign; float64 if one is missing (None), which is then NaN; object if float64 would round one
#: - number: float64; what is missing is NaN, and minus infinity stays what it is
#: - flag: bool, never missing
#: - switch: bool; object (True, False, None) if one is missing
#: - text: str (before pandas 3: object); None is missing
#: - segment, token: categorical
#: - bytes: object; bytes, or None for a control token
Kind: TypeAlias = Literal[
    "index", "count", "integer", "number", "flag", "switch", "text", "segment", "token", "bytes"
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)

#: One row per generated token; see `tokens.logprobs_frame`.
LOGPROBS_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "segment": "segment",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "sampling_logprob": "number",
    "rank": "count",
    "entropy": "number",
    "sampling_entropy": "number",
    "margin": "number",
    "kept": "count",
}
#: One row per position and token that could be drawn; see `NextTokens.kept_frame`.
KEPT_COLUMNS: dict[str, str] = {
    "position": "index",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "sampling_logprob": "number",
    "drawn": "flag",
}
#: One row per alternative of a generated token; see `tokens.top_logprobs_frame`.
TOP_LOGPROBS_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "alternative": "index",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "sampling_logprob": "number",
    "sampled": "flag",
}
#: One row per generated token; see `tokens.surprisal_frame`.
SURPRISAL_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "segment": "segment",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "surprisal": "number",
    "bits": "number",
    "total_bits": "number",
    "expected_bits": "number",
}
#: One row per generated token; see `drafts.draft_frame`.
DRAFT_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "token": "token",
    "token_id": "count",
    "guesses": "index",
    "guessed": "flag",
    "passes": "index",
}
#: One row per choice; see `samples.samples_frame`.
SAMPLES_COLUMNS: dict[str, str] = {
    "choice": "index",
    "text": "text",
    "finish_reason": "text",
    "tokens": "count",
    "logprob": "number",
    "sampling_logprob": "number",
}
#: One row per token of a prompt; see `Result.prompt_logprobs_frame`.
PROMPT_COLUMNS: dict[str, str] = {
    "position": "index",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "rank": "count",
    "entropy": "number",
    "margin": "number",
}


def build(columns: Mapping[str, object], kinds: Mapping[str, str]) -> pd.DataFrame:
    """The columns as a frame, each with the dtype of its kind.

    Args:
        columns: column -> its values, one per row; columns that `kinds` does not name are left out.
        kinds: column -> `Kind`, in the order of the frame.

    Raises:
        KeyError: a column of `kinds` is missing.
        ValueError: a kind is unknown, or the columns differ in length.
    """
    return pd.DataFrame({name: _column(columns[name], kind) for name, kind in kinds.items()}, columns=list(kinds))


def _column(values: Any, kind: str) -> object:
    if kind not in KINDS:
        raise ValueError(f"a column is one of {', '.join(KINDS)}, not {kind!r}")
    if kind == "bytes":
        # Filled one by one: NumPy would strip the trailing zero bytes of its own byte strings.
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return pd.Series(column, dtype=object)
    if kind == "segment":
        return pd.Categorical(values, categories=pd.Index(SEGMENTS, dtype="str"))
    if kind == "token":
        return pd.Categorical(values, categories=pd.Index(sorted(set(values)), dtype="str"))
    if kind == "text":
        return pd.Series(list(values), dtype="str")
    if kind == "number":
        return np.asarray(values, dtype=np.float64)
    if kind == "index":
        return np.asarray(values, dtype=np.int64)
    if kind == "flag":
        return np.asarray(values, dtype=bool)
    if kind == "switch":
        known = [None if value is None or value != value else bool(value) for value in values]
        return pd.Series(known, dtype=object if None in known else bool)
    return _integers(np.asarray(values), least=0 if kind == "count" else None)


def _integers(values: np.ndarray, *, least: int | None) -> object:
    """Integers in the first of int64, float64 and object that holds them exactly.

    None, NaN and what is below `least` are missing.
    """
    if values.dtype == object:
        missing = np.array(
            [value is None or value != value or (least is not None and value < least) for value in values]
        )
    else:
        missing = ~(values >= (-np.inf if least is None else least))  # NaN too
    if not missing.any():
        return values.astype(np.int64)
    numbers = np.where(missing, np.nan, values).astype(np.float64)
    if all(int(number) == value for number, value in zip(numbers[~missing], values[~missing], strict=True)):
        return numbers
    return pd.Series([None if absent else value for value, absent in zip(values, missing, strict=True)], dtype=object)


def column_kind(field: str) -> str:
    """The `Kind` of the column that a request field's values make; texts, and what is written as JSON, are "text"."""
    known = field_named(field)
    if known is None:
        return "text"
    if known.kind == "integer":
        return "integer" if known.low is not None and known.low < 0 else "count"
    return {"number": "number", "flag": "switch"}.get(known.kind, "text")


def plain(value: Any) -> Any:
    """A request field's value as a frame holds it: a number, a bool, text or None; anything else as its JSON."""
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, sort_keys=True)
