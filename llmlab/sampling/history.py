"""What a row has seen before its next token: from its token ids, and as further tokens join it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from llmlab.errors import RequestError
from llmlab.sampling.params import History
from llmlab.sampling.stage import Order, reads_negative
from llmlab.sampling.states import chosen, no_states, stateful

if TYPE_CHECKING:
    from jax import Array

__all__ = ["grown", "history_of", "in_sequence", "joined", "reads_ids"]

#: The tokens that there is room for beyond those that are there, where no other room is asked for.
_ROOM = 64


def reads_ids(order: Order) -> bool:
    """Whether a stage of an order reads the sequence of tokens."""
    return any(stage.reads_ids for stage in order)


def in_sequence(order: Order) -> bool:
    """Whether what an order does at a token depends on more than which tokens came before it, and how often.

    It may depend on their sequence, on the distributions that they were drawn from, or on another prompt.
    """
    return reads_ids(order) or bool(stateful(order)) or reads_negative(order)


def history_of(
    prompt: np.ndarray,
    made: np.ndarray,
    *,
    vocab_size: int,
    order: Order = (),
    room: int | None = None,
    keeps_ids: bool = False,
    states: Mapping[str, np.ndarray] | None = None,
) -> History:
    """The `History` of one row as host arrays with a leading dimension of 1.

    Args:
        prompt: the prompt's token ids [L].
        made: the token ids generated after it [T]; the penalties count them.
        vocab_size: V, the width of the logits.
        order: the stages that will read it; the sequence of ids is there only if one of them needs it.
        room: the number of ids that there is room for; by default few enough for few programs.
        keeps_ids: whether the sequence is there in any case.
        states: the states of the order's stages after `made`, each with 1 as first axis.

    Raises:
        RequestError: tokens were generated, a stage has a state, and `states` lacks it.
    """
    seen = np.zeros((1, vocab_size), bool)
    seen[0, prompt] = True
    counts = np.bincount(made, minlength=vocab_size).astype(np.int32)[None, :]
    if (stages := stateful(order)) and states is None:
        if len(made):
            raise RequestError(
                f"the state of the stage {stages[0].name} after {len(made)} tokens is not known: it follows from the "
                "logits that they were drawn from"
            )
        states = no_states(order, rows=1)
    position = np.array([len(made)], np.int32)
    history = History(prompt=seen, counts=counts, position=position, states=states if stages else None)
    if not (keeps_ids or reads_ids(order)):
        return history
    given = np.concatenate([prompt, made]).astype(np.int32)
    ids = np.zeros((1, 1 << (len(given) + _ROOM - 1).bit_length() if room is None else room), np.int32)
    ids[0, : len(given)] = given
    return history._replace(ids=ids, length=np.array([len(given)], np.int32))


def joined(history: History, token: Array, drew: Array, states: Mapping[str, Array] | None = None) -> History:
    """The history once the rows that `drew` have drawn their tokens [B]; `states` are those of the stages after them.

    The states of the other rows stay, and all of them where there are none.
    """
    import jax.numpy as jnp

    one = drew.astype(jnp.int32)
    rows = jnp.arange(token.shape[0])
    history = history._replace(
        counts=history.counts.at[rows, token].add(one, unique_indices=True, mode="promise_in_bounds"),
        position=history.position + one,
        states=chosen(drew, states, history.states),
    )
    if history.ids is None or history.length is None:
        return history
    # A row that draws nothing writes beyond its length, where nothing is read; beyond the end nothing is written.
    ids = history.ids.at[rows, history.length].set(token, unique_indices=True, mode="drop")
    return history._replace(ids=ids, length=history.length + one)


def grown(history: History, targets: Array, asked: Array) -> History:
    """The histories [C, ...] before each of C targets, of one row's history: every one that is asked for joins it.

    Args:
        history: what comes before the first target; a leading dimension of 1.
        targets: token ids [C].
        asked: int32 [C], 1 where a target counts and 0 where it is padding.
    """
    import jax
    import jax.numpy as jnp

    count = targets.shape[0]
    drawn = jax.nn.one_hot(targets, history.prompt.shape[-1], dtype=jnp.int32) * asked[:, None]
    before = jnp.cumsum(asked) - asked
    found = History(
        prompt=jnp.broadcast_to(history.prompt, (count, history.prompt.shape[-1])),
        counts=history.counts + jnp.cumsum(drawn, axis=0) - drawn,
        position=history.position + before,
    )
    if history.ids is None or history.length is None:
        return found
    size = history.ids.shape[-1]
    at = jnp.where(asked > 0, history.length + before, size)
    # One sequence serves all targets: each reads as far as its own length.
    ids = jnp.asarray(history.ids)[0].at[at].set(targets, mode="drop")
    return found._replace(ids=jnp.broadcast_to(ids, (count, size)), length=history.length + before)
