"""A user's stage is tried out on a few small distributions when it is defined, so that a mistake is found there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmlab.errors import RequestError
from llmlab.sampling.fields import Field
from llmlab.sampling.history import history_of
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from llmlab.sampling.stage import Stage
from llmlab.sampling.states import no_states

__all__ = ["try_out"]

_V = 24
#: How far a row may be from the same row alone: what a sum in another order makes.
_CLOSE = 1e-4


def try_out(stage: Stage, function: Callable[..., Any], *, own_active: bool) -> None:
    """Runs a stage on small rows, with several values of its parameters.

    Args:
        stage: the stage.
        function: what the user wrote.
        own_active: whether the user said which rows are active.

    Raises:
        RequestError: it fails, or does what a stage must not do; the error says what and names the stage.
    """
    logits = _logits()
    B = len(logits)
    apply = jax.jit(stage.apply)
    for values in _settings(stage.fields):
        inputs, history = _arguments(stage, values, B)
        told = "".join(f", {name}={value:g}" for name, value in values.items())
        begun = None if stage.state is None else _begun(stage, inputs, rows=B, told=told)
        try:
            shape = jax.eval_shape(
                lambda a, b=inputs, c=history: function(a, b, c), jax.ShapeDtypeStruct((B, _V), jnp.float32)
            )
        except Exception as error:
            raise RequestError(f"stage {stage.name} failed on logits [{B}, {_V}]{told}: {error}") from error
        if not hasattr(shape, "shape") or shape.shape != (B, _V) or shape.dtype != jnp.float32:
            got = f"{shape.dtype}{list(shape.shape)}" if hasattr(shape, "shape") else type(shape).__name__
            raise RequestError(
                f"stage {stage.name} returned {got} for logits float32[{B}, {_V}]; return the same shape"
            )
        left = apply(logits, inputs, history)
        for at in range(B):
            one, seen = jax.tree.map(lambda x, at=at: np.asarray(x)[at : at + 1], (inputs, history))
            alone = np.asarray(apply(logits[at : at + 1], one, seen))[0]
            if not np.allclose(alone, np.asarray(left)[at], rtol=_CLOSE, atol=_CLOSE, equal_nan=True):
                raise RequestError(
                    f"stage {stage.name} gives a row other logits beside other rows than alone{told}: reduce over the "
                    "last axis, axis=-1, keepdims=True, and give parameters an axis, inputs.name[:, None]"
                )
        if begun is not None:
            _check_state(stage, begun, logits, left, inputs, told)
        _check(stage, logits, np.asarray(left), np.asarray(stage.active(inputs)), told, own_active=own_active)


def _check(
    stage: Stage, logits: np.ndarray, left: np.ndarray, active: np.ndarray, told: str, *, own_active: bool
) -> None:
    name, gone = stage.name, np.isneginf(logits)
    if np.isnan(left).any() or np.isposinf(left).any():
        raise RequestError(f"stage {name} made a NaN or an infinite logit{told}; removed tokens have -inf, mind them")
    if (np.isneginf(left) < gone).any():
        raise RequestError(f"stage {name} brought back a removed token{told}: its logit is -inf and must stay so")
    if own_active and not np.array_equal(left[~active], logits[~active]):
        raise RequestError(f"stage {name} changed a row that is not active{told}")
    if np.isneginf(left).all(axis=-1).any():
        raise RequestError(f"stage {name} removed every token of a row{told}: keep at least the largest logit")
    if stage.kind == "truncation" and not np.array_equal(np.where(np.isneginf(left), logits, left), logits):
        raise RequestError(
            f"stage {name} is a truncation and changed the logit of a token that it kept{told}; give kind='logits'"
        )


def _begun(stage: Stage, inputs: SamplerInputs, *, rows: int, told: str) -> np.ndarray:
    """The state before the first token.

    Raises:
        RequestError: the function fails, or returns what is no state.
    """
    state = stage.state
    assert state is not None
    wanted = (rows,) if state.size is None else (rows, state.size)
    return _called(f"the initial state of the stage {stage.name}", lambda: state.initial(inputs), wanted, told)


def _check_state(
    stage: Stage, begun: np.ndarray, logits: np.ndarray, left: Any, inputs: SamplerInputs, told: str
) -> None:
    """Runs the function that changes a state, on tokens that are left and on some that are not.

    Raises:
        RequestError: it fails, or returns what is no state.
    """
    name, state, B = stage.name, stage.state, len(logits)
    assert state is not None
    for token in (np.argmax(np.asarray(left), axis=-1), np.argmin(logits, axis=-1)):
        chosen = token.astype(np.int32)

        def advance(at: slice, chosen: np.ndarray = chosen) -> Any:
            own = jax.tree.map(lambda x: jnp.asarray(x)[at], inputs)
            one: Any = (jnp.asarray(x)[at] for x in (begun, logits, left, chosen))
            return jax.jit(state.advance)(*one, own)

        what = f"the advanced state of the stage {name}"
        moved = _called(what, lambda: advance(slice(None)), begun.shape, told)
        for at in range(B):
            alone = np.asarray(advance(slice(at, at + 1)))[0]
            if not np.allclose(alone, moved[at], rtol=_CLOSE, atol=_CLOSE):
                raise RequestError(
                    f"{what} is another for a row beside other rows than alone{told}: reduce over the last axis"
                )


def _called(what: str, function: Callable[[], Any], wanted: tuple[int, ...], told: str) -> np.ndarray:
    try:
        found = function()
        shape, dtype = jnp.shape(found), jnp.asarray(found).dtype
    except Exception as error:
        raise RequestError(f"{what} failed{told}: {error}") from error
    if shape != wanted or not jnp.issubdtype(dtype, jnp.floating):
        size = "" if len(wanted) == 1 else f" (size={wanted[1]})"
        raise RequestError(f"{what} is {dtype}{list(shape)} for {wanted[0]} rows; return float32{list(wanted)}{size}")
    if not np.isfinite(np.asarray(found)).all():
        raise RequestError(f"{what} is not a finite number{told}; mind tokens whose logit is -inf")
    return np.asarray(found)


def _logits() -> np.ndarray:
    """Rows of several shapes: plain, steep, with ties, with removed tokens, with a single token left."""
    rng = np.random.default_rng(0)
    found = rng.normal(0, [[1.0], [6.0], [2.0], [3.0], [1.0]], (5, _V)).astype(np.float32)
    found[2] = np.round(found[2])
    found[3, rng.permutation(_V)[: _V // 2]] = -np.inf
    found[4, 1:] = -np.inf
    return found


def _settings(fields: tuple[Field, ...]) -> Iterator[dict[str, float]]:
    """The neutral values, and some others of every parameter."""
    yield {one.name: one.neutral for one in fields}
    for share in (0.1, 0.5, 1.0):
        yield {one.name: _between(one, share) for one in fields}


def _between(one: Field, share: float) -> float:
    low = 0.0 if one.low is None else one.low
    high = low + 8 if one.high is None else one.high
    value = low + share * (high - low)
    return round(value) if one.kind == "integer" else value


def _arguments(stage: Stage, values: dict[str, float], rows: int) -> tuple[SamplerInputs, History]:
    params = [SamplingParams(extra=values, seed=3, choice=row) for row in range(rows)]
    inputs = stack(params, vocab_size=_V, ends=(0,), order=(stage,))
    if stage.reads_negative:
        inputs = inputs._replace(negative=np.random.default_rng(1).normal(0, 2, (rows, _V)).astype(np.float32))
    one = history_of(np.array([1, 2, 3, 2]), np.array([5, 6, 5]), vocab_size=_V)
    history = jax.tree.map(lambda x: np.repeat(x, rows, axis=0), one)
    if stage.state is None:
        return inputs, history
    # As before a first token, where the state follows from the parameters.
    return inputs, history._replace(position=np.zeros(rows, np.int32), states=no_states((stage,), rows=rows))
