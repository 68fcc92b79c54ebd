"""The frames of a comparison of two models over the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from llmlab.distributions.divergence import Divergences
from llmlab.frames.schema import build
from llmlab.text.token_class import token_class
from llmlab.text.token_names import TokenNames

__all__ = [
    "CLASSES_COLUMNS",
    "COMPARISON_COLUMNS",
    "ENTROPY_COLUMNS",
    "TEXTS_COLUMNS",
    "classes_frame",
    "comparison_frame",
    "entropy_frame",
    "texts_frame",
]

COMPARISON_COLUMNS: dict[str, str] = {
    "text": "index",
    "choice": "index",
    "position": "index",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "token_class": "text",
    "logprob": "number",
    "other_logprob": "number",
    "rank": "count",
    "other_rank": "count",
    "entropy": "number",
    "other_entropy": "number",
    "kl": "number",
    "reverse_kl": "number",
    "jensen_shannon": "number",
    "total_variation": "number",
    "top": "count",
    "other_top": "count",
    "same_top": "flag",
    "differ_probability": "number",
    "draw": "count",
    "other_draw": "count",
    "same_draw": "switch",
    "margin": "number",
}
TEXTS_COLUMNS: dict[str, str] = {
    "text": "index",
    "choice": "index",
    "tokens": "index",
    "kl": "number",
    "reverse_kl": "number",
    "jensen_shannon": "number",
    "total_variation": "number",
    "most_kl": "number",
    "same_top": "number",
    "logprob": "number",
    "other_logprob": "number",
    "first_difference": "count",
    "draw": "count",
    "other_draw": "count",
    "margin": "number",
}
_GROUP: dict[str, str] = {
    "tokens": "index",
    "kl": "number",
    "kl_error": "number",
    "same_top": "number",
    "same_draw": "number",
    "differ_probability": "number",
}
CLASSES_COLUMNS: dict[str, str] = {"token_class": "text", **_GROUP}
ENTROPY_COLUMNS: dict[str, str] = {"low": "number", "high": "number", **_GROUP}
_MEANS = ("kl", "reverse_kl", "jensen_shannon", "total_variation")


def comparison_frame(texts: Sequence[Any], names: TokenNames) -> pd.DataFrame:
    """One row per token; see `Comparison.frame`.

    Args:
        texts: `results.comparison.Text`.
        names: of the tokens.
    """
    columns: dict[str, list[Any]] = {name: [] for name in COMPARISON_COLUMNS}
    for one in texts:
        T = len(one.ids)
        ids = one.ids.tolist()
        values: Divergences = one.values
        found: dict[str, Any] = {
            "text": [one.text] * T,
            "choice": [one.choice] * T,
            "position": range(T),
            **names.columns(ids),
            "token_class": [token_class(names.bytes_of(token)) for token in ids],
            **values._asdict(),
            "same_top": values.top == values.other_top,
            "differ_probability": one.draws.differ,
            "draw": one.draws.own,
            "other_draw": one.draws.other,
            "same_draw": [None if a < 0 else bool(a == b) for a, b in zip(one.draws.own, one.draws.other, strict=True)],
            "margin": one.draws.margin,
        }
        for name in COMPARISON_COLUMNS:
            columns[name].extend(found[name])
    return build(columns, COMPARISON_COLUMNS)


def texts_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per text and choice of a `comparison_frame`; see `Comparison.texts_frame`."""
    columns: dict[str, list[Any]] = {name: [] for name in TEXTS_COLUMNS}
    for (text, choice), own in frame.groupby(["text", "choice"], sort=False):
        others = own[[one is False for one in own["same_draw"].tolist()]]
        first = others.iloc[0] if len(others) else None
        row: dict[str, Any] = {
            "text": text,
            "choice": choice,
            "tokens": len(own),
            **{name: own[name].mean() for name in _MEANS},
            "most_kl": own["kl"].max(),
            "same_top": own["same_top"].mean(),
            "logprob": own["logprob"].sum(),
            "other_logprob": own["other_logprob"].sum(),
            "first_difference": -1 if first is None else int(first["position"]),
            "draw": -1 if first is None else int(first["draw"]),
            "other_draw": -1 if first is None else int(first["other_draw"]),
            "margin": np.nan if first is None else float(first["margin"]),
        }
        for name in TEXTS_COLUMNS:
            columns[name].append(row[name])
    return build(columns, TEXTS_COLUMNS)


def classes_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of token of a `comparison_frame`, the largest mean KL first."""
    rows = [{"token_class": name, **_group(own)} for name, own in frame.groupby("token_class", sort=True)]
    rows.sort(key=lambda row: -row["kl"])
    return build({name: [row[name] for row in rows] for name in CLASSES_COLUMNS}, CLASSES_COLUMNS)


def entropy_frame(frame: pd.DataFrame, *, ranges: int) -> pd.DataFrame:
    """One row per range of the first model's entropy; ranges that ties leave empty are left out."""
    rows = []
    if len(frame):
        edges = np.unique(np.quantile(frame["entropy"], np.linspace(0, 1, ranges + 1)))
        place = np.clip(np.searchsorted(edges, frame["entropy"], side="right") - 1, 0, max(len(edges) - 2, 0))
        for number in np.unique(place):
            own = frame[place == number]
            rows.append({"low": own["entropy"].min(), "high": own["entropy"].max(), **_group(own)})
    return build({name: [row[name] for row in rows] for name in ENTROPY_COLUMNS}, ENTROPY_COLUMNS)


def _group(own: pd.DataFrame) -> dict[str, Any]:
    T = len(own)
    return {
        "tokens": T,
        "kl": own["kl"].mean(),
        "kl_error": own["kl"].std(ddof=1) / np.sqrt(T) if T > 1 else np.nan,
        "same_top": own["same_top"].mean(),
        "same_draw": own["same_draw"].astype(float).mean(),
        "differ_probability": own["differ_probability"].mean(),
    }
