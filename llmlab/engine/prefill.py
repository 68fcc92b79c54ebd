"""Prefill: computes a prompt's keys and values in pieces of a few fixed sizes."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int32

from llmlab.models.kv.protocol import Cache

#: The sizes of pieces: a prompt is cut into the largest, its tail into smaller ones, and the last piece is padded.
PIECES = (32, 128, 512)


def prefill(
    graph: nnx.GraphDef, weights: nnx.State, cache: Cache, tokens: Int32[Array, "1 C"], start: Int32[Array, ""]
) -> Cache:
    """Writes the keys and values of C tokens at `start`.

    Padding writes beyond the prompt: those positions are masked, and overwritten when the row reaches them.
    """
    positions = start + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    _, after = nnx.merge(graph, weights)(tokens, positions, cache)
    return after


def piece_sizes(length: int) -> tuple[int, ...]:
    """Returns the sizes that fit a cache of `length` positions, which is a multiple of the largest."""
    return tuple(size for size in PIECES if size <= length)


def pieces(ids: np.ndarray, *, sizes: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (start, padded tokens [1, C]) for each piece of a prompt."""
    start = 0
    for size in _cut(len(ids), sizes):
        piece = ids[start : start + size]
        yield start, np.pad(piece, (0, size - len(piece))).astype(np.int32)[None, :]
        start += size


def padded_length(count: int, *, sizes: tuple[int, ...]) -> int:
    """Returns the number of positions that a prompt's pieces write, padding included."""
    return sum(_cut(count, sizes))


def _cut(count: int, sizes: tuple[int, ...]) -> Iterator[int]:
    """Yields the sizes of a prompt's pieces.

    The tail takes the smallest size that holds it, or two pieces of the next smaller size where they hold it too: that
    is half of the work, since a piece costs time in proportion to its length, and may need a shorter cache.
    """
    while count > 0:
        at = next((i for i, size in enumerate(sizes) if size >= count), len(sizes) - 1)
        if at and count <= 2 * sizes[at - 1]:
            at -= 1
        yield sizes[at]
        count -= sizes[at]
