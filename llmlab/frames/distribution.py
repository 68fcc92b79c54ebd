"""Frames of one step's next-token distribution: its tokens, tokens after each stage, flip points, and a grid of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Int64

from llmlab.distributions.flip_points import COLD, LIMITS, Settings, flip_points
from llmlab.distributions.stages import stage_table
from llmlab.distributions.step import FIXED, SamplerRow, Step, placed_rows
from llmlab.frames.schema import KEPT_COLUMNS, build
from llmlab.sampling.orders import order_of
from llmlab.sampling.registry import further_fields_of
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd

#: One row per token; see `NextToken.frame`. In a grid's frame the grid's fields come before these columns.
NEXT_TOKEN_COLUMNS: dict[str, str] = {
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "sampling_logprob": "number",
    "rank": "count",
    "kept": "flag",
}
#: One row per token and stage; see `NextToken.stages_frame`.
STAGES_COLUMNS: dict[str, str] = {
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "number": "index",
    "stage": "text",
    "active": "flag",
    "logit": "number",
    "logprob": "number",
    "prob": "number",
    "removed_by": "text",
}
#: One row per parameter and event; see `NextToken.flip_points_frame`.
FLIP_POINTS_COLUMNS: dict[str, str] = {
    "parameter": "text",
    "event": "text",
    "low": "number",
    "high": "number",
    "value": "number",
}


def next_token_frame(
    step: Step,
    ids: Int64[np.ndarray, " K"],
    sampling_logprob: Float64[np.ndarray, "C K"],
    *,
    names: TokenNames,
    cells: Mapping[str, Sequence[object]] | None = None,
    cell_kinds: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The frame of the K most likely tokens of the raw distribution under each of C settings.

    Args:
        step: the decoding step.
        ids: the tokens, most likely first.
        sampling_logprob: of these tokens in the distribution that is sampled from; -inf where one is removed.
        names: what the tokens are called.
        cells: column -> the value that each of the C settings has of it.
        cell_kinds: column -> its kind, of the columns of `cells`.
    """
    C, K = sampling_logprob.shape
    columns: dict[str, object] = {
        name: [value for value in values for _ in range(K)] for name, values in (cells or {}).items()
    }
    columns |= {name: list(values) * C for name, values in names.columns(ids.tolist()).items()}
    columns |= {
        "logprob": np.tile(step.logprobs[ids], C),
        "sampling_logprob": sampling_logprob.ravel(),
        "rank": np.tile(np.arange(1, K + 1), C),
        "kept": np.isfinite(sampling_logprob).ravel(),
    }
    return build(columns, {**(cell_kinds or {}), **NEXT_TOKEN_COLUMNS})


def kept_frame(
    ids: Sequence[Int64[np.ndarray, " _"]],
    logprobs: Sequence[Float64[np.ndarray, " _"]],
    sampling_logprobs: Sequence[Float64[np.ndarray, " _"]],
    *,
    positions: Sequence[int],
    drawn: Sequence[int | None],
    names: TokenNames | None,
) -> pd.DataFrame:
    """The frame of the tokens that could be drawn at T positions.

    Args:
        ids: of each position, most likely first.
        logprobs: of these tokens, raw.
        sampling_logprobs: of these tokens in the distribution that is sampled from.
        positions: the positions.
        drawn: the token of the answer at each.
        names: what the tokens are called; None where there are no positions.
    """
    every = np.concatenate([*ids, np.zeros(0, np.int64)]).tolist()
    named = names.columns(every) if names else {"token": [], "token_id": [], "bytes": []}
    columns: dict[str, object] = {
        "position": [at for at, some in zip(positions, ids, strict=True) for _ in range(len(some))],
        **{name: list(values) for name, values in named.items()},
        "logprob": np.concatenate([*logprobs, np.zeros(0)]),
        "sampling_logprob": np.concatenate([*sampling_logprobs, np.zeros(0)]),
        "drawn": [token == own for own, some in zip(drawn, ids, strict=True) for token in some.tolist()],
    }
    return build(columns, KEPT_COLUMNS)


def stages_frame(step: Step, ids: Sequence[int], *, row: SamplerRow, order: str, names: TokenNames) -> pd.DataFrame:
    """The frame of some tokens after each stage of an order, "raw" first."""
    table = stage_table(step, ids, row=row, order=order)
    K, S = table.logit.shape
    return build(
        {
            **{name: [value for value in values for _ in range(S)] for name, values in names.columns(ids).items()},
            "number": np.tile(np.arange(S), K),
            "stage": list(table.stages) * K,
            "active": list(table.active) * K,
            "logit": table.logit.ravel(),
            "logprob": table.logprob.ravel(),
            "prob": np.exp(table.logprob).ravel(),
            "removed_by": [name or None for name in table.removed_by for _ in range(S)],
        },
        STAGES_COLUMNS,
    )


def flip_points_frame(
    step: Step, token: int, *, row: SamplerRow, order: str, noise: Float32[np.ndarray, " V"] | None
) -> pd.DataFrame:
    """The frame of the values of each parameter between which a token is kept and, with `noise`, sampled."""
    order = placed_rows(order, [row])
    settings, stages = Settings.of(row.params), [stage for stage in order_of(order) if stage.name not in FIXED]
    # As the caller wrote it: 0.9, and not the float32 next to it.
    asked = {name: float(getattr(row.params, name)) for name in LIMITS} | {"top_k": settings.top_k}
    asked[COLD] = asked["temperature"]
    further = further_fields_of(order_of(order))
    if further or any(field.name not in LIMITS for stage in stages for field in stage.fields):
        from llmlab.distributions.flip_scan import scanned_flip_points

        asked |= {field.name: float(row.params.value_of(field)) for field in further if field.is_scalar}
        found = scanned_flip_points(step, token, row=row, order=order, noise=noise)
    else:
        found = flip_points(
            step.before_temperature(row, order=order),
            token,
            stages=[stage.name for stage in stages],
            settings=settings,
            noise=noise,
        )
    return build(
        {
            "parameter": [one.parameter for one in found],
            "event": [one.event for one in found],
            "low": [one.low for one in found],
            "high": [one.high for one in found],
            "value": [asked[one.parameter] for one in found],
        },
        FLIP_POINTS_COLUMNS,
    )
