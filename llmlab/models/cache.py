"""The key-value cache: plain arrays, one pair a layer.

Keys and values lie as [B, K, S, H]: on XLA's CPU backend the products of attention read this layout several times
faster than [B, S, K, H]. Layers are separate arrays because a stacked one would be copied slice by slice.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from llmlab.models.config import ModelConfig


class KVCache(NamedTuple):
    """A tuple over layers of [B, K, S, H] arrays each."""

    keys: tuple[Float[Array, "B K S H"], ...]
    values: tuple[Float[Array, "B K S H"], ...]

    @property
    def length(self) -> int:
        """S: how many positions there is room for."""
        return self.keys[0].shape[2]


def empty_cache(config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike) -> KVCache:
    """Zeros for `batch` rows of `length` positions."""
    shape = (batch, config.num_kv_heads, length, config.head_dim)
    layers = range(config.num_layers)
    return KVCache(tuple(jnp.zeros(shape, dtype) for _ in layers), tuple(jnp.zeros(shape, dtype) for _ in layers))


def cache_bytes(config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike) -> int:
    """What such a cache takes on the device."""
    cells = batch * config.num_kv_heads * length * config.head_dim
    return 2 * config.num_layers * cells * jnp.dtype(dtype).itemsize


def write(cache: Float[Array, "B K S H"], new: Float[Array, "B L K H"], start: Int32[Array, " B"]) -> Array:
    """Put L new entries at each row's own `start`. The caller sees to start + L <= S: XLA would clamp the start."""
    new = jnp.swapaxes(new, 1, 2).astype(cache.dtype)
    if cache.shape[0] == 1:  # one row is one slice: no scatter
        zero = jnp.zeros((), start.dtype)
        return jax.lax.dynamic_update_slice(cache, new, (zero, zero, start[0], zero))
    rows = jnp.arange(cache.shape[0])
    if new.shape[2] == 1:
        return cache.at[rows, :, start].set(new[:, :, 0], unique_indices=True, mode="promise_in_bounds")
    at = start[:, None] + jnp.arange(new.shape[2], dtype=start.dtype)[None, :]
    return cache.at[rows[:, None], :, at].set(jnp.swapaxes(new, 1, 2), unique_indices=True)
