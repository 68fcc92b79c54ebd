"""The arithmetic of the stages in `guidance`: the logits after a prompt, combined with those after another one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

__all__ = ["apply_contrast", "apply_guidance"]


def apply_guidance(
    logits: Float32[Array, "B V"], *, negative: Float32[Array, "B V"], scale: Float32[Array, " B"]
) -> Float32[Array, "B V"]:
    """Classifier-free guidance: n + scale * (l - n), of the logprobs l after the prompt and n after the negative one.

    A token that was removed stays so. One that the model never says after the negative prompt keeps its logprob.

    Source: Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance", arXiv:2306.17806, in the form of
    transformers' `UnbatchedClassifierFreeGuidanceLogitsProcessor`.
    """
    own, other = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(negative, axis=-1)
    scale = scale[:, None]
    both = jnp.isfinite(own) & jnp.isfinite(other)
    moved = jnp.where(both, other + scale * (own - other), own)
    # A scale of 1 leaves every bit as it is; the rows beside may have another.
    return jnp.where(scale != 1.0, moved, logits)


def apply_contrast(
    logits: Float32[Array, "B V"],
    *,
    negative: Float32[Array, "B V"],
    strength: Float32[Array, " B"],
    alpha: Float32[Array, " B"],
) -> Float32[Array, "B V"]:
    """Contrastive decoding: l - strength * n, of the tokens whose probability is at least alpha times the largest.

    l and n are logprobs, after the prompt and after the negative one; the paper's strength is 1, its alpha 0.1. A
    token that the model never says after the negative prompt keeps its logprob.

    Source: Li et al. 2022, "Contrastive Decoding: Open-ended Text Generation as Optimization", arXiv:2210.15097. There
    the second logprobs are those of a smaller model.
    """
    own, other = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(negative, axis=-1)
    moved = jnp.where(jnp.isfinite(other), own - strength[:, None] * other, own)
    limit = jnp.max(own, axis=-1, keepdims=True) + jnp.log(alpha)[:, None]
    left = jnp.where(own >= limit, moved, -jnp.inf)
    return jnp.where(strength[:, None] > 0.0, left, logits)
