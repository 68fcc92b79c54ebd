"""At which temperature, top_k, top_p and min_p a token is kept, and at which it is the one that is sampled.

The values are computed, not scanned. In every order of the stages, bias, penalties and mask come first. What follows
them, temperature and truncation, keeps the ranking of the tokens (logit falling, id rising), and each truncation keeps
the first tokens of that ranking. So the distribution is known from the number K of tokens that are kept. In each of the
orders, K only grows with temperature, top_k and top_p, and only falls with min_p:

- The probability of the first n tokens falls as the temperature rises (the distribution at the lower temperature
  dominates the other stochastically), and it is a smaller share of a larger total. So top_p keeps more tokens at a
  higher temperature, or after a truncation that removes less.
- min_p keeps the tokens whose logit lies less than -t ln(min_p) below the largest.

A token of rank r is therefore kept on one interval of each parameter, which ends where K passes r. With given noise g,
Gumbel-max samples it where it is kept and no other token that is kept has a larger l / t + g. Token i and token r are
level at the temperature (l_r - l_i) / (g_i - g_r): a token of better rank wins below it, one of worse rank, once it is
kept, above it. So the token is sampled on one interval too. The ends of an interval are such crossings, in closed form,
or steps of K, found by bisection between neighbouring float64 numbers: exact to the last bit, in about 60 evaluations.

Everything is in float64, from the float32 logits that the engine's own bias, penalties and mask leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from llmlab.sampling.fields import GREEDY
from llmlab.sampling.params import SamplingParams

#: The parameters that are varied, and the range of each in a request. Below a temperature of 1e-5 only the most likely
#: token is left, which has a row of its own.
LIMITS = {"temperature": (GREEDY, 2.0), "top_k": (1.0, 128.0), "top_p": (5e-324, 1.0), "min_p": (0.0, 1.0)}
_COLDEST = np.float32(GREEDY)
COLD = "temperature < 1e-5"
_NEVER = (np.nan, np.nan)
#: The states of a token, in the order in which it goes through them as a parameter goes from its strictest value to its
#: most generous one: out (removed, or beaten by a better-ranked token), in (kept or sampled), overtaken by a token of
#: worse rank.
_OUT, _IN, _OVERTAKEN = range(3)


class Interval(NamedTuple):
    """The values of one parameter at which an event holds: from `low` to `high`, both included; NaN for never.

    A low of 0 for top_p stands for every value above 0; a high of 1e-5 for the temperatures below it.
    """

    parameter: str
    event: str  #: kept or drawn
    low: float
    high: float  #: of top_k: inf where the event holds with top_k off, too


class Settings(NamedTuple):
    """The parameters that are held while one of them is varied."""

    temperature: float
    top_k: float  #: inf is off
    top_p: float
    min_p: float

    @classmethod
    def of(cls, params: SamplingParams) -> Settings:
        """Settings from one row's SamplingParams, rounded to float32 as the engine does."""
        t, p, m = (float(np.float32(x)) for x in (params.temperature, params.top_p, params.min_p))
        return cls(t, float(params.top_k) if params.top_k > 0 else np.inf, p, m)


class Ranking:
    """The n tokens that bias, penalties and mask leave, best first, and how many of them given settings keep.

    Args:
        logits: before temperature and truncation; -inf where a token is removed.
        stages: the names of the stages that follow, in order.
    """

    def __init__(self, logits: Float32[np.ndarray, " V"], *, stages: Sequence[str]) -> None:
        order = np.argsort(-logits, kind="stable")
        self.ids: Int64[np.ndarray, " n"] = order[: np.isfinite(logits).sum()]
        sorted_logits = logits[self.ids].astype(np.float64)
        #: How far below the largest logit each token lies, rising from 0.
        self.depth: Float64[np.ndarray, " n"] = sorted_logits[:1] - sorted_logits if len(self.ids) else sorted_logits
        self.stages = tuple(stages)
        self._mass = lru_cache(maxsize=2)(self._masses)

    def rank(self, token: int) -> int | None:
        """A token's place in the ranking, from 0; None where it is removed before truncation."""
        found = np.flatnonzero(self.ids == token)
        return int(found[0]) if len(found) else None

    def kept(self, at: Settings) -> int:
        """K, the number of tokens that these settings keep."""
        count, t = len(self.ids), 1.0
        if np.float32(at.temperature) < _COLDEST:
            return min(count, 1)
        # SGLang measures top_p before top_k, except for requests with min_p.
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
        """The unnormalised probability before each place, and the total last."""
        return np.concatenate([[0.0], np.cumsum(np.exp(-self.depth / temperature))])


class Race(NamedTuple):
    """At which temperatures a token beats the other tokens with given noise, by their places in the ranking."""

    rank: int
    since: float  #: the temperature from which it beats every token of better rank; inf for never
    until: Float64[np.ndarray, " n_and_1"]  #: at index K: the temperature up to which it beats those of worse rank

    @classmethod
    def of(cls, ranking: Ranking, rank: int, noise: Float32[np.ndarray, " V"]) -> Race:
        """The race of the token at a rank against all others."""
        ahead = noise[ranking.ids].astype(np.float64) - float(noise[ranking.ids[rank]])
        under = ranking.depth - ranking.depth[rank]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = under / ahead  # the temperature at which the two are level
        better, worse = slice(0, rank), slice(rank + 1, None)
        # Of equal logits the larger noise wins at any temperature; of equal noise as well, the lower id.
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
    """The intervals of each parameter on which a token is kept and, with `noise`, sampled; the others are held.

    Args:
        logits: before temperature and truncation, after bias, penalties and mask.
        token: the token's id.
        stages: the names of the stages that follow, in order.
        settings: the values at which the parameters are held.
        noise: the Gumbel noise of the step.

    Returns:
        One interval per event ("kept", "drawn") and parameter; the temperatures below 1e-5 come first.
    """
    ranking = Ranking(logits, stages=stages)
    rank = ranking.rank(token)
    found = []
    for event in ("kept", "drawn") if noise is not None else ("kept",):
        race = Race.of(ranking, rank, noise) if event == "drawn" and rank is not None and noise is not None else None
        found.append(Interval(COLD, event, *((0.0, GREEDY) if rank == 0 else _NEVER)))
        for parameter in LIMITS:
            ends = None if rank is None else Search(ranking, rank, race, settings, parameter).ends()
            found.append(Interval(parameter, event, *(ends or _NEVER)))
    return found


class Search(NamedTuple):
    """The search for the values of one parameter at which a token is kept or, with a race, sampled.

    The values of the parameter are numbered from 0, the strictest, to the most generous. The token's `state` only rises
    with the number, so that bisection finds where it changes.
    """

    ranking: Ranking
    rank: int
    race: Race | None
    settings: Settings
    parameter: str

    def ends(self) -> tuple[float, float] | None:
        """The least and the largest value at which the token is in; None for never."""
        low, high = LIMITS[self.parameter]
        most = int(high) if self.parameter == "top_k" else _bits(high) - _bits(low)
        first, beyond = self._first(_IN, most), self._first(_OVERTAKEN, most)
        if first == beyond:
            return None
        ends = sorted((self.value(first), self.value(beyond - 1)))
        # A request cannot have a top_p of 0, yet 0 is easier to read than the least float64 above it.
        return (0.0 if self.parameter == "top_p" and first == 0 else ends[0]), ends[1]

    def value(self, number: int) -> float:
        """The value with this number. The bits of neighbouring positive float64 are neighbouring integers."""
        low, high = LIMITS[self.parameter]
        if self.parameter == "top_k":
            return low + number if low + number <= high else np.inf
        bits = _bits(high) - number if self.parameter == "min_p" else _bits(low) + number
        return float(np.int64(bits).view(np.float64))

    def state(self, number: int) -> int:
        """Whether the token is out, in or overtaken at the value with this number."""
        at = self.settings._replace(**{self.parameter: self.value(number)})
        kept = self.ranking.kept(at)
        if self.rank >= kept:
            return _OUT
        if self.race is None or kept == 1:
            return _IN
        if at.temperature < self.race.since:
            return _OUT
        return _OVERTAKEN if self.race.until[kept] < at.temperature else _IN

    def _first(self, state: int, most: int) -> int:
        """The least number at which this state is reached; `most` + 1 where it never is."""
        if self.state(most) < state:
            return most + 1
        low, high = -1, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.state(middle) >= state else (middle, high)
        return high


def _bits(value: float) -> int:
    return int(np.float64(value).view(np.int64))
