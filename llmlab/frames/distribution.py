"""Frames of one next-token distribution: its tokens, a token's way through the stages, flip points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmlab.distributions.draws import Noise
from llmlab.distributions.flip_points import COLD, LIMITS, Settings, flip_points
from llmlab.distributions.step import FIXED, Step, killers, log_softmax, quotients
from llmlab.frames.schema import build
from llmlab.protocol.request import Request

if TYPE_CHECKING:
    import pandas as pd


LEDGER_COLUMNS: dict[str, str] = {
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


def ledger_frame(step: Step, ids: Sequence[int], *, request: Request, order: str | None) -> pd.DataFrame:
    """See `NextToken.stages`."""
    stages = step.sampler(order)
    inputs = step.rows([request]).inputs
    active = [True, *(bool(np.asarray(stage.active(inputs))[0]) for stage in stages)]
    traced = step.trace([request], order=order)
    spoken = quotients(traced, float(inputs.temperature[0]))
    logits = np.stack([left[0, ids] for left in spoken.values()], axis=1)
    logprobs = np.stack([log_softmax(left[0])[ids] for left in traced.values()], axis=1)
    by = [name or None for name in killers(traced)[0, ids]]
    K, S = logits.shape
    return build(
        {
            **{name: [value for value in values for _ in range(S)] for name, values in step.spelled(ids).items()},
            "number": np.tile(np.arange(S), K),
            "stage": list(traced) * K,
            "active": active * K,
            "logit": logits.ravel(),
            "logprob": logprobs.ravel(),
            "prob": np.exp(logprobs).ravel(),
            "removed_by": [name for name in by for _ in range(S)],
        },
        LEDGER_COLUMNS,
    )


FLIP_COLUMNS: dict[str, str] = {
    "parameter": "text",
    "event": "text",
    "low": "number",
    "high": "number",
    "value": "number",
}


def flip_frame(step: Step, token: int, *, request: Request, order: str | None, noise: Noise) -> pd.DataFrame:
    """See `NextToken.flip_points`."""
    from llmlab.frames.schema import build

    params = step.params([request])[0]
    settings = Settings.of(params)
    found = flip_points(
        step.shaped(request, order=order),
        token,
        stages=[stage.name for stage in step.sampler(order) if stage.name not in FIXED],
        settings=settings,
        noise=noise.values(len(step.logits)),
    )
    # As it was asked for: 0.9, and not the float32 beside it.
    asked = {name: float(getattr(params, name)) for name in LIMITS} | {"top_k": settings.top_k}
    asked[COLD] = asked["temperature"]
    return build(
        {
            "parameter": [one.parameter for one in found],
            "event": [one.event for one in found],
            "low": [one.low for one in found],
            "high": [one.high for one in found],
            "value": [asked[one.parameter] for one in found],
        },
        FLIP_COLUMNS,
    )


NEXT_TOKEN_COLUMNS: dict[str, str] = {
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "sampling_logprob": "number",
    "rank": "count",
    "kept": "flag",
}
