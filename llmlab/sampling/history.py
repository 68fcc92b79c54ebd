"""What a row has seen before its next token: from its token ids, and as further tokens join it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmlab.sampling.params import History
from llmlab.sampling.stage import Order

if TYPE_CHECKING:
    from jax import Array

__all__ = ["grown", "history_of", "joined", "reads_ids"]

#: The tokens that there is room for beyond those that are there, where no other room is asked for.
_ROOM = 64


def reads_ids(order: Order) -> bool:
    """Whether a stage of an order reads the sequence of tokens."""
    return any(stage.reads_ids for stage in order)


def history_of(
    prompt: np.ndarray,
    made: np.ndarray,
    *,
    vocab_size: int,
    order: Order = (),
    room: int | None = None,
    keeps_ids: bool = False,
) -> History:
    """The `History` of one row as host arrays with a leading dimension of 1.

    Args:
        prompt: the prompt's token ids [L].
        made: the token ids generated after it [T]; the penalties count them.
        vocab_size: V, the width of the logits.
        order: the stages that will read it; the sequence of ids is there only if one of them needs it.
        room: the number of ids that there is room for; by default few enough for few programs.
        keeps_ids: whether the sequence is there in any case.
    """
    seen = np.zeros((1, vocab_size), bool)
    seen[0, prompt] = True
    counts = np.bincount(made, minlength=vocab_size).astype(np.int32)[None, :]
    history = History(prompt=seen, counts=counts, position=np.array([len(made)], np.int32))
    if not (keeps_ids or reads_ids(order)):
        return history
    given = np.concatenate([prompt, made]).astype(np.int32)
    ids = np.zeros((1, 1 << (len(given) + _ROOM - 1).bit_length() if room is None else room), np.int32)
    ids[0, : len(given)] = given
    return history._replace(ids=ids, length=np.array([len(given)], np.int32))


def joined(history: History, token: Array, drew: Array) -> History:
    """The history once the rows that `drew` have drawn their tokens [B]."""
    import jax.numpy as jnp

    one = drew.astype(jnp.int32)
    rows = jnp.arange(token.shape[0])
    history = history._replace(
        counts=history.counts.at[rows, token].add(one, unique_indices=True, mode="promise_in_bounds"),
        position=history.position + one,
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
