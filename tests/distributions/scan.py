"""Flip points by brute force: distributions written down from their definition, scanned, bisected where they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

#: What follows the penalties and the mask, as the peers document it.
TAILS = {
    "llmlab": ("temperature", "top_k", "top_p", "min_p"),
    "vllm": ("temperature", "min_p", "top_k", "top_p"),
    "sglang": ("temperature", "top_p_joint", "top_k", "top_p", "min_p"),
    "llama.cpp": ("top_k", "top_p", "min_p", "temperature"),
}
PARAMETERS = ("temperature", "top_k", "top_p", "min_p")


class Case(NamedTuple):
    """A step with given noise, and what is held; top_k inf is off."""

    logits: np.ndarray
    noise: np.ndarray
    order: str
    held: dict[str, float]


def alive(case: Case, parameter: str, values: np.ndarray) -> np.ndarray:
    """[G, V]: which tokens are kept with each value of a parameter."""
    x = case.logits.astype(np.float64)
    settings = {name: np.full((len(values), 1), case.held[name]) for name in PARAMETERS}
    settings[parameter] = values[:, None].astype(float)
    first = np.lexsort((np.arange(len(x)), -x))
    x = np.broadcast_to(x[first], (len(values), len(x)))
    kept = np.isfinite(x)
    t = np.ones((len(values), 1))
    for stage in TAILS[case.order]:
        if stage == "temperature":
            t = settings["temperature"]
            continue
        weight = np.where(kept, np.exp((x - x[:, :1]) / t), 0.0)
        prob = weight / weight.sum(1, keepdims=True)
        if stage == "top_k":
            kept = kept & (np.cumsum(kept, 1) <= settings["top_k"])
        elif stage == "min_p":
            kept = kept & (prob >= settings["min_p"] * prob[:, :1])
        else:
            p = settings["top_p"]
            if case.order == "sglang":
                p = np.where((settings["min_p"] > 0) == (stage == "top_p"), p, 1.0)
            under = np.cumsum(prob, 1) - prob < p
            under[:, 0] = True
            kept = kept & (under | (p >= 1.0))
    out = np.zeros_like(kept)
    out[:, first] = kept
    return out


def drawn(case: Case, parameter: str, values: np.ndarray) -> np.ndarray:
    """[G]: which token is drawn with each value of a parameter."""
    t = values[:, None] if parameter == "temperature" else case.held["temperature"]
    perturbed = case.logits.astype(np.float64) / t + case.noise.astype(np.float64)
    return np.where(alive(case, parameter, values), perturbed, -np.inf).argmax(1)


def grid(parameter: str, points: int) -> np.ndarray:
    """Values to scan, rising."""
    if parameter == "top_k":
        return np.append(np.arange(1.0, 129.0), np.inf)
    if parameter == "temperature":
        return np.union1d(np.geomspace(1e-5, 2.0, points), np.linspace(1e-5, 2.0, points))
    near_one = 1.0 - np.geomspace(1e-9, 1.0, points)
    some = np.union1d(np.geomspace(1e-12, 1.0, points), near_one[near_one > 0])
    return some if parameter == "top_p" else np.union1d([0.0], some)


def intervals(holds: Callable[[np.ndarray], np.ndarray], values: np.ndarray, *, whole: bool) -> list[list[float]]:
    """Where something holds, each end bisected; `whole` values are not divided."""
    truth = holds(values)
    edges = np.flatnonzero(truth[1:] != truth[:-1])
    low, high = values[edges].copy(), values[edges + 1].copy()
    inner = np.where(truth[edges], low, high)  # on top_k's grid the ends are the values themselves
    if not whole:
        for _ in range(30):
            middle = 0.5 * (low + high)
            same = holds(middle) == truth[edges] if len(edges) else np.zeros(0, bool)
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        inner = np.where(truth[edges], low, high)
    ends = [*([values[0]] if truth[0] else []), *inner, *([values[-1]] if truth[-1] else [])]
    return [[float(a), float(b)] for a, b in zip(ends[::2], ends[1::2], strict=True)]
