"""Which positions of a cache are filled: [W, S], what attention adds to the logits, 0 where filled, else `HIDDEN`.

It is kept between steps because XLA's CPU backend is several times slower when the mask is made inside a step.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from llmlab.models.kv.attend import HIDDEN, Sight


def none_filled(batch: int, length: int) -> Float32[Array, "W S"]:
    """A mask in which nothing is filled."""
    return jnp.full((batch, length), HIDDEN, jnp.float32)


def first_filled(filled: Float32[Array, "W S"], counts: Int32[Array, " W"]) -> Float32[Array, "W S"]:
    """The mask in which the first `counts` positions of each row are filled, and no others."""
    kept = jnp.arange(filled.shape[1], dtype=counts.dtype)[None, :] < counts[:, None]
    return jnp.where(kept, jnp.float32(0), jnp.float32(HIDDEN))


def lengthened(filled: Float32[Array, "W S"], length: int) -> Float32[Array, "W S2"]:
    """The mask with room for more positions."""
    return jnp.pad(filled, ((0, 0), (0, length - filled.shape[1])), constant_values=HIDDEN)


def filling(
    filled: Float32[Array, "W S"], positions: Int32[Array, "W L"]
) -> tuple[Float32[Array, "W S"], Float32[Array, "W L S"]]:
    """The mask after L new tokens per row at these positions, and what each token sees: itself and all before it."""
    if positions.shape[1] == 1:
        rows = jnp.arange(positions.shape[0])
        filled = filled.at[rows, positions[:, 0]].set(0.0, unique_indices=True, mode="promise_in_bounds")
        return filled, filled[:, None, :]
    at = jnp.arange(filled.shape[1], dtype=positions.dtype)
    new = (at[None, :] >= positions[:, :1]) & (at[None, :] <= positions[:, -1:])
    filled = jnp.where(new, jnp.float32(0), filled)
    # Filled positions after a token's own are those of the tokens that come with it, or stale.
    earlier = at[None, None, :] <= positions[:, :, None]
    return filled, jnp.where(earlier, filled[:, None, :], jnp.float32(HIDDEN))


def sight(filled: Float32[Array, "W S"], positions: Int32[Array, "W L"]) -> tuple[Float32[Array, "W S"], Sight]:
    """The mask after L new tokens per row at these positions, and what each token sees: itself and all before it.

    The entries before the new ones are filled without a gap.
    """
    after, bias = filling(filled, positions)
    return after, Sight(bias, back(positions, filled.shape[1]), positions, positions + 1)


def back(positions: Int32[Array, "W L"], length: int) -> Int32[Array, "W L S"]:
    """How many positions each of a cache's lies before each of these; below 0 if it lies after."""
    return positions[:, :, None] - jnp.arange(length, dtype=positions.dtype)[None, None, :]
