"""Stages 1 to 5: what moves a token's logit because of which token it is. Each is `apply_*`: logits [B, V] -> [B, V].

A row whose parameter is off comes out bit for bit as it went in, whatever the rows beside it ask for. A removed token
has the logit -inf, and no stage brings it back.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float32, Int32, UInt32


def apply_logit_bias(
    logits: Float32[Array, "B V"], *, bias: Float32[Array, "B V"], biased: Bool[Array, " B"]
) -> Float32[Array, "B V"]:
    """Add `bias` in the rows that are `biased`. Additive even at -100: a bias never bans (the OpenAI API's field)."""
    return jnp.where(biased[:, None], logits + bias, logits)


def apply_repetition(
    logits: Float32[Array, "B V"], *, penalty: Float32[Array, " B"], seen: Bool[Array, "B V"]
) -> Float32[Array, "B V"]:
    """Divide the positive logits of the tokens `seen` by `penalty`, multiply the others by it; 1 is off.

    CTRL's penalty (Keskar et al. 2019, arXiv:1909.05858) with the sign fix that made it work on raw logits.
    """
    # A penalty may be as small as one likes: it must not become 0, nor a logit infinite.
    limits = jnp.finfo(jnp.float32)
    r = jnp.maximum(penalty, limits.tiny)[:, None]
    scaled = jnp.where(logits > 0.0, jnp.minimum(logits / r, limits.max), logits * r)
    return jnp.where(seen & (r != 1.0), scaled, logits)


def apply_frequency(
    logits: Float32[Array, "B V"], *, penalty: Float32[Array, " B"], counts: Int32[Array, "B V"]
) -> Float32[Array, "B V"]:
    """Take `penalty` off a logit for each time its token was generated; 0 is off (the OpenAI API's formula)."""
    f = penalty[:, None]
    return jnp.where(f != 0.0, logits - f * counts.astype(jnp.float32), logits)


def apply_presence(
    logits: Float32[Array, "B V"], *, penalty: Float32[Array, " B"], counts: Int32[Array, "B V"]
) -> Float32[Array, "B V"]:
    """Take `penalty` off the logit of each token generated at least once; 0 is off (the OpenAI API's formula)."""
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
    """Remove what the grammar forbids in the rows that are `masked`, and the `ends` in the rows that not yet `may_end`.

    `mask` holds a bit a token, bit i % 32 of word i // 32 (llguidance's layout; W = ceil(V / 32)).
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
