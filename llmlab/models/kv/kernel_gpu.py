"""The kernel for GPUs, which Pallas lowers through Triton."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int32

from llmlab.models.kv.attend import Sums
from llmlab.models.kv.kernel_block import Running, in_sight, nothing_seen, with_block

#: The programs that are to run side by side at least: about two for each multiprocessor of a large GPU.
PROGRAMS = 256
#: The most parts that the positions of one row are divided into. One row of few key heads needs many.
PARTS = 64
#: The bytes of one block of keys. Two stages of keys and values then fit into the shared memory of every GPU since
#: Turing (64 kB).
BLOCK_BYTES = 16 * 1024
#: The fewest rows, columns and terms of a product in Triton.
LEAST = 16


def gpu_sums(
    q: Float[Array, "B K Q H"],
    keys: Float[Array, "B K H S"],
    values: Float[Array, "B K S V"],
    first: Int32[Array, "B Q"],
    end: Int32[Array, "B Q"],
    *,
    softcap: float | None = None,
    interpret: bool = False,
) -> Sums:
    """The sums of `kernel.kernel_sums`, whose queries are scaled already.

    One program takes a tile of queries of one row and key head, and one part of the positions. It loops over the blocks
    of that part which the tile sees. Where a part begins depends only on where the tile's queries end: never on other
    rows, so that a row has the same bits beside any of them.
    """
    batch, heads, count, size = q.shape
    room, width = values.shape[2], values.shape[3]
    padded, wide = (max(LEAST, pl.next_power_of_2(x)) for x in (size, width))
    tile = _tile(count, padded, q.dtype)
    block = _block(room, padded * keys.dtype.itemsize)
    tiles = pl.cdiv(count, tile)
    parts = max(1, min(PARTS, PROGRAMS // (batch * heads * tiles), room // block))
    more = tiles * tile - count
    q = jnp.pad(q, ((0, 0), (0, 0), (0, more), (0, padded - size)))
    first, end = (jnp.pad(x, ((0, 0), (0, more))) for x in (first, end))
    nowhere = jnp.where(end > first, first, room).reshape(batch, tiles, tile)
    ends = end.reshape(batch, tiles, tile)
    # In blocks: where the tile begins and where it ends.
    borders = jnp.stack([jnp.min(nowhere, axis=2) // block, pl.cdiv(jnp.max(ends, axis=2), block)])

    def of_queries(width: int | None, part: bool = False) -> pl.BlockSpec:
        shape: tuple[Any, ...] = (None, None, tile) if width is None else (None, None, tile, width)
        tail = () if width is None else (0,)
        if part:
            return pl.BlockSpec((None, *shape), lambda b, h, p: (p, b, h // tiles, h % tiles, *tail))
        return pl.BlockSpec(shape, lambda b, h, p: (b, h // tiles, h % tiles, *tail))

    per_query = pl.BlockSpec((None, tile), lambda b, h, p: (b, h % tiles))
    found = pl.pallas_call(
        partial(_kernel, size=size, width=width, block=block, parts=parts, softcap=softcap),
        grid=(batch, heads * tiles, parts),
        in_specs=[
            pl.BlockSpec((2, None, None), lambda b, h, p: (0, b, h % tiles)),
            per_query,
            per_query,
            of_queries(padded),
            pl.BlockSpec((None, None, padded, room), lambda b, h, p: (b, h // tiles, 0, 0)),
            pl.BlockSpec((None, None, room, wide), lambda b, h, p: (b, h // tiles, 0, 0)),
        ],
        out_specs=[of_queries(wide, part=True), of_queries(None, part=True), of_queries(None, part=True)],
        out_shape=[
            jax.ShapeDtypeStruct((parts, batch, heads, tiles * tile, wide), jnp.float32),
            jax.ShapeDtypeStruct((parts, batch, heads, tiles * tile), jnp.float32),
            jax.ShapeDtypeStruct((parts, batch, heads, tiles * tile), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="attention_sums",
    )(borders, first, end, q, keys, values)
    weighed, most, total = found[0][..., :count, :width], found[1][..., :count, None], found[2][..., :count, None]
    highest = jnp.max(most, axis=0, keepdims=True)
    share = jnp.exp(most - highest)
    return Sums(jnp.sum(weighed * share, axis=0), highest[0], jnp.sum(total * share, axis=0))


def _tile(count: int, size: int, dtype: Any) -> int:
    """How many queries one program takes. float32 products have no tensor cores, and registers are few."""
    most = 16 if dtype == jnp.float32 else max(16, min(64, 8192 // size))
    return min(most, max(LEAST, pl.next_power_of_2(count)))


def _block(room: int, position_bytes: int) -> int:
    """How many positions are read at a time: a power of two that divides the cache's length.

    Raises:
        ValueError: there is none.
    """
    most = max(LEAST, min(128, pl.next_power_of_2(BLOCK_BYTES // position_bytes)))
    if (block := math.gcd(room, most)) < LEAST:
        raise ValueError(f"the kernel reads {LEAST} positions at a time, by which a cache of {room} does not divide")
    return block


def _kernel(
    borders_ref: Any,
    first_ref: Any,
    end_ref: Any,
    q_ref: Any,
    keys_ref: Any,
    values_ref: Any,
    weighed_ref: Any,
    most_ref: Any,
    total_ref: Any,
    *,
    size: int,
    width: int,
    block: int,
    parts: int,
    softcap: float | None,
) -> None:
    """One tile of queries over one part of the positions."""
    begin, stop = borders_ref[0], borders_ref[1]
    each = pl.cdiv(stop, parts)
    start = pl.program_id(2) * each
    q, first, end = q_ref[...], first_ref[...][:, None], end_ref[...][:, None]
    tile, padded = q.shape
    wide = values_ref.shape[1]

    def read(at: Any, sums: Running) -> Running:
        here = pl.ds(at * block, block)
        # Sizes are powers of two in Triton, and those of heads need not be.
        k = _load(keys_ref.at[:, here], (padded, block), axis=0, there=size)
        v = _load(values_ref.at[here, :], (block, wide), axis=1, there=width)
        return with_block(sums, q, k, v, in_sight(at * block, block, first, end), softcap)

    sums = jax.lax.fori_loop(jnp.maximum(start, begin), jnp.minimum(start + each, stop), read, nothing_seen(tile, wide))
    weighed_ref[...] = sums.weighed
    most_ref[...] = sums.most[:, 0]
    total_ref[...] = sums.total[:, 0]


def _load(ref: Any, shape: tuple[int, int], *, axis: int, there: int) -> Array:
    """Loads an array of which only the first `there` along an axis exist; the others are zero."""
    if shape[axis] == there:
        return triton.load(ref)
    return triton.load(ref, mask=jax.lax.broadcasted_iota(jnp.int32, shape, axis) < there, other=0.0)
