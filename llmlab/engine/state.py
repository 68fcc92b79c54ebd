"""The state of the batch on the device: W slots, each empty or holding one row that is being generated.

A single row is the same state with W = 1. So one function puts any row into any slot, and a row that was prefilled once
can be put into several slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int32

from llmlab.models.config import ModelConfig
from llmlab.models.families import empty_cache
from llmlab.models.kv.protocol import Cache
from llmlab.sampling.history import history_of
from llmlab.sampling.orders import order_of
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, further, numbers, stack
from llmlab.sampling.stage import reads_negative


class Slots(NamedTuple):
    """Everything that changes while W rows are generated: a pytree whose arrays all have W as their first axis.

    `token` is the one token that the cache does not hold yet: at first the prompt's last token, then the drawn token. A
    step writes its keys and values at `position` and draws the next token.
    """

    cache: Cache
    position: Int32[Array, " W"]
    shared: Int32[Array, " W"]  #: how many of the row's first tokens the cache leaves to a shared prefix, or 0
    token: Int32[Array, " W"]
    active: Bool[Array, " W"]
    budget: Int32[Array, " W"]
    stops: Bool[Array, "W V"]  #: the tokens that end the row
    inputs: SamplerInputs
    history: History
    adapter: Int32[Array, " W"] | None = None  #: from 1, or 0 for the base; None in a decoder without adapters
    #: The cache of the negative prompt and the same generated tokens, as long as the other; None where no stage of the
    #: order reads the logits after it.
    negative: Cache | None = None
    ahead: Int32[Array, " W"] | None = None  #: how many tokens the negative prompt is longer; below 0 if shorter
    #: The pending token after the negative prompt: at first that prompt's last one, then the drawn token too.
    negative_token: Int32[Array, " W"] | None = None

    @property
    def width(self) -> int:
        """W."""
        return self.token.shape[0]

    @property
    def length(self) -> int:
        """S, the number of positions of the cache."""
        return self.cache.length

    @property
    def marks(self) -> tuple[str, ...]:
        """What the name of a program's shape says besides width and length."""
        return () if self.negative is None else ("of two prompts",)


class Guessed(NamedTuple):
    """How tokens came about where the model reads guesses with the pending token (`engine.speculate`).

    [T, W] as a chunk emits them, [T] of one row.
    """

    offered: Int32[Any, "..."]  #: the guesses that were read in the pass that this token is the first one of, or 0
    accepted: Bool[Any, "..."]  #: whether the token was drawn from the logits after a guess, which was right


class RowFields(NamedTuple):
    """What rows have of `Slots` except the cache, as host arrays.

    The first axis counts the rows, or is 1 where all rows have the same.
    """

    position: np.ndarray
    shared: np.ndarray
    token: np.ndarray
    active: np.ndarray
    budget: np.ndarray
    stops: np.ndarray
    inputs: SamplerInputs
    history: History
    adapter: np.ndarray | None = None
    ahead: np.ndarray | None = None
    negative_token: np.ndarray | None = None


def row_fields(
    prompt: np.ndarray,
    params: SamplingParams,
    *,
    budget: int,
    ignore_ends: bool,
    vocab_size: int,
    ends: tuple[int, ...],
    made: np.ndarray | None = None,
    adapter: int | None = None,
    shared: int = 0,
    order: str = "llmlab",
    context: int = 0,
    keeps_ids: bool = False,
    states: Mapping[str, np.ndarray] | None = None,
    negative: np.ndarray | None = None,
) -> RowFields:
    """Returns the fields of a row whose given tokens, except the last and the first `shared`, are in its cache.

    `made` are the token ids after the prompt that count as generated. `adapter` is None where the decoder has none.
    `order` is that of the sampler's stages, and `context` the most tokens of a row, for what reads them; `keeps_ids`
    tells whether something does besides the stages. `states` are those of the stages after `made`, and
    `negative` is the negative prompt, where a stage reads the logits after it, both as in `Row`.
    """
    made = np.zeros(0, np.int32) if made is None else made
    stages = order_of(order)
    stops = np.zeros((1, vocab_size), bool)
    stops[:, [*params.stop_token_ids, *(() if ignore_ends else ends)]] = True
    fields = RowFields(
        position=np.array([len(prompt) + len(made) - 1], np.int32),
        shared=np.array([shared], np.int32),
        token=np.array([made[-1] if len(made) else prompt[-1]], np.int32),
        active=np.array([True]),
        budget=np.array([budget], np.int32),
        stops=stops,
        inputs=stack([params], vocab_size=vocab_size, ends=ends, order=stages),
        history=history_of(
            prompt, made, vocab_size=vocab_size, order=stages, room=context, keeps_ids=keeps_ids, states=states
        ),
        adapter=None if adapter is None else np.array([adapter], np.int32),
    )
    if not reads_negative(stages):
        return fields
    negative = prompt[-1:] if negative is None else negative
    return fields._replace(
        ahead=np.array([len(negative) - len(prompt)], np.int32),
        negative_token=np.array([made[-1] if len(made) else negative[-1]], np.int32),
    )


def fields_of_all(
    fields: RowFields,
    params: Sequence[SamplingParams],
    *,
    budgets: Sequence[int],
    width: int,
    states: Sequence[Mapping[str, np.ndarray] | None] = (),
) -> RowFields:
    """Returns the fields of rows that have those of their first row, `fields`, except numbers of their own.

    Arrays of numbers get the first axis W, whatever the number of rows, so that one program takes any number of them.

    Args:
        fields: of the first row.
        params: of all rows; they name the same tokens (`same_tokens`).
        budgets: of all rows.
        width: W.
        states: of all rows, as in `Row`.
    """
    at = np.minimum(np.arange(width), len(params) - 1)
    own = {name: values[at] for name, values in numbers(params).items()}
    extra = fields.inputs.extra | {
        name: values[at] for name, values in further(params, among=fields.inputs.extra).items()
    }
    inputs = fields.inputs._replace(**own, extra=extra)
    history = fields.history
    if given := [one for one in states if one is not None]:
        history = history._replace(
            states={name: np.concatenate([one[name] for one in given])[at] for name in given[0]}
        )  # fmt: skip
    elif history.states is not None:
        history = history._replace(states={name: np.repeat(x, width, axis=0) for name, x in history.states.items()})
    return fields._replace(budget=np.array(budgets, np.int32)[at], inputs=inputs, history=history)


def empty(
    config: ModelConfig,
    *,
    width: int,
    length: int,
    dtype: DTypeLike,
    adapted: bool = False,
    order: str = "llmlab",
    context: int = 1,
    keeps_ids: bool = False,
) -> Slots:
    """Returns W inactive slots, which ask for no stage of the sampler: their settings have the neutral values.

    `adapted` tells whether the decoder has adapters, `order` which stages the rows to come may ask for, and `context`
    the most tokens of a row; `keeps_ids` is as in `row_fields`.
    """
    like = row_fields(
        np.zeros(1, np.int32),
        SamplingParams(),
        budget=0,
        ignore_ends=False,
        vocab_size=config.vocab_size,
        ends=(),
        adapter=0 if adapted else None,
        order=order,
        keeps_ids=keeps_ids,
        context=context,
    )
    fields = jax.tree.map(lambda x: jnp.zeros((width, *x.shape[1:]), x.dtype), like)
    fields = fields._replace(inputs=jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape[1:])), like.inputs))
    cache, negative = (empty_cache(config, batch=width, length=length, dtype=dtype) for _ in range(2))
    return Slots(cache=cache, negative=None if fields.ahead is None else negative, **fields._asdict())


def admit(
    slots: Slots,
    cache: Cache,
    fields: RowFields,
    at: Int32[Array, " W"],
    count: Int32[Array, ""],
    negative: Cache | None = None,
) -> Slots:
    """Puts rows of one prompt into slots: row i of `count` rows into slot `at[i]`.

    The cache has one row, of the slots' length S, as has that of the negative prompt, where the slots have one; the
    first axis of the fields is 1 or W, as in `fields_of_all`.
    """
    # Hides the keys that the padding of the prompt's last piece wrote.
    cache = cache.truncated(jnp.asarray(fields.position - fields.shared))
    if negative is not None:
        negative = negative.truncated(jnp.asarray(fields.position + fields.ahead))
    rows = Slots(cache=cache, negative=negative, **fields._asdict())

    def put(held: Array, new: Array, i: Int32[Array, ""]) -> Array:
        one = new if new.shape[0] == 1 else jax.lax.dynamic_slice_in_dim(new, i, 1, axis=0)
        return jax.lax.dynamic_update_slice_in_dim(held, jnp.asarray(one, held.dtype), at[i], axis=0)

    # One row after the other: no more is written than there is, and any number of rows is one program.
    return jax.lax.fori_loop(0, count, lambda i, held: jax.tree.map(partial(put, i=i), held, rows), slots)


def states_at(history: History, slot: int) -> dict[str, np.ndarray] | None:
    """The states of the stages of the row in a slot, as host arrays with 1 as first axis."""
    if history.states is None:
        return None
    return {name: np.asarray(jax.device_get(x))[slot : slot + 1] for name, x in history.states.items()}


def place(cache: Cache, piece: Cache, start: Int32[Array, ""]) -> Cache:
    """Returns the cache with a piece's entries from `start` on."""
    return cache.placed(piece, start)


def copied(cache: Cache) -> Cache:
    """Returns a copy of the cache."""
    return jax.tree.map(jnp.copy, cache)


def resize(slots: Slots, index: Int32[Array, " W2"], keep: Bool[Array, " W2"]) -> Slots:
    """Returns a batch of another width: slot i holds what slot `index[i]` held; inactive where `keep` is false."""
    moved = jax.tree.map(lambda x: x[index], slots)
    return moved._replace(active=moved.active & keep)


def lengthen(cache: Cache, *, length: int) -> Cache:
    """Returns the cache with room for `length` positions and the same contents."""
    return cache.lengthened(length)


def release(active: Bool[Array, " W"], keep: Bool[Array, " W"]) -> Bool[Array, " W"]:
    """Deactivates the slots where `keep` is false, which frees them."""
    return active & keep


def unshare(position: Int32[Array, " W"], shared: Int32[Array, " W"]) -> tuple[Int32[Array, " W"], Int32[Array, " W"]]:
    """The positions, and nothing shared, once no active row uses the prefix.

    A step writes at the position of every slot, and that of a row which shared a prefix may lie beyond the cache.
    """
    return jnp.where(shared > 0, 0, position), jnp.zeros_like(shared)


def advance(
    token: Int32[Array, " W"], position: Int32[Array, " W"], drawn: Int32[Array, ""]
) -> tuple[Int32[Array, " W"], Int32[Array, " W"]]:
    """The pending tokens and their positions, once the row in slot 0 has drawn a token."""
    return token.at[0].set(drawn), position.at[0].add(1)
