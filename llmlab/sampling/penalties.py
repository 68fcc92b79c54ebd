"""Bias, penalties and mask, which move single tokens. Each function maps logits [B, V] to logits [B, V].

A row whose parameter is off comes out bit for bit as it went in, whatever the other rows ask for. A removed token has
the logit -inf, and no stage brings it back.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float32, Int32, UInt32


def apply_logit_bias(
    logits: Float32[Array, "B V"], *, bias: Float32[Array, "B V"], biased: Bool[Array, " B"]
) -> Float32[Array, "B V"]:
    """Adds `bias` in the rows that are `biased`. Additive even at -100: a bias never bans (the OpenAI API's field)."""
    return jnp.where(biased[:, None], logits + bias, logits)


def apply_repetition(
    logits: Float32[Array, "B V"], *, penalty: Float32[Array, " B"], seen: Bool[Array, "B V"]
) -> Float32[Array, "B V"]:
    """Divides the positive logits of the tokens `seen` by `penalty`, multiplies the others by it; 1 is off.

    CTRL's penalty (Keskar et al. 2019, arXiv:1909.05858) with the sign fix that made it work on raw logits.
    """
    # A very small penalty must not become 0, and no logit infinite.
    limits = jnp.finfo(jnp.float32)
    r = jnp.maximum(penalty, limits.tiny)[:, None]
    scaled = jnp.where(logits > 0.0, jnp.minimum(logits / r, limits.max), logits * r)
    return jnp.where(seen & (r != 1.0), scaled, logits)


def apply_frequency(
    logits: Float32[Array, "B V"], *, penalty: Float32[Array, " B"], counts: Int32[Array, "B V"]
) -> Float32[Array, "B V"]:
    """Subtracts `penalty` from a logit for each time its token was generated; 0 is off (the OpenAI API's formula)."""
    f = penalty[:, None]
    return jnp.where(f != 0.0, logits - f * counts.astype(jnp.float32), logits)


def apply_presence(
    logits: Float32[Array, "B V"], *, penalty: Float32[Array, " B"], counts: Int32[Array, "B V"]
) -> Float32[Array, "B V"]:
    """Subtracts `penalty` from the logit of each token generated at least once; 0 is off (the OpenAI API's formula)."""
    p = penalty[:, None]
    return jnp.where((p != 0.0) & (counts > 0), logits - p, logits)


def apply_mask(
    logits: Float32[Array, "B V"],
    *,
    mask: UInt32[Array, "B W"] | None,
    masked: Bool[Array, " B"],
    ends: Bool[Array, "B V"],
    may_end: Bool[Array, " B"],
) -> Float32[Array, "B V"]:
    """Removes what the grammar forbids in the `masked` rows, and `ends` in the rows that may not end yet.

    `mask` holds one bit per token, bit i % 32 of word i // 32 (llguidance's layout; W = ceil(V / 32)).
    """
    barred = ends & ~may_end[:, None]
    if mask is not None:
        barred |= masked[:, None] & ~unpack(mask, vocab_size=logits.shape[-1])
    return jnp.where(barred, -jnp.inf, logits)


def unpack(mask: UInt32[Array, "B W"], *, vocab_size: int) -> Bool[Array, "B V"]:
    """A packed mask as booleans. The bits past the vocabulary are padding."""
    bits = lax.broadcasted_iota(jnp.uint32, (1, 1, 32), 2)
    unpacked = (mask[:, :, None] >> bits) & 1
    return unpacked.reshape(mask.shape[0], -1)[:, :vocab_size] == 1
