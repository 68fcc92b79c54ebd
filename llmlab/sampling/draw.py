"""Sampling by Gumbel-max: noise from (seed, choice, position), and the token with the largest logit + noise.

The noise of a token is a counter-based hash of (seed, choice, position, token id), so it does not depend on the batch,
the slot, the other parameters, the width of the vocabulary, or any JAX setting. The same request with other parameters
gets the same noise: a coupled counterfactual.

The hash is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), the one
under `jax.random`. It is written out here because `jax.random.gumbel` in float32 takes twice as long for 23-bit
uniforms, with which one in fifty draws over 150,000 tokens is a tie at the top, and three times as long for finer ones.
Here both words of a block are used, 48 bits per token. And a seed gives the same noise in every release of JAX.
"""

from __future__ import annotations

import zlib

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float32, Int32, Integer, UInt32

from llmlab.sampling.stage import Inputs, Seen
from llmlab.sampling.truncation import argmax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def draw(logits: Float32[Array, "B V"], noise: Float32[Array, "B V"]) -> Int32[Array, " B"]:
    """The token that each row samples: distributed as softmax(logits), and never one that was removed."""
    return argmax(logits + noise)


def uniform(inputs: Inputs, history: Seen, *, stream: str) -> Float32[Array, " B"]:
    """A random number in [0, 1) for each row, from its seed, choice and position, for a stage that draws.

    It is independent of the noise that tokens are drawn with, and of the numbers of other streams.

    Args:
        inputs: the rows' settings.
        history: what they have seen.
        stream: any name, such as that of the stage.
    """
    seed, choice, position = jnp.asarray(inputs.seed), jnp.asarray(inputs.choice), jnp.asarray(history.position)
    key = threefry(seed[:, 0], seed[:, 1], choice.astype(jnp.uint32), position.astype(jnp.uint32))
    # The noise of tokens has 0 as its first word; CRC-32 gives 0 for no name in use, and 1 stands for it.
    name = jnp.full_like(key[0], max(zlib.crc32(stream.encode()), 1))
    high, _ = threefry(*key, name, jnp.zeros_like(name))
    return (high >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)


def noise(
    seed: UInt32[Array, "B 2"], choice: Int32[Array, " B"], position: Int32[Array, " B"], vocab_size: int
) -> Float32[Array, "B V"]:
    """Standard Gumbel noise, one value per token. `seed` has the high word, then the low; `position` counts tokens.

    The noise of a token does not depend on the size of the vocabulary.
    """
    return noise_of(seed, choice, position, lax.broadcasted_iota(jnp.uint32, (seed.shape[0], vocab_size), 1))


def noise_of(
    seed: UInt32[Array, "B 2"], choice: Int32[Array, " B"], position: Int32[Array, " B"], ids: Integer[Array, "B N"]
) -> Float32[Array, "B N"]:
    """The noise of some tokens: to the bit what `noise` gives them."""
    key = threefry(seed[:, 0], seed[:, 1], choice.astype(jnp.uint32), position.astype(jnp.uint32))
    ids = ids.astype(jnp.uint32)
    return gumbel(*threefry(key[0][:, None], key[1][:, None], jnp.zeros_like(ids), ids))


def gumbel(high: UInt32[Array, "B V"], low: UInt32[Array, "B V"]) -> Float32[Array, "B V"]:
    """-log(-log(1 - u)) with u = the first 24 bits of each word, finest near 0, where the large values come from.

    The largest value is 34. The smallest is -2.8, which clips a probability of 6e-8 at the end that never wins.
    """
    # A signed conversion, because an unsigned one is slow on CPUs and 24 bits do not need it.
    coarse = (high >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)
    fine = ((low >> 8).astype(jnp.int32).astype(jnp.float32) + 0.5) * np.float32(2.0**-48)
    return -jnp.log(-jnp.log1p(-jnp.minimum(coarse + fine, np.float32(1.0 - 2.0**-24))))


def threefry(
    key0: UInt32[Array, "..."], key1: UInt32[Array, "..."], word0: UInt32[Array, "..."], word1: UInt32[Array, "..."]
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """Threefry-2x32-20: the block (word0, word1) under the key (key0, key1), elementwise."""
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    word0, word1 = word0 + keys[0], word1 + keys[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            word0 = word0 + word1
            word1 = word0 ^ ((word1 << turn) | (word1 >> (32 - turn)))
        word0 = word0 + keys[(group + 1) % 3]
        word1 = word1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return word0, word1
