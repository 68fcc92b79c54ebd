"""The cache of latent attention: of each token one entry that all heads share, and no keys or values of the heads.

An entry is the latent vector after its norm, followed by the rotated key: 512 + 64 numbers for DeepSeek-V3, where
keys and values of its 128 heads would be 40,960. The latent vector is the value too, so that it is kept once.
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
from llmlab.models.kv.dense import write_values
from llmlab.models.kv.protocol import Entries
from llmlab.models.kv.reading import attend_over
from llmlab.models.parameter import ROWS


class LatentCache(NamedTuple):
    """A tuple over layers of entries [W, 1, S, C], and which positions are filled, as in `kv.filled`."""

    entries: tuple[Float[Array, "W 1 S C"], ...]
    filled: Float32[Array, "W S"]

    @property
    def length(self) -> int:
        """S, the positions that each row has room for."""
        return self.filled.shape[1]

    def begin(self, positions: Int32[Array, "W L"]) -> LatentPass:
        """Makes the mask for L new tokens per row at these positions, which are consecutive in each row."""
        return LatentPass(self, positions)

    def of_layer(self, layer: int) -> Entries:
        """One layer's entries, which are keys and values."""
        return Entries(self.entries[layer], self.entries[layer], "sh")

    def entries_of(self, *entry: Float[Array, "W L 1 _"]) -> Entries:
        """The entries of new tokens by themselves."""
        new = jnp.swapaxes(entry[0], 1, 2).astype(self.entries[0].dtype)
        return Entries(new, new, "sh")

    def truncated(self, counts: Int32[Array, " W"]) -> LatentCache:
        """The cache with only the first `counts` positions of each row filled."""
        return self._replace(filled=masks.first_filled(self.filled, counts))

    def lengthened(self, length: int) -> LatentCache:
        """The cache with room for more positions."""
        more = (0, length - self.length)
        entries = tuple(jnp.pad(x, ((0, 0), (0, 0), more, (0, 0))) for x in self.entries)
        return LatentCache(entries, masks.lengthened(self.filled, length))

    def taken(self, start: Int32[Array, ""], size: int) -> LatentCache:
        """A copy of `size` positions from `start` on, as a cache of that length."""
        entries = tuple(jax.lax.dynamic_slice_in_dim(x, start, size, axis=2) for x in self.entries)
        return LatentCache(entries, jax.lax.dynamic_slice_in_dim(self.filled, start, size, axis=1))

    def placed(self, piece: LatentCache, start: Int32[Array, ""]) -> LatentCache:
        """The cache with the positions of `piece`, which was `taken` from another, from `start` on."""
        write = jax.lax.dynamic_update_slice_in_dim
        entries = tuple(write(x, new, start, axis=2) for x, new in zip(self.entries, piece.entries, strict=True))
        return LatentCache(entries, write(self.filled, piece.filled, start, axis=1))

    def axes(self) -> LatentCache:
        """How a mesh divides each array: by rows. A device with some of a row's heads needs all of its entries."""
        by_rows: tuple = tuple(PartitionSpec(ROWS) for _ in self.entries)
        return LatentCache(entries=by_rows, filled=PartitionSpec(ROWS))  # type: ignore[arg-type]


class LatentPass:
    """One forward pass over the cache of latent attention."""

    def __init__(self, cache: LatentCache, positions: Int32[Array, "W L"]):
        self._entries = list(cache.entries)
        self._start = positions[:, 0]
        self._filled, self._sight = masks.sight(cache.filled, positions)

    def attend(
        self, layer: int, q: Float[Array, "W L N C"], *entry: Float[Array, "W L 1 _"], scores: Scores
    ) -> Float[Array, "W L N R"]:
        """Writes the layer's new entries and attends over all that is filled.

        Args:
            layer: counted from 0.
            q: the queries, in the space of the entries.
            entry: the new entries, and the values, which are their first R numbers.
            scores: how the layer weighs what it sees.
        """
        # The whole entries are weighed and the end cut off the sum: to cut the values out of the entries would copy
        # most of the cache.
        return attend_over(q, *self.write(layer, *entry), scores)[..., : entry[-1].shape[-1]]

    def write(self, layer: int, *entry: Float[Array, "W L 1 _"]) -> tuple[Entries, Sight]:
        """Writes the layer's new entries; returns all of them, and what each token sees."""
        held = self._entries[layer] = write_values(self._entries[layer], entry[0], self._start)
        return Entries(held, held, "sh"), self._sight

    def cache_after(self) -> LatentCache:
        """The cache with the new entries of all layers."""
        return LatentCache(tuple(self._entries), self._filled)


def empty_latent_cache(config: ModelConfig, *, batch: int, length: int, dtype: DTypeLike) -> LatentCache:
    """A cache for `batch` rows of `length` positions, none of them filled.

    Raises:
        ValueError: the decoder has no latent attention.
    """
    if config.latent is None:
        raise ValueError(f"a decoder of the family {config.family} has no latent attention")
    size = config.latent.rank + config.latent.rotated
    return LatentCache(
        entries=tuple(jnp.zeros((batch, 1, length, size), dtype) for _ in range(config.num_layers)),
        filled=masks.none_filled(batch, length),
    )
