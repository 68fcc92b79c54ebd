"""What a sampler makes of a next-token distribution, over the tokens that an endpoint lists, in float64.

A `Distribution` holds the K most likely tokens with their logprobs at neutral settings. Of all other tokens only the
mass is known, `rest`. A sampler is a list of steps over it, so that a wrong order is another list, and a field
that is ignored a shorter one. `tests/audit/test_distributions.py` compares them with the engine's own sampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from llmlab.audit.asking import Key, Listed

#: (name of the step, its parameters).
Step: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Distribution:
    """A next-token distribution at neutral settings, as far as an endpoint lists it.

    Attributes:
        keys: the K tokens, most likely first.
        logprobs: their logprobs [K], in nats.
        texts: their texts.
        ids: their token ids, None where they are not listed.
        rest: the probability of all other tokens.
    """

    keys: tuple[Key, ...]
    logprobs: Float64[np.ndarray, " K"]
    texts: tuple[str, ...] = ()
    ids: tuple[int | None, ...] = ()
    rest: float = 0.0

    @classmethod
    def of(cls, top: Sequence[Listed]) -> Distribution:
        """The distribution that alternatives describe, in whatever order they were sent."""
        ranked = sorted((one for one in top if one.logprob > -math.inf), key=lambda one: -one.logprob)
        logprobs = np.array([one.logprob for one in ranked], np.float64)
        return cls(
            keys=tuple(one.key for one in ranked),
            logprobs=logprobs,
            texts=tuple(one.text for one in ranked),
            ids=tuple(one.token_id for one in ranked),
            rest=max(0.0, 1.0 - float(np.exp(logprobs).sum())),
        )

    @property
    def entropy(self) -> float:
        """The entropy of the listed tokens' distribution, in nats."""
        p = np.exp(self.logprobs - np.logaddexp.reduce(self.logprobs))
        return float(-(p * np.log(p)).sum())

    def index(self) -> dict[Key, int]:
        """Token -> its place in the list."""
        return {key: at for at, key in enumerate(self.keys)}


@dataclass(eq=False)
class Cell:
    """Draws from one distribution, under one request's fields.

    Attributes:
        distribution: the distribution at neutral settings.
        counts: how often each listed token was drawn, and the others together, in the last place [M = K + 1].
        fields: the request's sampling fields.
        seen: how often each listed token was generated before [K].
    """

    distribution: Distribution
    counts: Int64[np.ndarray, " M"]
    fields: dict[str, Any] = field(default_factory=dict)
    seen: Int64[np.ndarray, " K"] | None = None

    @property
    def draws(self) -> int:
        """The number of draws."""
        return int(self.counts.sum())


def sampled(distribution: Distribution, steps: Sequence[Step]) -> Float64[np.ndarray, " M"]:
    """Log-probabilities of the listed tokens after these steps, and of the others together in the last place [K + 1].

    The last is -inf where a filter removed the others, and NaN where their mass is not known any more (after a
    temperature); the first K are then those given that a listed token was drawn. A step is

    - ("temperature", t), ("top_k", k), ("min_p", m): as in the API;
    - ("top_p", p): keeps a token where the mass strictly before it is below p;
    - ("top_p_exclusive", p): keeps a token where the mass up to and with it is at most p;
    - ("absolute_p", m): keeps a token whose probability is at least m, and the likeliest;
    - ("add", [K]): adds to the listed tokens' logits;
    - ("tail", (s, f)): multiplies by f the probability of tokens that have less than s times the largest one;
    - ("listed", True): from here on the mass of the others is not known, as they may have been changed too;
    - ("repetition", r, where [K], z), ("divide", r, where [K], z): divides a logit by r, the first where it is above 0
      (and multiplies it elsewhere), the second always; a logit is the logprob plus z.
    """
    left = distribution.logprobs.copy()
    rest, known = distribution.rest, True  # of the tokens that are not listed: their mass on the scale of exp(left)
    for name, value, *more in steps:
        if name == "temperature":
            if value != 1.0:
                # Each of them is at most as likely as the last one listed, which bounds their mass where t < 1.
                rest = rest * math.exp(float(distribution.logprobs[-1]) * (1 / value - 1)) if rest else 0.0
                left, known = left / value, known and rest == 0.0
        elif name == "top_k":
            # Ties go to the earlier place in the list; which of them is the lower id may not be known.
            order = np.argsort(-left, kind="stable")
            rest, known = _others(rest, known, gone=value <= len(left))
            left[order[value:]] = -np.inf
        elif name in ("top_p", "top_p_exclusive"):
            order = np.argsort(-left, kind="stable")
            weights = np.exp(left[order] - left.max())
            total = weights.sum() + rest * math.exp(-left.max())
            upto = np.cumsum(weights) / total
            before = upto - weights / total
            removed = before >= value if name == "top_p" else upto > value
            removed[0] = False
            # Where the listed tokens reach p together, none of the others is kept; else some are, and not all.
            rest, known = _others(rest, known, gone=bool(removed.any() or (name == "top_p" and upto[-1] >= value)))
            left[order[removed]] = -np.inf
        elif name in ("min_p", "absolute_p"):
            scale = left.max() if name == "min_p" else np.logaddexp.reduce(left)
            removed = left < min(scale + math.log(value), left.max())
            rest, known = _others(rest, known, gone=bool(removed.any()))
            left[removed] = -np.inf
        elif name == "add":
            left = left + value
        elif name == "listed":
            known = False
        elif name == "tail":
            share, factor = value
            left = np.where(left < left.max() + math.log(share), left + math.log(factor), left)
            rest *= factor
        else:
            where, z = more
            logit = left + z
            scaled = np.where(logit > 0, logit / value, logit * value if name == "repetition" else logit / value)
            left = np.where(where, scaled - z, left)
    if known:
        whole = np.append(left, math.log(rest) if rest > 0 else -np.inf)
        return np.asarray(whole - _log_sum(whole))
    return np.append(left - _log_sum(left), np.nan)


def _others(rest: float, known: bool, *, gone: bool) -> tuple[float, bool]:
    """The mass of the others after a filter, and whether it is known: it may have removed all, or some of them."""
    return (0.0, True) if gone else (rest, known and rest == 0.0)


def _log_sum(x: np.ndarray) -> float:
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum()))
