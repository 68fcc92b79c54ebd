"""Prefill: computes a prompt's keys and values in pieces of a few fixed sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int32

from llmlab.models.kv.protocol import Cache

#: The sizes of pieces on a CPU, where three pieces of 32 take as long as one of 128, and one of 512 up to 1.5 times as
#: long as four of 128; and on an accelerator, where a small piece takes as long as a large one.
SIZES, ACCELERATOR_SIZES = (32, 128), (128, 512)


class PromptPiece(NamedTuple):
    """Consecutive tokens of a prompt: the position of the first, their ids, and the ids padded to one of the sizes."""

    start: int
    ids: Int32[np.ndarray, " n"]
    padded: Int32[np.ndarray, "1 C"]


def prefill(
    graph: nnx.GraphDef,
    weights: nnx.State,
    cache: Cache,
    tokens: Int32[Array, "1 C"],
    start: Int32[Array, ""],
    length: Int32[Array, ""],
    adapter: Int32[Array, " 1"] | None = None,
) -> tuple[Cache, Cache]:
    """Writes the keys and values of C tokens at `start` of a text of `length` tokens; returns them by themselves too.

    Padding writes beyond the prompt: those positions are masked, and overwritten when the row reaches them. `adapter`
    is the text's, in a decoder that has adapters.
    """
    count = tokens.shape[1]
    positions = start + jnp.arange(count, dtype=jnp.int32)[None, :]
    model = nnx.merge(graph, weights)
    if adapter is not None:
        model.choose(adapter)
    _, after = model(tokens, positions, cache, length=length[None])
    return after, after.taken(start, count)


def piece_sizes(length: int) -> tuple[int, ...]:
    """Returns the sizes that fit a cache of `length` positions, which is a multiple of the largest."""
    sizes = SIZES if jax.default_backend() == "cpu" else ACCELERATOR_SIZES
    return tuple(size for size in sizes if size <= length)


def pieces(ids: Int32[np.ndarray, " L"], *, sizes: tuple[int, ...]) -> Iterator[PromptPiece]:
    """Cuts a prompt: the largest size as often as it fits, then the smaller ones; the last piece is padded.

    Where a piece begins and ends depends on the position alone, except where the prompt ends. So a longer prompt with
    the same beginning has the same pieces up to the largest size's last border, and up to the smaller ones' if it does
    not reach the next border of the larger.
    """
    start = 0
    while start < len(ids):
        left = len(ids) - start
        size = next((size for size in reversed(sizes) if size <= left), sizes[0])
        piece = np.asarray(ids[start : start + size], np.int32)
        yield PromptPiece(start, piece, np.pad(piece, (0, size - len(piece)))[None, :])
        start += size
