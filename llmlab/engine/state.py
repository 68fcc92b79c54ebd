"""The batch on the device: W slots, each empty or holding one row that is being generated.

A single row is the same state with W = 1, so that joining is one function for every array in it, and a row that was
prefilled once can be put into any number of slots.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int32

from llmlab.models.config import ModelConfig
from llmlab.models.families import empty_cache
from llmlab.models.kv.protocol import Cache
from llmlab.sampling.history import history_of
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack


class Slots(NamedTuple):
    """Everything that changes while W rows are generated; a pytree whose arrays all lead with W.

    `token` is the last token that the cache does not hold yet: the prompt's last one at first, then what was drawn.
    A step writes it at `position` and draws the next.
    """

    cache: Cache
    position: Int32[Array, " W"]
    token: Int32[Array, " W"]
    active: Bool[Array, " W"]
    budget: Int32[Array, " W"]
    ignore_ends: Bool[Array, " W"]
    inputs: SamplerInputs
    history: History

    @property
    def width(self) -> int:
        """W."""
        return self.token.shape[0]

    @property
    def length(self) -> int:
        """S, the positions that each row has room for."""
        return self.cache.length


class RowFields(NamedTuple):
    """What a row brings besides its prefilled cache, as host arrays that lead with 1."""

    position: np.ndarray
    token: np.ndarray
    active: np.ndarray
    budget: np.ndarray
    ignore_ends: np.ndarray
    inputs: SamplerInputs
    history: History


def row_fields(
    prompt: np.ndarray,
    params: SamplingParams,
    *,
    budget: int,
    ignore_ends: bool,
    vocab_size: int,
    ends: tuple[int, ...],
    made: np.ndarray | None = None,
) -> RowFields:
    """A row about to draw: the last token that is there is pending, the rest is in the cache.

    `made` are the tokens after the prompt that count as generated.
    """
    made = np.zeros(0, np.int32) if made is None else made
    return RowFields(
        position=np.array([len(prompt) + len(made) - 1], np.int32),
        token=np.array([made[-1] if len(made) else prompt[-1]], np.int32),
        active=np.array([True]),
        budget=np.array([budget], np.int32),
        ignore_ends=np.array([ignore_ends]),
        inputs=stack([params], vocab_size=vocab_size, ends=ends),
        history=history_of(prompt, made, vocab_size=vocab_size),
    )


def empty(config: ModelConfig, *, width: int, length: int, dtype: DTypeLike) -> Slots:
    """W inactive slots."""
    like = row_fields(
        np.zeros(1, np.int32),
        SamplingParams(),
        budget=0,
        ignore_ends=False,
        vocab_size=config.vocab_size,
        ends=(),
    )
    fields = jax.tree.map(lambda x: jnp.zeros((width, *x.shape[1:]), x.dtype), like)
    cache = empty_cache(config, batch=width, length=length, dtype=dtype)
    return Slots(cache=cache, **fields._asdict())


def admit(slots: Slots, cache: Cache, fields: RowFields, slot: Int32[Array, ""]) -> Slots:
    """Put one prefilled row, [1, ...] in every array and S long like the slots, into a slot."""
    # What the padding of the prompt's last piece wrote is hidden here.
    row = Slots(cache=cache.truncated(jnp.asarray(fields.position)), **fields._asdict())

    def put(all_rows: Array, one: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(all_rows, jnp.asarray(one, all_rows.dtype), slot, axis=0)

    return jax.tree.map(put, slots, row)


def resize(slots: Slots, index: Int32[Array, " W2"], keep: Bool[Array, " W2"]) -> Slots:
    """A batch of another width: slot i takes over what `index[i]` held; where `keep` is false it is inactive."""
    moved = jax.tree.map(lambda x: x[index], slots)
    return moved._replace(active=moved.active & keep)


def lengthen(cache: Cache, *, length: int) -> Cache:
    """Room for more positions; what is there stays."""
    return cache.lengthened(length)


def release(active: Bool[Array, " W"], keep: Bool[Array, " W"]) -> Bool[Array, " W"]:
    """Rows that were cancelled stop drawing; their slots are free."""
    return active & keep
