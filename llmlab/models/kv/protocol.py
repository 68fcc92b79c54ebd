"""What a decoder and the engine ask of a cache.

A decoder calls `cache.begin(positions)` once per forward pass, `attend` of the pass once per layer, and takes
`cache_after` at the end. How entries are stored, what may be seen and which kernel computes the attention are the
cache's own affair.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int32

from llmlab.models.kv.attend import Scores, Sight


class Entries(NamedTuple):
    """One layer of a cache as attention takes it: keys [W, K, H, S] with the layout "hs", or [W, K, S, H] with "sh".

    `kernel` says that a kernel of the device's own reads it (`kv.kernel`), and not the plain product.
    """

    keys: Float[Array, "W K _ _"]
    values: Float[Array, "W K S V"]
    layout: str
    kernel: bool = False


@runtime_checkable
class Pass(Protocol):
    """One forward pass over a cache. It lives within one trace and is used for each layer once, in order."""

    def attend(self, layer: int, q: Float[Array, "B L N H"], *entry: Array, scores: Scores) -> Float[Array, "B L N V"]:
        """Writes the layer's new entries and returns what the queries get from all that they may see.

        Args:
            layer: counted from 0.
            q: the queries of L tokens per row.
            entry: what the cache keeps of each token; keys and values [B, L, K, H] for a dense cache.
            scores: how the layer weighs what it sees.
        """
        ...

    def cache_after(self) -> Any:
        """The cache with the new entries of all layers."""
        ...


@runtime_checkable
class Attendable(Protocol):
    """What a decoder can run over: a cache, or the given tokens alone."""

    def begin(self, positions: Int32[Array, "B L"]) -> Pass:
        """Makes the mask for L new tokens per row at these positions, which are consecutive in each row."""
        ...


@runtime_checkable
class Cache(Attendable, Protocol):
    """What the engine keeps for W rows: a pytree whose arrays all lead with W, donated and written in place.

    It knows which positions of a row are filled; a token sees those and itself.
    """

    @property
    def length(self) -> int:
        """S, the positions that each row has room for."""
        ...

    def of_layer(self, layer: int) -> Entries:
        """One layer's entries."""
        ...

    def entries_of(self, *entry: Array) -> Entries:
        """The entries of new tokens by themselves, as this cache would hold them; `entry` as in `Pass.attend`."""
        ...

    def truncated(self, counts: Int32[Array, " W"]) -> Cache:
        """The cache with only the first `counts` positions of each row filled; later ones are hidden."""
        ...

    def lengthened(self, length: int) -> Cache:
        """The cache with room for more positions; what is filled stays."""
        ...

    def taken(self, start: Int32[Array, ""], size: int) -> Cache:
        """A copy of `size` positions from `start` on, as a cache of that length."""
        ...

    def placed(self, piece: Any, start: Int32[Array, ""]) -> Cache:
        """The cache with the positions of `piece`, which was `taken` from one of its kind, from `start` on."""
        ...

    def axes(self) -> Any:
        """In place of each array, a PartitionSpec of the names in `models.parameter`: how a mesh divides it."""
        ...


@runtime_checkable
class PartPass(Pass, Protocol):
    """A pass that also leaves the attention to its caller, who joins it with that over other positions."""

    def write(self, layer: int, *entry: Array) -> tuple[Entries, Sight]:
        """Writes the layer's new entries; returns the layer, and what each token sees of it."""
        ...


@runtime_checkable
class SharedCache(Cache, Protocol):
    """A cache that can hold the beginning of many rows, or what follows it (`kv.joined`). Its pass is a `PartPass`."""

    def begin(self, positions: Int32[Array, "W L"]) -> PartPass:
        """Makes the mask for L new tokens per row at these positions, which are consecutive in each row."""
        ...
