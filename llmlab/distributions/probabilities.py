"""Probabilities from logits in float64, on the host."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis, in float64; -inf stays -inf."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)) + 0.0  # no -0


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in float64."""
    return np.exp(log_softmax(logits))


def entropy(logits: np.ndarray) -> np.ndarray:
    """Entropies over the last axis, in nats and float64; a token with -inf adds nothing."""
    logprobs = log_softmax(logits)
    probs = np.exp(logprobs)
    return np.asarray(-np.multiply(probs, logprobs, where=probs > 0, out=np.zeros_like(probs)).sum(-1) + 0.0)  # no -0


def best_ids(logits: np.ndarray, top: int) -> list[int]:
    """The ids of the `top` largest logits, falling, ties to the lower id; without sorting the whole vocabulary."""
    least = np.partition(logits, -top)[-top] if top < len(logits) else -np.inf
    found = np.flatnonzero(logits >= least)
    return [int(i) for i in found[np.argsort(-logits[found], kind="stable")][:top]]
