"""Stages of the library that read the sequence of tokens: what would repeat a part of it."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float32, Int32

__all__ = ["apply_dry", "apply_no_repeat_ngram"]


def apply_no_repeat_ngram(
    logits: Float32[Array, "B V"], *, size: Int32[Array, " B"], ids: Int32[Array, "B S"], length: Int32[Array, " B"]
) -> Float32[Array, "B V"]:
    """Removes tokens that would complete an n-gram which occurred in the prompt or the answer; a size of 0 is off.

    As fairseq and transformers have it (Paulus et al. 2017, arXiv:1705.04304, for n = 3). Where that would remove every
    token, the row is left as it is.
    """
    places = _places(ids)
    needed = jnp.maximum(size, 1) - 1
    # A place can end an n-gram if there are n - 1 tokens before it.
    matching = (places < length[:, None]) & (places >= needed[:, None]) & (size > 0)[:, None]

    def extend(state: tuple[Array, Array]) -> tuple[Array, Array]:
        k, matching = state
        return k + 1, matching & (_same(ids, length, k) | (k > needed)[:, None])

    def more(state: tuple[Array, Array]) -> Array:
        k, matching = state
        return (k <= jnp.max(needed)) & jnp.any(matching)

    _, matching = lax.while_loop(more, extend, (jnp.int32(1), matching))
    rows = jnp.arange(ids.shape[0])[:, None]
    banned = jnp.zeros(logits.shape, bool).at[rows, ids].max(matching)
    left = jnp.where(banned, -jnp.inf, logits)
    return jnp.where(jnp.any(left > -jnp.inf, axis=-1, keepdims=True), left, logits)


def apply_dry(
    logits: Float32[Array, "B V"],
    *,
    multiplier: Float32[Array, " B"],
    base: Float32[Array, " B"],
    allowed: Int32[Array, " B"],
    last: Int32[Array, " B"],
    breakers: Bool[Array, "B V"],
    ids: Int32[Array, "B S"],
    length: Int32[Array, " B"],
) -> Float32[Array, "B V"]:
    """Subtracts multiplier * base^(m - allowed) from tokens that would extend a repetition of m >= allowed tokens.

    DRY, "don't repeat yourself" (P. E. Weidmann 2024, text-generation-webui pull request 5677). m is the length of the
    longest part of the text that equals its end and is followed by the token. No part reaches over a breaker, and a
    breaker is never penalised. `last` is how many of the last tokens count, -1 for all. A multiplier of 0 is off.
    """
    places = _places(ids)
    first = jnp.where(last < 0, 0, jnp.maximum(length - last, 0))
    breaks = jnp.take_along_axis(breakers, ids, axis=-1)
    on = (multiplier > 0.0)[:, None]
    open_ = on & (places < length[:, None]) & (places >= first[:, None]) & ~breaks

    def extend(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k, open_, match = state
        reaches = (places - k >= first[:, None]) & ~_back(breaks, k, fill=True)
        open_ = open_ & _same(ids, length, k) & reaches
        return k + 1, open_, jnp.where(open_, k, match)

    def more(state: tuple[Array, Array, Array]) -> Array:
        return jnp.any(state[1])

    start = (jnp.int32(1), open_, jnp.zeros_like(ids))
    _, _, match = lax.while_loop(more, extend, start)
    rows = jnp.arange(ids.shape[0])[:, None]
    longest = jnp.zeros(logits.shape, jnp.int32).at[rows, ids].max(match)
    over = longest - allowed[:, None]
    penalty = multiplier[:, None] * base[:, None] ** over.astype(jnp.float32)
    # A long repetition makes it infinite; a logit may become very small, and not that of a removed token.
    left = jnp.maximum(logits - jnp.minimum(penalty, _MOST), -_MOST)
    return jnp.where(on & (longest > 0) & (over >= 0) & (logits > -jnp.inf), left, logits)


_MOST = jnp.finfo(jnp.float32).max / 4


def _places(ids: Int32[Array, "B S"]) -> Int32[Array, "B S"]:
    return lax.broadcasted_iota(jnp.int32, ids.shape, 1)


def _back(values: Array, k: Int32[Array, ""], *, fill: int | bool) -> Array:
    """The values k places before each place, and `fill` where there is none."""
    rows, size = values.shape
    padded = jnp.concatenate([jnp.full((rows, size), fill, values.dtype), values], axis=1)
    return lax.dynamic_slice(padded, (jnp.int32(0), size - k), (rows, size))


def _same(ids: Int32[Array, "B S"], length: Int32[Array, " B"], k: Int32[Array, ""]) -> Bool[Array, "B S"]:
    """Whether the k-th token before a place is the k-th token from the end of the sequence."""
    end = jnp.take_along_axis(ids, jnp.maximum(length - k, 0)[:, None], axis=1)
    return (_back(ids, k, fill=-1) == end) & (length >= k)[:, None]
