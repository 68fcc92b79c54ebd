"""How a user makes a stage: from a function, which is tried out before it is used.

    from llmlab.sampling import define_stage, number

    @define_stage(number("least_logit", -1e3, 1e3, default=-1e3), kind="truncation")
    def least(logits, inputs, history):
        return jnp.where(logits >= inputs.least_logit[:, None], logits, -jnp.inf)

`least` is then a `Stage`: `lab.chat("Hello", order=["llmlab", least], least_logit=2.0)`.

A stage that steers by what was drawn remembers numbers of each row. This one asks for one more nat after each token:

    rising = State(initial=lambda inputs: inputs.first, advance=lambda state, before, after, token, inputs: state + 1.0)

    @define_stage(number("first", -1e3, 1e3, default=-1e3), kind="truncation", state=rising)
    def ever_higher(logits, inputs, history, state):
        return jnp.where(logits >= jnp.minimum(state[:, None], logits.max(-1, keepdims=True)), logits, -jnp.inf)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from llmlab.errors import RequestError
from llmlab.sampling.fields import Field
from llmlab.sampling.registry import define
from llmlab.sampling.stage import Inputs, Seen, Stage, StageKind, State
from llmlab.sampling.states import state_of

if TYPE_CHECKING:
    from jax import Array

__all__ = ["define_stage"]


def define_stage(
    *parameters: Field,
    kind: StageKind = "logits",
    name: str | None = None,
    active: Callable[[Inputs], Array] | None = None,
    after: str | Mapping[str, str] | None = None,
    state: State | None = None,
    reads_negative: bool = False,
) -> Callable[[Callable[..., Array]], Stage]:
    """Returns a decorator that makes a stage of the sampler of a function; the function's name is the stage's.

    The function is pure, written in JAX, and gets `logits` [B, V] (float32; a removed token has -inf), `inputs`, whose
    attributes are the parameters, arrays [B], and the seeds, and `history`: `prompt` [B, V] bool, the tokens in the
    prompt; `counts` [B, V], how often each token was generated; `position` [B], how many tokens were generated. It
    returns logits [B, V]. Each row must depend on its own logits and values alone. It is compiled into the engine's
    step; the parameters are traced, so that other values compile nothing.

    Defining a stage of the same name again replaces it, as does running a cell of a notebook again.

    Args:
        parameters: the request fields that the stage owns, from `number` and `integer`. Their defaults are the values
            at which nothing happens.
        kind: "truncation" removes tokens by their place in the distribution and leaves the others as they are,
            "temperature" reshapes all logits, "mask" forbids tokens whatever their logits, "logits" does anything else.
            The first two may look at the logits and the parameters alone.
        name: the stage's name; by default the function's.
        active: from `inputs` to [B] bool: the rows that ask for the stage. By default those with a parameter that is
            not at its default. The others are left as they are, bit for bit.
        after: the stage that it follows where a request sets a parameter and names no order with the stage in it; or
            such a stage per order ("" for all others). By default a truncation comes last, a temperature directly
            before the temperature, and any other stage before the first of these; `FIRST` and `LAST`, in
            `llmlab.sampling`, are the beginning and the end.
        state: what the stage remembers of a row: where it begins, and how a drawn token changes it. The function then
            has a fourth argument, `state`, an array [B] or [B, size].
        reads_negative: whether the function reads `inputs.negative`, the model's logits [B, V] after the request's
            `negative_prompt` and the same generated tokens; a row takes twice the time and memory then.

    Raises:
        RequestError: the name of the stage or of a parameter is taken; the function fails, returns another shape, makes
            a NaN, brings a removed token back, removes all tokens, mixes rows, or does not do what its kind says; the
            functions of the state fail, return another shape or a NaN, or mix rows.
    """

    def decorate(written: Callable[..., Array]) -> Stage:
        called = name or written.__name__
        function = written if state is None else _reading(written, called, state)
        for one in parameters:
            if not isinstance(one, Field):
                raise RequestError(f"stage {called}: parameters come from number() or integer(), got {one!r}")
        fields = tuple(replace(one, extension=True) for one in parameters)
        asks = active or _differs(fields)
        places = () if after is None else (("", after),) if isinstance(after, str) else tuple(after.items())
        stage = Stage(
            called,
            kind,
            fields,
            asks,
            _guarded(function, asks),
            after=places,
            state=state,
            reads_negative=reads_negative,
        )
        from llmlab.sampling.trial import try_out

        try_out(stage, function, own_active=active is not None)
        define(stage)
        return stage

    return decorate


def _reading(
    function: Callable[[Array, Inputs, Seen, Array], Array], name: str, state: State
) -> Callable[[Array, Inputs, Seen], Array]:
    """The function, given the stage's state as well."""

    def apply(logits: Array, inputs: Inputs, history: Seen) -> Array:
        return function(logits, inputs, history, state_of(name, state, inputs, history))

    return apply


def _differs(fields: tuple[Field, ...]) -> Callable[[Inputs], Array]:
    """Which rows have a value that is not neutral; all rows where there are no fields."""

    def active(inputs: Inputs) -> Array:
        import jax.numpy as jnp

        if not fields:
            return jnp.ones(inputs.temperature.shape, bool)
        found = [getattr(inputs, one.name) != one.neutral for one in fields]
        return jnp.any(jnp.stack(found), axis=0)

    return active


def _guarded(
    function: Callable[[Array, Inputs, Seen], Array], active: Callable[[Inputs], Array]
) -> Callable[[Array, Inputs, Seen], Array]:
    """The function, with the rows that do not ask for it left as they are."""

    def apply(logits: Array, inputs: Inputs, history: Seen) -> Array:
        import jax.numpy as jnp

        return jnp.where(active(inputs)[:, None], function(logits, inputs, history), logits)

    return apply
