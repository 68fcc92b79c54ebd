"""At which temperature, top_k, top_p and min_p a token enters the law, leaves it, or is the one that is drawn.

Nothing is scanned. In every order the penalties and the mask come first; what follows them, the temperature and the
cuts, leaves the ranking of the tokens (logit falling, id rising) as it is, and each cut keeps a head of that ranking.
So the law is known from the number K of tokens that are kept, and K only grows with temperature, top_k and top_p, and
only falls with min_p, in each of the orders:

- the mass of a head falls as the temperature rises (the colder law dominates the hotter one stochastically), and its
  share of a larger total is smaller; top_p therefore keeps more where the law is hotter, or cut less before it;
- min_p keeps the tokens whose logit lies less than -t ln(min_p) under the largest.

A token of rank r is therefore kept on one interval of each parameter, whose end is where K passes r. It is drawn, under
Gumbel-max with given noise g, where it is kept and no other kept token has a larger l / t + g. Token i overtakes token
r at the temperature (l_r - l_i) / (g_i - g_r): a better-ranked token wins below it, a worse one, once it is kept,
above it. So this too is one interval. Its ends are such crossings, in closed form, or steps of K, found by bisection of
a monotone step function down to two neighbouring float64: exact to the last bit, and in 60 looks.

All of it is in float64, from the float32 logits that the engine's own penalties leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from llmlab.sampling.params import GREEDY, SamplingParams

if TYPE_CHECKING:
    pass


#: What is varied, and how far a request may take it. Under 1e-5 the law is one-hot, which is a row of its own.
LIMITS = {"temperature": (GREEDY, 2.0), "top_k": (1.0, 128.0), "top_p": (5e-324, 1.0), "min_p": (0.0, 1.0)}
_COLDEST = np.float32(GREEDY)
COLD = "temperature < 1e-5"
_NEVER = (np.nan, np.nan)
#: What a token can be, in the order in which the values of a parameter, from the strictest, bring it about.
_OUT, _THERE, _BEHIND = range(3)


class Interval(NamedTuple):
    """Where one event holds while one parameter is varied: from `low` to `high`, both of them in it; NaN for never.

    A low of 0 for top_p stands for whatever is above it, as does a high of 1e-5 for the temperatures below.
    """

    parameter: str
    event: str  #: kept or drawn
    low: float
    high: float  #: of top_k: inf where it holds with top_k off as well


class Settings(NamedTuple):
    """The parameters that are held while one of them is varied, as the engine has them (float32)."""

    temperature: float
    top_k: float  #: inf is off
    top_p: float
    min_p: float

    @classmethod
    def of(cls, params: SamplingParams) -> Settings:
        """Those of a row."""
        t, p, m = (float(np.float32(x)) for x in (params.temperature, params.top_p, params.min_p))
        return cls(t, float(params.top_k) if params.top_k > 0 else np.inf, p, m)


class Ranking:
    """A step's tokens in the order in which the cuts walk them, and how many of them are kept.

    Args:
        logits: those before the temperature and the cuts; -inf where a token is out.
        stages: the names of the stages that follow, in their order.
    """

    def __init__(self, logits: Float32[np.ndarray, " V"], *, stages: Sequence[str]) -> None:
        order = np.argsort(-logits, kind="stable")
        self.ids: Int64[np.ndarray, " n"] = order[: np.isfinite(logits).sum()]
        sorted_logits = logits[self.ids].astype(np.float64)
        #: How far under the largest logit each token lies, rising from 0.
        self.depth: Float64[np.ndarray, " n"] = sorted_logits[:1] - sorted_logits if len(self.ids) else sorted_logits
        self.stages = tuple(stages)
        self._mass = lru_cache(maxsize=2)(self._masses)

    def rank(self, token: int) -> int | None:
        """A token's place, from 0; None where it is out before the cuts."""
        found = np.flatnonzero(self.ids == token)
        return int(found[0]) if len(found) else None

    def kept(self, at: Settings) -> int:
        """K, how many tokens the law has."""
        count, t = len(self.ids), 1.0
        if np.float32(at.temperature) < _COLDEST:
            return min(count, 1)
        # SGLang measures top_p before top_k but for requests with min_p.
        joint = "top_p_joint" in self.stages and at.min_p == 0.0
        for stage in self.stages:
            if stage == "temperature":
                t = at.temperature
            elif stage == "top_k":
                count = int(min(count, at.top_k))
            elif stage == "min_p" and at.min_p > 0.0:
                count = min(count, int(np.searchsorted(self.depth, -t * np.log(at.min_p), side="right")))
            elif stage == ("top_p_joint" if joint else "top_p") and at.top_p < 1.0:
                before = self._mass(t)
                count = min(count, max(1, int(np.searchsorted(before[:count], at.top_p * before[count]))))
        return count

    def _masses(self, temperature: float) -> Float64[np.ndarray, " n_and_1"]:
        """The unnormalised mass before each place, and all of it last."""
        return np.concatenate([[0.0], np.cumsum(np.exp(-self.depth / temperature))])


class Race(NamedTuple):
    """When a token beats the others under given noise, by their places in the ranking."""

    rank: int
    since: float  #: the temperature from which it beats every better-ranked token; inf for never
    until: Float64[np.ndarray, " n_and_1"]  #: with K kept, the temperature to which it beats the worse-ranked of them

    @classmethod
    def of(cls, ranking: Ranking, rank: int, noise: Float32[np.ndarray, " V"]) -> Race:
        """The race of the token at `rank`."""
        ahead = noise[ranking.ids].astype(np.float64) - float(noise[ranking.ids[rank]])
        under = ranking.depth - ranking.depth[rank]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = under / ahead  # the temperature at which the two are level
        better, worse = slice(0, rank), slice(rank + 1, None)
        # Of equal logits the larger noise wins at any temperature, and of equal noise too the lower id.
        needed = np.where(ahead[better] < 0, crossing[better], np.inf)
        allowed = np.where(ahead[worse] > 0, crossing[worse], np.inf)
        until = np.full(len(ranking.ids) + 1, np.inf)
        until[rank + 2 :] = np.minimum.accumulate(allowed)
        return cls(rank, float(needed.max(initial=0.0)), until)


def flip_points(
    logits: Float32[np.ndarray, " V"],
    token: int,
    *,
    stages: Sequence[str],
    settings: Settings,
    noise: Float32[np.ndarray, " V"] | None = None,
) -> list[Interval]:
    """Where a token is kept and, with `noise`, where it is drawn, one parameter varied and the others held.

    Args:
        logits: those before the temperature and the cuts, penalties and mask applied.
        token: its id.
        stages: the names of the stages that follow, in their order.
        settings: what is held.
        noise: the Gumbel noise of the step.
    """
    ranking = Ranking(logits, stages=stages)
    rank = ranking.rank(token)
    found = []
    for event in ("kept", "drawn") if noise is not None else ("kept",):
        race = Race.of(ranking, rank, noise) if event == "drawn" and rank is not None and noise is not None else None
        found.append(Interval(COLD, event, *((0.0, GREEDY) if rank == 0 else _NEVER)))
        for parameter in LIMITS:
            ends = None if rank is None else Question(ranking, rank, race, settings, parameter).ends()
            found.append(Interval(parameter, event, *(ends or _NEVER)))
    return found


class Question(NamedTuple):
    """Where a token is kept or, with a race, where it is drawn, while one parameter is varied.

    The values of the parameter have numbers, from 0 for the strictest to the most generous, and the token's `state`
    only rises with them: out, there, and behind a token that has joined it.
    """

    ranking: Ranking
    rank: int
    race: Race | None
    settings: Settings
    parameter: str

    def ends(self) -> tuple[float, float] | None:
        """The least and the largest value at which it is so; None for never."""
        low, high = LIMITS[self.parameter]
        most = int(high) if self.parameter == "top_k" else _bits(high) - _bits(low)
        first, beyond = self._first(_THERE, most), self._first(_BEHIND, most)
        if first == beyond:
            return None
        ends = sorted((self.value(first), self.value(beyond - 1)))
        # A top_p of 0 cannot be asked for; its limit is a better answer than the least float64 above it.
        return (0.0 if self.parameter == "top_p" and first == 0 else ends[0]), ends[1]

    def value(self, number: int) -> float:
        """The value that has a number. Neighbouring positive float64 are neighbouring integers."""
        low, high = LIMITS[self.parameter]
        if self.parameter == "top_k":
            return low + number if low + number <= high else np.inf
        bits = _bits(high) - number if self.parameter == "min_p" else _bits(low) + number
        return float(np.int64(bits).view(np.float64))

    def state(self, number: int) -> int:
        """Whether the token is out or beaten by a better-ranked one, there, or beaten by a worse-ranked one."""
        at = self.settings._replace(**{self.parameter: self.value(number)})
        kept = self.ranking.kept(at)
        if self.rank >= kept:
            return _OUT
        if self.race is None or kept == 1:
            return _THERE
        if at.temperature < self.race.since:
            return _OUT
        return _BEHIND if self.race.until[kept] < at.temperature else _THERE

    def _first(self, state: int, most: int) -> int:
        """The least number at which this state is reached; one more than there are where it never is."""
        if self.state(most) < state:
            return most + 1
        low, high = -1, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.state(middle) >= state else (middle, high)
        return high


def _bits(value: float) -> int:
    return int(np.float64(value).view(np.int64))
