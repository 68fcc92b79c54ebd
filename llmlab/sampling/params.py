"""What a row asks of the sampler: plain numbers in, arrays with a leading B out.

`SamplingParams` is one row as a request states it. `stack` turns rows into `SamplerInputs`, a pytree whose every leaf
leads with B, so that a row can be written into a slot with one `jax.tree.map`. No field is static: a sweep over any of
them runs one compiled program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt32

#: Below this temperature the law is one-hot at the largest logit.
GREEDY = 1e-5


@dataclass(frozen=True)
class SamplingParams:
    """One row's sampling fields, spelled and bounded as the API has them; each default leaves the law alone.

    Ranges are the request's to check. `top_k` 0 is off. `seed` is a signed 64-bit integer, `choice` the index among the
    n answers to one request; together with the position they fix the noise.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    seed: int = 0
    choice: int = 0


class SamplerInputs(NamedTuple):
    """The rows of a batch as arrays: numpy's from `stack`, JAX's on a device. V is the width of the model's logits."""

    temperature: Float32[Any, " B"]
    top_k: Int32[Any, " B"]  #: 0 = off
    top_p: Float32[Any, " B"]
    min_p: Float32[Any, " B"]
    repetition_penalty: Float32[Any, " B"]
    frequency_penalty: Float32[Any, " B"]
    presence_penalty: Float32[Any, " B"]
    bias: Float32[Any, "B V"]
    biased: Bool[Any, " B"]  #: the row has a bias at all
    mask: UInt32[Any, "B W"] | None  #: allowed tokens, bit i % 32 of word i // 32; None: a program without grammars
    masked: Bool[Any, " B"]  #: the row's mask counts
    min_tokens: Int32[Any, " B"]  #: no end token before this many generated tokens
    ends: Bool[Any, "B V"]  #: the tokens that end a generation
    seed: UInt32[Any, "B 2"]  #: the high and the low word of the 64-bit seed
    choice: Int32[Any, " B"]


class History(NamedTuple):
    """What the rows have seen so far. The engine keeps it; a penalty reads it."""

    prompt: Bool[Any, "B V"]  #: the tokens that occur in the prompt
    counts: Int32[Any, "B V"]  #: how often each token was generated, reasoning included
    position: Int32[Any, " B"]  #: how many tokens were generated


def seed_words(seed: int) -> tuple[int, int]:
    """The high and the low 32 bits of a signed 64-bit seed, two's complement: all of it counts."""
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be a signed 64-bit integer, not {seed}")
    return (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF


def stack(rows: Sequence[SamplingParams], *, vocab_size: int, ends: Iterable[int] = ()) -> SamplerInputs:
    """The rows as numpy arrays, ready to be put on a device; nothing is compiled.

    `ends` are the ids of the tokens that end a generation, which `min_tokens` holds back. There is no mask yet: a
    program with grammars replaces `mask` and `masked`. Raises ValueError for a bias or an end outside the vocabulary.
    """
    bias = np.zeros((len(rows), vocab_size), np.float32)
    for row, params in enumerate(rows):
        for token, value in params.logit_bias.items():
            if not 0 <= token < vocab_size:
                raise ValueError(f"logit_bias names token {token}, but the vocabulary has {vocab_size} tokens")
            bias[row, token] = value
    is_end = np.zeros((len(rows), vocab_size), bool)
    for token in ends:
        if not 0 <= token < vocab_size:
            raise ValueError(f"end token {token} is outside the vocabulary of {vocab_size} tokens")
        is_end[:, token] = True

    def column(name: str, dtype: type) -> Any:
        return np.array([getattr(params, name) for params in rows], dtype)

    arrays: dict[str, Any] = {
        "bias": bias,
        "biased": bias.any(axis=1),
        "mask": None,
        "masked": np.zeros(len(rows), bool),
        "ends": is_end,
        "seed": np.array([seed_words(params.seed) for params in rows], np.uint32).reshape(-1, 2),
    }
    return SamplerInputs(
        temperature=column("temperature", np.float32),
        top_k=column("top_k", np.int32),
        top_p=column("top_p", np.float32),
        min_p=column("min_p", np.float32),
        repetition_penalty=column("repetition_penalty", np.float32),
        frequency_penalty=column("frequency_penalty", np.float32),
        presence_penalty=column("presence_penalty", np.float32),
        min_tokens=column("min_tokens", np.int32),
        choice=column("choice", np.int32),
        **arrays,
    )
