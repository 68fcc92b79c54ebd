"""The states of stages: what a stage remembers of a row, from one drawn token to the next.

They lie in `History.states`, next to what else a row has seen, so that whatever moves rows moves their states too. The
state before the first generated token follows from the fields alone; it is computed where it is read, and what is held
until then means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmlab.sampling.stage import Inputs, Order, Seen, Stage, State

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

__all__ = ["advanced", "chosen", "no_states", "state_of", "stateful"]


def stateful(order: Order) -> tuple[Stage, ...]:
    """The stages of an order that have a state."""
    return tuple(stage for stage in order if stage.state is not None)


def no_states(order: Order, *, rows: int) -> dict[str, np.ndarray] | None:
    """What is held for rows before their first token; None where no stage has a state."""
    import numpy as np

    found = {
        stage.name: np.zeros((rows,) if stage.state.size is None else (rows, stage.state.size), np.float32)
        for stage in order
        if stage.state is not None
    }
    return found or None


def state_of(name: str, state: State, inputs: Inputs, history: Seen) -> Array:
    """The state of a stage of this name before each row's next token: [B], or [B, size]."""
    import jax.numpy as jnp

    assert history.states is not None, f"the state of the stage {name} is not known here"
    held = jnp.asarray(history.states[name])
    first = state.initial(inputs).astype(jnp.float32)
    return jnp.where(_rows(jnp.asarray(history.position) == 0, held), first, held)


def advanced(
    order: Order, lefts: Sequence[Array], token: Array, inputs: Inputs, history: Seen
) -> Mapping[str, Array] | None:
    """The states of all stages once a token [B] was drawn; a row that does not ask for a stage keeps what it held.

    Args:
        order: the stages.
        lefts: the raw logits, and the logits after each stage, all [B, V].
        token: what was drawn.
        inputs: the settings of the rows.
        history: what they had seen before the token.
    """
    import jax.numpy as jnp

    if history.states is None:
        return None
    found = dict(history.states)
    for at, stage in enumerate(order):
        if stage.state is None:
            continue
        now = state_of(stage.name, stage.state, inputs, history)
        new = stage.state.advance(now, lefts[at], lefts[at + 1], token, inputs)
        found[stage.name] = jnp.where(_rows(stage.active(inputs), now), new, now)
    return found


def chosen(
    rows: Array, new: Mapping[str, Array] | None, held: Mapping[str, Array] | None
) -> Mapping[str, Array] | None:
    """The new states of some rows [B], and those that are held of the others."""
    import jax.numpy as jnp

    if new is None or held is None:
        return held
    return {name: jnp.where(_rows(rows, of), of, held[name]) for name, of in new.items()}


def _rows(of: Array, like: Array) -> Array:
    """A value per row, with as many axes as what it is to be combined with."""
    return of.reshape(of.shape + (1,) * (like.ndim - of.ndim))
