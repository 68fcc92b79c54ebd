"""A prompt's keys and values, computed in pieces of a few fixed sizes."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int32

from llmlab.models.kv.protocol import Cache

#: A prompt is cut into pieces of the largest size, its tail into smaller ones, the last of which is padded.
PIECES = (32, 128, 512)


def prefill(
    graph: nnx.GraphDef, weights: nnx.State, cache: Cache, tokens: Int32[Array, "1 C"], start: Int32[Array, ""]
) -> Cache:
    """Write C tokens' keys and values at `start`. What padding writes lies beyond the prompt: it is never seen, and
    overwritten when the row gets there."""
    positions = start + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    _, after = nnx.merge(graph, weights)(tokens, positions, cache)
    return after


def piece_sizes(length: int) -> tuple[int, ...]:
    """The sizes that a cache of `length` positions has room for; the length is a multiple of the largest."""
    return tuple(size for size in PIECES if size <= length)


def pieces(ids: np.ndarray, *, sizes: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """(start, padded tokens [1, C]) for each piece of a prompt."""
    start = 0
    for size in _cut(len(ids), sizes):
        piece = ids[start : start + size]
        yield start, np.pad(piece, (0, size - len(piece))).astype(np.int32)[None, :]
        start += size


def padded_length(count: int, *, sizes: tuple[int, ...]) -> int:
    """How many positions the pieces of a prompt write, padding included."""
    return sum(_cut(count, sizes))


def _cut(count: int, sizes: tuple[int, ...]) -> Iterator[int]:
    """The sizes of a prompt's pieces: the smallest that holds what is left, or two of the one below instead, which is
    half of the work (a piece costs what it is long) and may need a shorter cache."""
    while count > 0:
        at = next((i for i, size in enumerate(sizes) if size >= count), len(sizes) - 1)
        if at and count <= 2 * sizes[at - 1]:
            at -= 1
        yield sizes[at]
        count -= sizes[at]
