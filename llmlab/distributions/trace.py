"""What can be read off a trace: the logits [B, V] after each stage, in the order of the stages, "raw" first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmlab.sampling.fields import GREEDY


def parameter_of(stage: str) -> str:
    """The name that a stage has for the user: SGLang's order has two stages, `top_p_joint` and `top_p`, for top_p."""
    return stage.removesuffix("_joint")


def last(trace: Mapping[str, np.ndarray]) -> np.ndarray:
    """The logits [B, V] after the last stage: those that a token is sampled from."""
    return list(trace.values())[-1]


def textbook_logits(trace: Mapping[str, np.ndarray], temperature: float) -> dict[str, np.ndarray]:
    """The trace in float64, in which the logits after the temperature are the logits before it over the temperature.

    The sampler subtracts the largest logit before it divides, which is more exact in float32 and leaves the
    distribution as it is. A reader expects the plain quotient.
    """
    wide: dict[str, np.ndarray] = {}
    shift = np.zeros(())
    for name, rows in trace.items():
        if parameter_of(name) == "temperature" and temperature >= GREEDY and temperature != 1.0:
            shift = last(wide).max(-1, keepdims=True) / temperature
        wide[name] = rows + np.where(np.isfinite(shift), shift, 0.0)
    return wide


def removing_stages(trace: Mapping[str, np.ndarray]) -> np.ndarray:
    """The name of the stage that removed each token [B, V]; "" where none did."""
    alive = np.isfinite(trace["raw"])
    found = np.where(alive, "", "raw").astype(object)
    for name, rows in trace.items():
        found[alive & ~np.isfinite(rows)] = name
        alive &= np.isfinite(rows)
    return found
