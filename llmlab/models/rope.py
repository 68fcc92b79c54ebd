"""Rotary position embedding: frequencies, angles, rotation."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from llmlab.models.config import Rope


class Rotation(NamedTuple):
    """What a layer does to its queries and keys at L positions.

    Args:
        cos: [B, L, R/2], of the angles of R rotated numbers.
        sin: [B, L, R/2].
        queries: [B, L], a factor on the queries; None for none.
    """

    cos: Float32[Array, "B L R2"]
    sin: Float32[Array, "B L R2"]
    queries: Float32[Array, "B L"] | None = None


def rope_frequencies(rope: Rope, *, head_dim: int, long: bool = False) -> np.ndarray:
    """The angular frequencies in radians per token, one a pair, scaled as `rope` says; computed in float64.

    `long` asks for those of a text beyond the original context, which differ for `longrope` only.
    """
    head_dim = rope.rotary_dim or head_dim
    pairs = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    freq = rope.theta**-pairs
    if rope.kind == "longrope":
        return freq / np.asarray(rope.long_factor if long else rope.short_factor, np.float64)
    if rope.kind == "linear":
        return freq / rope.factor
    if rope.kind == "llama3":
        wavelength = 2 * np.pi / freq
        turns = rope.original_max_position / wavelength
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = np.clip(smooth, 0.0, 1.0)
        return (1 - smooth) * freq / rope.factor + smooth * freq
    if rope.kind == "yarn":
        # The index of the frequency that turns `beta` times within the original context (YaRN, section 3.2).
        def index(beta: float) -> float:
            turns = rope.original_max_position / (beta * 2 * math.pi)
            return head_dim * math.log(turns) / (2 * math.log(rope.theta))

        low, high = index(rope.beta_fast), index(rope.beta_slow)
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
        return freq / rope.factor * ramp + freq * (1 - ramp)
    return freq


def rotation(
    positions: Int32[Array, "B L"], *, rope: Rope, head_dim: int, length: Int32[Array, " B"] | None = None
) -> Rotation:
    """cos and sin of position times frequency, multiplied by the attention factor, and the factor on the queries.

    Args:
        positions: of the tokens.
        rope: how they rotate.
        head_dim: the size of a head.
        length: of the text that each row's tokens belong to; None where it ends with them.
    """

    def turned(long: bool) -> tuple[Float32[Array, "B L R2"], Float32[Array, "B L R2"]]:
        freq = jnp.asarray(rope_frequencies(rope, head_dim=head_dim, long=long), jnp.float32)
        angle = positions[:, :, None].astype(jnp.float32) * freq[None, None, :]
        factor = rope.attention_factor if long or rope.kind != "longrope" else rope.short_attention_factor
        return jnp.cos(angle) * factor, jnp.sin(angle) * factor

    cos, sin = turned(False)
    if rope.kind == "longrope":
        ends = positions[:, -1] + 1 if length is None else length
        beyond = (ends > rope.original_max_position)[:, None, None]
        cos, sin = (jnp.where(beyond, far, near) for far, near in zip(turned(True), (cos, sin), strict=True))
    if not rope.query_beta:
        return Rotation(cos, sin)
    times = jnp.floor(positions.astype(jnp.float32) / rope.original_max_position)
    return Rotation(cos, sin, 1 + rope.query_beta * jnp.log(1 + times))


def rotate(
    x: Float[Array, "B L N H"],
    cos: Float32[Array, "B L R2"],
    sin: Float32[Array, "B L R2"],
    *,
    interleaved: bool = False,
) -> Float[Array, "B L N H"]:
    """Rotates the first R numbers of each head, pair by pair (Su et al. 2021, arXiv:2104.09864); the rest stays.

    A pair is (x_i, x_{i+R/2}), or (x_{2i}, x_{2i+1}) where `interleaved`.
    """
    turned, rest = x[..., : 2 * cos.shape[-1]], x[..., 2 * cos.shape[-1] :]
    wide = turned.astype(jnp.float32)
    first, second = (wide[..., 0::2], wide[..., 1::2]) if interleaved else jnp.split(wide, 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    pair = (first * cos - second * sin, second * cos + first * sin)
    wide = jnp.stack(pair, axis=-1).reshape(wide.shape) if interleaved else jnp.concatenate(pair, axis=-1)
    return jnp.concatenate([wide.astype(x.dtype), rest], axis=-1) if rest.shape[-1] else wide.astype(x.dtype)
