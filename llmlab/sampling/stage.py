"""What a stage of the sampler is: the request fields that it owns, and what it does to logits."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from llmlab.sampling.fields import Field

if TYPE_CHECKING:
    from jax import Array

#: The fields of B rows by name, an array [B] each: a `llmlab.sampling.params.SamplerInputs`, whose attributes are made
#: from the stages' fields.
Inputs: TypeAlias = Any
#: What the rows have seen so far: a `llmlab.sampling.params.History`.
Seen: TypeAlias = Any
#: "logits" moves the logits of single tokens, "mask" forbids tokens whatever their logits, "temperature" scales all
#: logits, "truncation" removes tokens by their place in the distribution.
StageKind: TypeAlias = Literal["logits", "mask", "temperature", "truncation"]


#: In `Stage.after`, what the beginning and the end of an order are called.
FIRST, LAST = "(first)", "(last)"


class State(NamedTuple):
    """What a stage remembers of each row besides its tokens: float32 numbers that every drawn token changes.

    Both functions are pure, written in JAX, and treat each row alone. The state after a sequence of tokens depends on
    these tokens and on the logits that they were drawn from, so that it can be computed again from them.
    """

    initial: Callable[[Inputs], Array]  #: from the fields to the state before the first token: [B], or [B, size]
    #: (state, before, after, token, inputs) -> state: `before` and `after` are the logits [B, V] that the stage was
    #: given and that it returned, `token` [B] is what was drawn in the end. A token that was given, not drawn, may have
    #: the logit -inf.
    advance: Callable[[Array, Array, Array, Array, Inputs], Array]
    size: int | None = None  #: how many numbers a row has; None for one, without an axis of its own


class Stage(NamedTuple):
    """One step of the sampler, as a value. An order is a tuple of stages.

    A row in which `active` is false comes out of `apply` bit for bit as it went in, whatever the other rows ask for. A
    removed token has the logit -inf, and no stage brings it back. `apply` imports JAX inside itself, because a
    request, which is made of the stages' fields, must not need it.

    A "temperature" or a "truncation" looks at the logits and its own fields alone, neither at ids nor at what was
    generated: where `most` has left a few tokens, the sampler runs the stages after it on those alone.

    `llmlab.sampling.define_stage` makes one from a function and checks it.
    """

    name: str
    kind: StageKind
    fields: tuple[Field, ...]
    active: Callable[[Inputs], Array]  #: [B] bool: the rows that ask for it
    apply: Callable[[Array, Inputs, Seen], Array]  #: [B, V] -> [B, V]
    #: [B] int: the most tokens that it leaves, all from the front of the ranking (logit falling, id rising); 0 for no
    #: such limit. None for a stage that never has one.
    most: Callable[[Inputs], Array] | None = None
    #: Whether of the front of a ranking it leaves what it leaves of it in the whole row; not where it adds up a mass.
    by_front: bool = False
    #: The stage that it follows where a request asks for it in an order that lacks it, by the name of that order; ""
    #: stands for all other orders, the stage `FIRST` for the beginning, and `LAST` for the end. Without an entry a
    #: truncation comes last, a temperature directly before the temperature, and any other stage before the first of
    #: these.
    after: tuple[tuple[str, str], ...] = ()
    #: Whether it reads `history.ids`, the sequence of tokens, which is kept only where an order has such a stage.
    reads_ids: bool = False
    #: What it remembers of a row; `llmlab.sampling.states.state_of` reads it. None for a stage that remembers nothing.
    state: State | None = None
    #: Whether it reads `inputs.negative`, the model's logits [B, V] after the request's negative prompt and the same
    #: generated tokens; the engine computes them only where an order has such a stage.
    reads_negative: bool = False


Order: TypeAlias = tuple[Stage, ...]


def reads_negative(order: Order) -> bool:
    """Whether a stage of an order reads the logits after a negative prompt."""
    return any(stage.reads_negative for stage in order)


def late(function: str, *fields: str, **named: str) -> Callable[[Array, Inputs, Seen], Array]:
    """A stage's `apply` that needs the logits and some fields alone: a function of this room, imported late.

    Args:
        function: its file and its name, such as "truncation.apply_top_k".
        fields: the fields that it takes as keyword arguments of the same names.
        named: its other keyword arguments, each with the field that it takes.
    """
    file, name = function.split(".")
    taken = {field: field for field in fields} | named

    def apply(logits: Array, inputs: Inputs, history: Seen) -> Array:
        computed = getattr(import_module(f"llmlab.sampling.{file}"), name)
        found: Array = computed(logits, **{argument: getattr(inputs, field) for argument, field in taken.items()})
        return found

    return apply
