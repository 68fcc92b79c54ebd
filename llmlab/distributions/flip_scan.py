"""Flip points of any stages, found by evaluating the sampler itself: a grid of values, then finer ones at each change.

`flip_points` computes them where temperature, top_k, top_p and min_p are all that comes after bias, penalties and mask.
A further stage has no closed form, and may keep a token on several intervals of its parameter. An interval that lies
between two neighbouring values of the grid is not found; the ends of one that is found are exact to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float32

from llmlab.distributions.blocks import blocks
from llmlab.distributions.flip_points import COLD, LIMITS, Interval
from llmlab.distributions.step import SamplerRow, Step, changed, placed_rows
from llmlab.sampling.compiled import PerOrder
from llmlab.sampling.draw import draw
from llmlab.sampling.fields import GREEDY, Field
from llmlab.sampling.orders import order_of
from llmlab.sampling.params import History, SamplerInputs
from llmlab.sampling.pipeline import process
from llmlab.sampling.registry import further_fields_of

#: The values of a grid that are equally spaced, and those whose distances from the low end have one ratio.
_LINEAR, _LOG = 33, 30
#: How many values are evaluated at once between two neighbours.
_BETWEEN = 62
#: The values of a field without an upper bound that are looked at.
_REACH = 100


class Parameter(NamedTuple):
    """A parameter that is varied: its name, the least and the largest value, and whether it is an integer.

    `off` tells whether the least value switches its stage off, and is left out; so are integers that it cannot be.
    """

    name: str
    low: float
    high: float
    whole: bool
    off: bool = False
    refused: tuple[int, ...] = ()

    @classmethod
    def of(cls, field: Field) -> Parameter:
        """The parameter that a field of a stage is."""
        low = 0.0 if field.low is None else float(field.low)
        high = low + _REACH if field.high is None else float(field.high)
        low = float(np.nextafter(np.float32(low), np.float32(high))) if field.above else low
        return cls(field.name, low, high, field.kind == "integer", field.neutral == field.low, (*field.refused,))

    def grid(self) -> np.ndarray:
        """The values at which it is first evaluated, rising."""
        if self.whole:
            whole = np.unique(np.linspace(self.low + self.off, self.high, 2 * _BETWEEN + 5).round())
            return np.setdiff1d(whole, self.refused)
        width = self.high - self.low
        shares = np.concatenate([np.linspace(0, 1, _LINEAR)[self.off :], np.geomspace(1e-6, 0.03, _LOG)])
        return np.unique(np.float32(self.low + width * shares)).astype(np.float64)


def scanned_flip_points(
    step: Step, token: int, *, row: SamplerRow, order: str, noise: Float32[np.ndarray, " V"] | None
) -> list[Interval]:
    """The intervals of each parameter of an order on which a token is kept and, with `noise`, sampled.

    Args:
        step: the decoding step.
        token: the token's id.
        row: the settings; one parameter is varied while the others are held.
        order: the order of the sampler's stages.
        noise: the Gumbel noise of the step.

    Returns:
        Of each event and parameter one interval or more; NaN where there is none.
    """
    order = placed_rows(order, [row])
    fields = {one.name for stage in order_of(order) for one in stage.fields}
    varied = [
        Parameter("top_k", 1, 129, True) if name == "top_k" else Parameter(name, *ends, False)
        for name, ends in LIMITS.items()
        if name in fields
    ]
    varied += [Parameter.of(field) for field in further_fields_of(order_of(order)) if field.is_scalar]
    found = []
    for at, event in enumerate(("kept", "drawn") if noise is not None else ("kept",)):

        def holds(parameter: str, values: Sequence[float], at: int = at) -> np.ndarray:
            return _evaluate(step, token, parameter, values, row=row, order=order, noise=noise)[at]

        cold = (0.0, GREEDY) if holds("temperature", [0.0])[0] else (np.nan, np.nan)
        found.append(Interval(COLD, event, *cold))
        for one in varied:
            found += [Interval(one.name, event, *ends) for ends in _intervals(one, partial(holds, one.name))]
    return found


def _evaluate(
    step: Step,
    token: int,
    parameter: str,
    values: Sequence[float],
    *,
    row: SamplerRow,
    order: str,
    noise: Float32[np.ndarray, " V"] | None,
) -> tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Whether the token is kept, and whether it is sampled, at each value of a parameter."""
    kept, drawn = [], []
    gumbel = np.zeros_like(step.logits) if noise is None else noise
    for block in blocks(list(values), V=len(step.logits)):
        rows = [changed(row, **{parameter: _setting(parameter, value)}) for value in block]
        got = _states(*step.inputs(rows, order=order), gumbel, np.int32(token), order=order)
        kept.append(np.asarray(got[0])[: len(block)])
        drawn.append(np.asarray(got[1])[: len(block)])
    return np.concatenate(kept), np.concatenate(drawn)


def _setting(parameter: str, value: float) -> float:
    """The value as settings have it: a top_k beyond the largest is off."""
    if parameter == "top_k":
        return int(value) if value <= LIMITS["top_k"][1] else 0
    return value


@PerOrder
def _states(
    logits: Array, inputs: SamplerInputs, history: History, noise: Array, token: Array, *, order: str
) -> tuple[Array, Array]:
    B = inputs.temperature.shape[0]
    shared = jax.tree.map(lambda x: jnp.broadcast_to(x, (B, *x.shape[1:])), history)
    final = process(jnp.broadcast_to(logits, (B, *logits.shape)), inputs, shared, order=order_of(order))
    return final[:, token] > -jnp.inf, draw(final, jnp.broadcast_to(noise, final.shape)) == token


def _intervals(one: Parameter, holds: Callable[[Sequence[float]], np.ndarray]) -> Iterator[tuple[float, float]]:
    """The intervals on which something holds, from a grid and from finer values at each of its changes."""
    grid = one.grid()
    states = holds(grid.tolist())
    # As of top_p, 0 is easier to read than the least value above it.
    least = 0.0 if one.off and one.low == 0.0 and not one.whole else float(grid[0])
    begin = least if states[0] else None
    for at in np.flatnonzero(states[1:] != states[:-1]):
        before, after = _change(one, float(grid[at]), float(grid[at + 1]), bool(states[at]), holds)
        if begin is None:
            begin = after
        else:
            yield float(begin), before
            begin = None
    if begin is not None:
        # Of top_k the value after the largest stands for off.
        off = one.name == "top_k"
        yield np.inf if off and begin == one.high else float(begin), np.inf if off else one.high
    elif not states.any():
        yield np.nan, np.nan


def _change(
    one: Parameter, low: float, high: float, state: bool, holds: Callable[[Sequence[float]], np.ndarray]
) -> tuple[float, float]:
    """The last value at which the state is that of `low`, and the next one."""
    while True:
        between = np.linspace(low, high, _BETWEEN + 2)[1:-1]
        between = np.unique(between.round() if one.whole else np.float32(between).astype(np.float64))
        between = np.setdiff1d(between[(between > low) & (between < high)], one.refused)
        if not len(between):
            return low, high
        states = np.append(holds(between.tolist()), not state)
        first = int(np.argmax(states != state))
        values = [low, *between.tolist(), high]
        low, high = values[first], values[first + 1]
