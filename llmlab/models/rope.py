"""Rotary position embedding: frequencies, angles, rotation."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from llmlab.models.config import Rope


def rope_frequencies(rope: Rope, *, head_dim: int) -> np.ndarray:
    """The H/2 angular frequencies in radians per token, scaled as `rope` says; computed in float64."""
    pairs = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    freq = rope.theta**-pairs
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


def rope_angles(
    positions: Int32[Array, "B L"], *, rope: Rope, head_dim: int
) -> tuple[Float32[Array, "B L H2"], Float32[Array, "B L H2"]]:
    """cos and sin of position times frequency, with H2 = H/2, multiplied by YaRN's attention factor."""
    freq = jnp.asarray(rope_frequencies(rope, head_dim=head_dim), jnp.float32)
    angle = positions[:, :, None].astype(jnp.float32) * freq[None, None, :]
    return jnp.cos(angle) * rope.attention_factor, jnp.sin(angle) * rope.attention_factor


def rotate(
    x: Float[Array, "B L N H"], cos: Float32[Array, "B L H2"], sin: Float32[Array, "B L H2"]
) -> Float[Array, "B L N H"]:
    """Rotates the pairs (x_i, x_{i+H/2}) by their angles (Su et al. 2021, arXiv:2104.09864; the halves convention)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
