"""The kernel for TPUs, which Pallas lowers through Mosaic."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu
from jaxtyping import Array, Float, Int32

from llmlab.models.kv.attend import Sums
from llmlab.models.kv.kernel_block import Running, in_sight, nothing_seen, with_block

#: The most positions that are read at a time, and the most queries of a tile. Two blocks of keys and of values, heads
#: of 256 float32 numbers, take 2 MB of the 16 MB of the fast memory.
BLOCK, TILE = 512, 128
#: What the number of positions of a block must divide by, unless it is all of the cache: the lanes of a register.
LANES = 128
#: What the number of queries of a tile must divide by: the rows of a register of 16-bit numbers.
ROWS = 16


def tpu_sums(
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

    The programs run one after the other, and those of one tile of queries go over the blocks of the positions. Those
    before the tile's first block ask for that one, those after its last block for the last: a block that is there
    already is not copied again, and nothing is computed with it.
    """
    batch, heads, count, size = q.shape
    room, width = values.shape[2], values.shape[3]
    block = _block(room)
    tile = min(TILE, pl.cdiv(count, ROWS) * ROWS)
    tiles = pl.cdiv(count, tile)
    more = tiles * tile - count
    q = jnp.pad(q, ((0, 0), (0, 0), (0, more), (0, 0)))
    first, end = (jnp.pad(x, ((0, 0), (0, more))) for x in (first, end))
    nowhere = jnp.where(end > first, first, room).reshape(batch, tiles, tile)
    begin = jnp.min(nowhere, axis=2) // block
    stop = pl.cdiv(jnp.max(end.reshape(batch, tiles, tile), axis=2), block)

    def held(b: Any, t: Any, s: Any, begin: Any, stop: Any) -> Any:
        """The block that a program has before it."""
        return jnp.minimum(jnp.maximum(s, begin[b, t]), jnp.maximum(stop[b, t] - 1, 0))

    def of_queries(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, tile, width), lambda b, h, t, s, *_: (b, h, t, 0))

    per_query = pl.BlockSpec((None, tile, 1), lambda b, h, t, s, *_: (b, t, 0))
    weighed, most, total = pl.pallas_call(
        partial(_kernel, block=block, softcap=softcap),
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, heads, tiles, room // block),
            in_specs=[
                per_query,
                per_query,
                of_queries(size),
                pl.BlockSpec((None, None, size, block), lambda b, h, t, s, *at: (b, h, 0, held(b, t, s, *at))),
                pl.BlockSpec((None, None, block, width), lambda b, h, t, s, *at: (b, h, held(b, t, s, *at), 0)),
            ],
            out_specs=[of_queries(width), of_queries(1), of_queries(1)],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, tiles * tile, width), jnp.float32),
            jax.ShapeDtypeStruct((batch, heads, tiles * tile, 1), jnp.float32),
            jax.ShapeDtypeStruct((batch, heads, tiles * tile, 1), jnp.float32),
        ],
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="attention_sums",
    )(begin, stop, first[..., None], end[..., None], q, keys, values)
    return Sums(weighed[:, :, :count], most[:, :, :count], total[:, :, :count])


def _block(room: int) -> int:
    """How many positions are read at a time."""
    block = math.gcd(room, BLOCK)
    return room if block < LANES else block


def _kernel(
    begin_ref: Any,
    stop_ref: Any,
    first_ref: Any,
    end_ref: Any,
    q_ref: Any,
    keys_ref: Any,
    values_ref: Any,
    weighed_ref: Any,
    most_ref: Any,
    total_ref: Any,
    *,
    block: int,
    softcap: float | None,
) -> None:
    """One tile of queries and one block of positions; the sums grow in the outputs, which stay where they are."""
    row, part, at = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    grown = weighed_ref, most_ref, total_ref

    @pl.when(at == 0)
    def _begin() -> None:
        _write(grown, nothing_seen(*weighed_ref.shape))

    @pl.when((at >= begin_ref[row, part]) & (at < stop_ref[row, part]))
    def _read() -> None:
        seen = in_sight(at * block, block, first_ref[...], end_ref[...])
        sums = Running(*(ref[...] for ref in grown))
        _write(grown, with_block(sums, q_ref[...], keys_ref[...], values_ref[...], seen, softcap))


def _write(refs: tuple[Any, ...], sums: Running) -> None:
    for ref, value in zip(refs, sums, strict=True):
        ref[...] = value
