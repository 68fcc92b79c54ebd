"""An independent sampler in float64 NumPy, written from the table of fields. Sorts as it likes; knows nothing of JAX.

Besides the law it says which of its decisions were close: those where the quantity that decides (a logit against the
logit beside the border, a mass against p, a ratio against min_p) lies within 1e-5 of its threshold, so that float32 may
fairly decide the other way. An exact tie is not close: there the lower id comes first, in any precision.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from llmlab.sampling.params import SamplingParams

CLOSE = 1e-5


@dataclass
class Case:
    """One row: the model's logits, what it asks for, and what it has seen."""

    logits: np.ndarray  # float32 [V]
    params: SamplingParams
    prompt: np.ndarray  # bool [V]
    counts: np.ndarray  # int [V]
    position: int = 0
    ends: tuple[int, ...] = ()
    allowed: np.ndarray | None = None  # bool [V]; None: no grammar


@dataclass
class Law:
    """What the oracle says of a case."""

    probs: np.ndarray  # float64 [V]
    kept: np.ndarray  # bool [V]
    close: list[str] = field(default_factory=list)  # the stages that had a close decision
    rivals: np.ndarray | None = None  # bool [V]: what might as well have been the largest, at temperature 0


def f64(x: float) -> float:
    """The number that a float32 array holds for x."""
    return float(np.float32(x))


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def law(case: Case) -> Law:
    """The law that the next token is drawn from."""
    p = case.params
    logits = case.logits.astype(np.float64)
    close: list[str] = []
    for token, bias in p.logit_bias.items():
        logits[token] += f64(bias)
    seen = case.prompt | (case.counts > 0)
    r = f64(p.repetition_penalty)
    logits = np.where(seen, np.where(logits > 0, logits / r, logits * r), logits)
    logits = logits - np.where(case.counts > 0, f64(p.frequency_penalty) * case.counts, 0.0)
    logits = logits - np.where(case.counts > 0, f64(p.presence_penalty), 0.0)
    if case.allowed is not None:
        logits[~case.allowed] = -np.inf
    if case.position < p.min_tokens:
        logits[list(case.ends)] = -np.inf

    if not (logits > -np.inf).any():
        return Law(np.zeros_like(logits), np.zeros(len(logits), bool))
    order = np.lexsort((np.arange(len(logits)), -logits))  # logit falling, id rising
    order = order[logits[order] > -np.inf]
    unscaled = logits
    rivals = logits >= logits[order[0]] - CLOSE
    t = f64(p.temperature)
    if t < f64(1e-5):
        if len(order) > 1 and 0 < logits[order[0]] - logits[order[1]] < CLOSE:
            close.append("argmax")
        kept = order[:1]
        logits = np.zeros_like(logits)
    else:
        logits = logits / t
        kept = order

    def border(name: str, kept: np.ndarray, out: np.ndarray) -> None:
        """Close if tokens on both sides have nearly the logit of the last that is kept, and not all quite the same.

        float32 may see such tokens as equal, and then keeps those with the lower ids.
        """
        if len(kept) and len(out):
            for values in (logits, unscaled):
                near = [side[np.abs(values[side] - values[kept[-1]]) < CLOSE] for side in (kept, out)]
                if len(near[1]) and len(np.unique(values[np.concatenate(near)])) > 1:
                    close.append(name)

    if p.top_k > 0:
        border("top_k", kept[: p.top_k], kept[p.top_k :])
        kept = kept[: p.top_k]
    if p.top_p < 1:
        probs = softmax(logits[kept])
        before = np.concatenate([[0.0], np.cumsum(probs)[:-1]])
        stays = before < f64(p.top_p)
        stays[0] = True
        if (np.abs(before[1:] - f64(p.top_p)) < CLOSE).any():
            close.append("top_p")
        border("top_p", kept[stays], kept[~stays])
        kept = kept[stays]
    if p.min_p > 0:
        probs = softmax(logits[kept])
        ratio = probs / probs.max()
        stays = ratio >= f64(p.min_p)
        if (np.abs(ratio[1:] - f64(p.min_p)) < CLOSE).any() and not (ratio[1:] == f64(p.min_p)).all():
            close.append("min_p")
        kept = kept[stays]

    probs = np.zeros(len(logits))
    probs[kept] = softmax(logits[kept])
    mask = np.zeros(len(logits), bool)
    mask[kept] = True
    return Law(probs, mask, close, rivals)


def entropy(probs: np.ndarray) -> float:
    """In nats, with 0 log 0 = 0."""
    some = probs[probs > 0]
    return float(-(some * np.log(some)).sum())


def raw_logprobs(logits: np.ndarray) -> np.ndarray:
    """The log-softmax of the model's logits."""
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
