"""The key-value cache: plain arrays, one pair a layer.

Keys lie as [B, K, H, S] and values as [B, K, S, H]: each is the right-hand side of its product as it stands. On XLA's
CPU backend keys in the values' layout are packed anew at every step, which costs more than the product (1.3 to 2 times
the whole of attention at batch 64), and [B, S, K, H] is several times slower still. Layers are separate arrays because
a stacked one would be copied slice by slice.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from llmlab.models.config import ModelConfig


class KVCache(NamedTuple):
    """Tuples over layers: keys [B, K, H, S], values [B, K, S, H]."""

    keys: tuple[Float[Array, "B K H S"], ...]
    values: tuple[Float[Array, "B K S H"], ...]

    @property
    def length(self) -> int:
        """S: how many positions there is room for."""
        return self.values[0].shape[2]


def empty_cache(config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike) -> KVCache:
    """Zeros for `batch` rows of `length` positions."""
    heads, dim = config.num_kv_heads, config.head_dim
    layers = range(config.num_layers)
    return KVCache(
        keys=tuple(jnp.zeros((batch, heads, dim, length), dtype) for _ in layers),
        values=tuple(jnp.zeros((batch, heads, length, dim), dtype) for _ in layers),
    )


def lengthen(cache: KVCache, *, length: int) -> KVCache:
    """Room for more positions; what is there stays."""
    more = (0, length - cache.length)
    return KVCache(
        keys=tuple(jnp.pad(x, ((0, 0), (0, 0), (0, 0), more)) for x in cache.keys),
        values=tuple(jnp.pad(x, ((0, 0), (0, 0), more, (0, 0))) for x in cache.values),
    )


def cache_bytes(config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike) -> int:
    """What such a cache takes on the device."""
    cells = batch * config.num_kv_heads * length * config.head_dim
    return 2 * config.num_layers * cells * jnp.dtype(dtype).itemsize


def write_keys(cache: Float[Array, "B K H S"], new: Float[Array, "B L K H"], start: Int32[Array, " B"]) -> Array:
    """Put L new keys at each row's own `start`. The caller sees to start + L <= S: XLA would clamp the start."""
    new = jnp.transpose(new, (0, 2, 3, 1)).astype(cache.dtype)
    if cache.shape[0] == 1:  # one row is one slice: no scatter
        zero = jnp.zeros((), start.dtype)
        return jax.lax.dynamic_update_slice(cache, new, (zero, zero, zero, start[0]))
    rows = jnp.arange(cache.shape[0])
    if new.shape[3] == 1:
        return cache.at[rows, :, :, start].set(new[:, :, :, 0], unique_indices=True, mode="promise_in_bounds")
    at = start[:, None] + jnp.arange(new.shape[3], dtype=start.dtype)[None, :]
    return cache.at[rows[:, None], :, :, at].set(jnp.transpose(new, (0, 3, 1, 2)), unique_indices=True)


def write_values(cache: Float[Array, "B K S H"], new: Float[Array, "B L K H"], start: Int32[Array, " B"]) -> Array:
    """Put L new values at each row's own `start`, as `write_keys` does."""
    new = jnp.swapaxes(new, 1, 2).astype(cache.dtype)
    if cache.shape[0] == 1:
        zero = jnp.zeros((), start.dtype)
        return jax.lax.dynamic_update_slice(cache, new, (zero, zero, start[0], zero))
    rows = jnp.arange(cache.shape[0])
    if new.shape[2] == 1:
        return cache.at[rows, :, start].set(new[:, :, 0], unique_indices=True, mode="promise_in_bounds")
    at = start[:, None] + jnp.arange(new.shape[2], dtype=start.dtype)[None, :]
    return cache.at[rows[:, None], :, at].set(jnp.swapaxes(new, 1, 2), unique_indices=True)
