"""The dense cache: every key and value of every position, one pair of arrays per layer.

Keys are stored as [W, K, H, S] and values as [W, K, S, H]: each is the right-hand side of its product as it stands. On
XLA's CPU backend, keys in the layout of the values are packed again at every step, which costs more than the product
(1.3 to 2 times the whole attention at batch 64), and [W, S, K, H] is several times slower still. Layers are separate
arrays because a stacked array would be copied slice by slice.

The plain product reads the whole bucket, which is up to twice as long as what is filled. Reading less of it does not
pay on a CPU, because a slice of the cache is copied before its product. With 55 % filled, a loop over blocks took 0.8
to 1.3 times as long as the whole with one row and 1.8 to 4.5 times with 8 and 32, and a product with the first three
quarters 1.3 to 2.4 times with 8 and 32 (heads of 48 and 64; with all filled, the loop took up to twice as long with one
row).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32

from llmlab.models.config import ModelConfig
from llmlab.models.kv import filled as masks
from llmlab.models.kv.attend import Scores, Sight
from llmlab.models.kv.protocol import Entries
from llmlab.models.kv.reading import attend_over
from llmlab.models.parameter import KEY_HEADS, ROWS


class DenseCache(NamedTuple):
    """Tuples over layers: keys [W, K, H, S] and values [W, K, S, H]; and what is filled, as in `kv.filled`."""

    keys: tuple[Float[Array, "W K H S"], ...]
    values: tuple[Float[Array, "W K S H"], ...]
    filled: Float32[Array, "W S"]

    @property
    def length(self) -> int:
        """S, the positions that each row has room for."""
        return self.filled.shape[1]

    @property
    def kernel(self) -> bool:
        """Whether a kernel reads it (`kv.kernel`)."""
        return False

    def begin(self, positions: Int32[Array, "W L"]) -> DensePass:
        """Makes the mask for L new tokens per row at these positions, which are consecutive in each row."""
        return DensePass(self, positions)

    def of_layer(self, layer: int) -> Entries:
        """One layer's keys and values."""
        return Entries(self.keys[layer], self.values[layer], "hs", self.kernel)

    def entries_of(self, *entry: Float[Array, "W L K H"]) -> Entries:
        """The keys and values of new tokens by themselves."""
        k, v = (x.astype(self.keys[0].dtype) for x in entry)
        return Entries(jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2), "hs", self.kernel)

    def truncated(self, counts: Int32[Array, " W"]) -> DenseCache:
        """The cache with only the first `counts` positions of each row filled."""
        return self._replace(filled=masks.first_filled(self.filled, counts))

    def lengthened(self, length: int) -> DenseCache:
        """The cache with room for more positions."""
        more = (0, length - self.length)
        return self._replace(
            keys=tuple(jnp.pad(x, ((0, 0), (0, 0), (0, 0), more)) for x in self.keys),
            values=tuple(jnp.pad(x, ((0, 0), (0, 0), more, (0, 0))) for x in self.values),
            filled=masks.lengthened(self.filled, length),
        )

    def taken(self, start: Int32[Array, ""], size: int) -> DenseCache:
        """A copy of `size` positions from `start` on, as a cache of that length."""
        return self._replace(
            keys=tuple(jax.lax.dynamic_slice_in_dim(x, start, size, axis=3) for x in self.keys),
            values=tuple(jax.lax.dynamic_slice_in_dim(x, start, size, axis=2) for x in self.values),
            filled=jax.lax.dynamic_slice_in_dim(self.filled, start, size, axis=1),
        )

    def placed(self, piece: DenseCache, start: Int32[Array, ""]) -> DenseCache:
        """The cache with the positions of `piece`, which was `taken` from another, from `start` on."""
        write = jax.lax.dynamic_update_slice_in_dim
        return self._replace(
            keys=tuple(write(x, new, start, axis=3) for x, new in zip(self.keys, piece.keys, strict=True)),
            values=tuple(write(x, new, start, axis=2) for x, new in zip(self.values, piece.values, strict=True)),
            filled=write(self.filled, piece.filled, start, axis=1),
        )

    def axes(self) -> DenseCache:
        """How a mesh divides each array: all by rows, keys and values by key heads too."""
        by_heads: tuple = tuple(PartitionSpec(ROWS, KEY_HEADS) for _ in self.keys)
        return self._replace(keys=by_heads, values=by_heads, filled=PartitionSpec(ROWS))  # type: ignore[arg-type]


class KernelCache(DenseCache):
    """A dense cache that a kernel reads (`kv.kernel`)."""

    @property
    def kernel(self) -> bool:
        """Whether a kernel reads it."""
        return True


class DensePass:
    """One forward pass over a dense cache."""

    def __init__(self, cache: DenseCache, positions: Int32[Array, "W L"]):
        self._cache, self._keys, self._values = cache, list(cache.keys), list(cache.values)
        self._start = positions[:, 0]
        self._filled, self._sight = masks.sight(cache.filled, positions)

    def attend(
        self, layer: int, q: Float[Array, "W L N H"], *entry: Float[Array, "W L K H"], scores: Scores
    ) -> Float[Array, "W L N H"]:
        """Writes the layer's new keys and values, which are the entry, and attends over all that is filled."""
        return attend_over(q, *self.write(layer, *entry), scores)

    def write(self, layer: int, *entry: Float[Array, "W L K H"]) -> tuple[Entries, Sight]:
        """Writes the layer's new keys and values; returns all of them, and what each token sees."""
        k, v = entry
        keys = self._keys[layer] = write_keys(self._keys[layer], k, self._start)
        values = self._values[layer] = write_values(self._values[layer], v, self._start)
        return Entries(keys, values, "hs", self._cache.kernel), self._sight

    def cache_after(self) -> DenseCache:
        """The cache with the new entries of all layers."""
        return self._cache._replace(keys=tuple(self._keys), values=tuple(self._values), filled=self._filled)


def empty_dense_cache(config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike) -> DenseCache:
    """A cache for `batch` rows of `length` positions, none of them filled."""
    heads, dim = config.held_kv_heads, config.head_dim
    layers = range(config.num_layers)
    kind = KernelCache if config.attention_kernel else DenseCache
    return kind(
        keys=tuple(jnp.zeros((batch, heads, dim, length), dtype) for _ in layers),
        values=tuple(jnp.zeros((batch, heads, length, dim), dtype) for _ in layers),
        filled=masks.none_filled(batch, length),
    )


def write_keys(cache: Float[Array, "B K H S"], new: Float[Array, "B L K H"], start: Int32[Array, " B"]) -> Array:
    """Writes L new keys at each row's own `start`. The caller ensures start + L <= S; XLA would clamp the start."""
    new = jnp.transpose(new, (0, 2, 3, 1)).astype(cache.dtype)
    if cache.shape[0] == 1:  # one row is one slice, which needs no scatter
        zero = jnp.zeros((), start.dtype)
        return jax.lax.dynamic_update_slice(cache, new, (zero, zero, zero, start[0]))
    rows = jnp.arange(cache.shape[0])
    if new.shape[3] == 1:
        return cache.at[rows, :, :, start].set(new[:, :, :, 0], unique_indices=True, mode="promise_in_bounds")
    at = start[:, None] + jnp.arange(new.shape[3], dtype=start.dtype)[None, :]
    return cache.at[rows[:, None], :, :, at].set(jnp.transpose(new, (0, 3, 1, 2)), unique_indices=True)


def write_values(cache: Float[Array, "B K S H"], new: Float[Array, "B L K H"], start: Int32[Array, " B"]) -> Array:
    """Writes L new values at each row's own `start`, as `write_keys` does."""
    new = jnp.swapaxes(new, 1, 2).astype(cache.dtype)
    if cache.shape[0] == 1:
        zero = jnp.zeros((), start.dtype)
        return jax.lax.dynamic_update_slice(cache, new, (zero, zero, start[0], zero))
    rows = jnp.arange(cache.shape[0])
    if new.shape[2] == 1:
        return cache.at[rows, :, start].set(new[:, :, 0], unique_indices=True, mode="promise_in_bounds")
    at = start[:, None] + jnp.arange(new.shape[2], dtype=start.dtype)[None, :]
    return cache.at[rows[:, None], :, at].set(jnp.swapaxes(new, 1, 2), unique_indices=True)
