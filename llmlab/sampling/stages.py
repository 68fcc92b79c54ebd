"""The stages of the sampler and the orders in which they run: the one place that lists them.

Our order, with logits l:

 1. logit_bias    l += bias; additive even at -100
 2. repetition    tokens of the prompt and the output: l / r where l > 0, l * r elsewhere
 3. frequency     l -= f * count, over the generated tokens
 4. presence      l -= p where count > 0, over the generated tokens
 5. mask          removes what the grammar forbids, and the end tokens while fewer than min_tokens are generated
 6. temperature   l / t; under 1e-5 only the largest is left, the lowest id among equals
 7. top_k         exactly k are left, ties going to the lower id
 8. top_p         of what is left, kept iff the mass strictly before it (probability falling, id rising) is < p
 9. min_p         removed iff its probability is < min_p times the largest
10. draw          argmax(l + Gumbel noise), the noise a function of (seed, choice, position, token)

A new stage is a file of its own that makes a `Stage`, an import here, and its place in `STAGES` and in the orders that
are to have it. Everything else, from the request's fields to the playground's sliders, follows from these lists.

Nothing here imports JAX before a stage computes, because requests are built from the fields that the stages declare.
The arithmetic of these stages is in `penalties` and `truncation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from llmlab.sampling.fields import GREEDY, Control, Field, integer, number
from llmlab.sampling.stage import Inputs, Order, Seen, Stage, late

if TYPE_CHECKING:
    from jax import Array

__all__ = ["FIELDS", "ORDER", "ORDERS", "STAGES"]


LOGIT_BIAS = Stage(
    "logit_bias",
    "logits",
    (
        Field(
            "logit_bias", "by_token", "Numbers that are added to the logits of tokens, by token id.",
            default={}, low=-100, high=100, effect="distribution", control=Control(empty='{"42": -100}'),
        ),
    ),
    lambda inputs: inputs.biased,
    late("penalties.apply_logit_bias", "bias", "biased"),
)  # fmt: skip


def _apply_repetition(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.penalties import apply_repetition

    seen = history.prompt | (history.counts > 0)
    return apply_repetition(logits, penalty=inputs.repetition_penalty, seen=seen)


REPETITION = Stage(
    "repetition",
    "logits",
    (
        number(
            "repetition_penalty", 0, 2, above=True, default=1.0, extension=True,
            text="Divides the positive logits and multiplies the negative ones of tokens in the prompt or the answer.",
            control=Control(low=0.05, step=0.05),
        ),
    ),
    lambda inputs: inputs.repetition_penalty != 1.0,
    _apply_repetition,
)  # fmt: skip


def _apply_frequency(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.penalties import apply_frequency

    return apply_frequency(logits, penalty=inputs.frequency_penalty, counts=history.counts)


FREQUENCY = Stage(
    "frequency",
    "logits",
    (
        number(
            "frequency_penalty", -2, 2, default=0.0,
            text="Subtracted from a token's logit for each time it was generated.",
            control=Control(step=0.1),
        ),
    ),
    lambda inputs: inputs.frequency_penalty != 0.0,
    _apply_frequency,
)  # fmt: skip


def _apply_presence(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.penalties import apply_presence

    return apply_presence(logits, penalty=inputs.presence_penalty, counts=history.counts)


PRESENCE = Stage(
    "presence",
    "logits",
    (
        number(
            "presence_penalty", -2, 2, default=0.0,
            text="Subtracted once from the logit of every token that was generated.",
            control=Control(step=0.1),
        ),
    ),
    lambda inputs: inputs.presence_penalty != 0.0,
    _apply_presence,
)  # fmt: skip


def _apply_mask(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.penalties import apply_mask

    may_end = history.position >= inputs.min_tokens
    return apply_mask(logits, mask=inputs.mask, masked=inputs.masked, ends=inputs.ends, may_end=may_end)


MASK = Stage(
    "mask",
    "mask",
    (
        integer(
            "min_tokens", 0, 2**31 - 1, default=0, extension=True,
            text="The least number of tokens in the answer: no end token can be drawn before.",
            control=Control("more", high=128),
        ),
    ),
    lambda inputs: inputs.masked | (inputs.min_tokens > 0),
    _apply_mask,
)  # fmt: skip


TEMPERATURE = Stage(
    "temperature",
    "temperature",
    (
        number(
            "temperature", 0, 2, default=1.0,
            text="Divides the logits; below 1e-5 the most likely token is always taken.",
            control=Control(step=0.05),
        ),
    ),
    lambda inputs: inputs.temperature != 1.0,
    late("truncation.apply_temperature", "temperature"),
    most=lambda inputs: inputs.temperature < GREEDY,
    by_front=True,
)  # fmt: skip


TOP_K = Stage(
    "top_k",
    "truncation",
    (
        integer(
            "top_k", 1, 128, default=0, off=(0, -1), extension=True,
            text="Keeps exactly this many of the most likely tokens; 0 and -1 keep all.",
            control=Control(low=0, scale="log"),
        ),
    ),
    lambda inputs: inputs.top_k > 0,
    late("truncation.apply_top_k", "top_k"),
    most=lambda inputs: inputs.top_k,
    by_front=True,
)  # fmt: skip


TOP_P = Stage(
    "top_p",
    "truncation",
    (
        number(
            "top_p", 0, 1, above=True, default=1.0,
            text="Keeps the most likely tokens until their probabilities add up to this.",
            control=Control(low=0.01),
        ),
    ),
    lambda inputs: inputs.top_p < 1.0,
    late("truncation.apply_top_p", "top_p"),
)  # fmt: skip


MIN_P = Stage(
    "min_p",
    "truncation",
    (
        number(
            "min_p", 0, 1, default=0.0, extension=True,
            text="Removes tokens whose probability is less than this share of the largest one.",
            control=Control(step=0.001, scale="log"),
        ),
    ),
    lambda inputs: inputs.min_p > 0.0,
    late("truncation.apply_min_p", "min_p"),
    by_front=True,
)  # fmt: skip

#: Every stage once, in the order in which a reader meets their fields.
STAGES: Order = (TEMPERATURE, TOP_P, TOP_K, MIN_P, FREQUENCY, PRESENCE, REPETITION, LOGIT_BIAS, MASK)

#: The fields of all stages, by name.
FIELDS: Mapping[str, Field] = MappingProxyType({field.name: field for stage in STAGES for field in stage.fields})

#: Ours, as numbered above.
ORDER: Order = (LOGIT_BIAS, REPETITION, FREQUENCY, PRESENCE, MASK, TEMPERATURE, TOP_K, TOP_P, MIN_P)

#: vLLM's (`vllm/v1/sample/sampler.py`, the docstring of `Sampler`, and `ops/topk_topp_sampler.py`): what is allowed
#: comes first, and min_p before top_k and top_p, which therefore measure their mass without the tail that it removed.
#: Not carried over: its top_k keeps every token that ties with the k-th, ours the lower ids.
VLLM: Order = (MASK, LOGIT_BIAS, REPETITION, FREQUENCY, PRESENCE, TEMPERATURE, MIN_P, TOP_K, TOP_P)


def _top_p_without_min_p(inputs: Inputs) -> Array:
    import jax.numpy as jnp

    return jnp.where(inputs.min_p > 0.0, 1.0, inputs.top_p)


def _top_p_with_min_p(inputs: Inputs) -> Array:
    import jax.numpy as jnp

    return jnp.where(inputs.min_p > 0.0, inputs.top_p, 1.0)


def _apply_top_p_joint(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.truncation import apply_top_p

    return apply_top_p(logits, top_p=_top_p_without_min_p(inputs))


def _apply_top_p_with_min_p(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.truncation import apply_top_p

    return apply_top_p(logits, top_p=_top_p_with_min_p(inputs))


_TOP_P_JOINT = TOP_P._replace(
    name="top_p_joint", active=lambda inputs: _top_p_without_min_p(inputs) < 1.0, apply=_apply_top_p_joint
)
_TOP_P_WITH_MIN_P = TOP_P._replace(active=lambda inputs: _top_p_with_min_p(inputs) < 1.0, apply=_apply_top_p_with_min_p)

#: SGLang's (`python/sglang/srt/sampling/sampling_batch_info.py`, `apply_logits_bias`, and `layers/sampler.py` with its
#: default FlashInfer backend): the additive penalties before the scaling one, the bias last of all. There top_k and
#: top_p are one kernel with `filter_apply_order="joint"`, which measures top_p over the distribution *before* top_k.
#: Both keep a prefix of the same ranking, so that this is top_p first and top_k after it: the stage `top_p_joint`. A
#: request with min_p takes another kernel, top_k, top_p over what is left, then min_p: the stage `top_p`. Not carried
#: over: its repetition penalty counts the generated tokens alone (`penaltylib/repetition_penalty.py`), not the
#: prompt's; a batch in which any row has min_p takes the second way as a whole there, each row its own way here; and
#: its truncations keep whatever ties with the last kept token.
SGLANG: Order = (
    FREQUENCY,
    PRESENCE,
    REPETITION,
    MASK,
    LOGIT_BIAS,
    TEMPERATURE,
    _TOP_P_JOINT,
    TOP_K,
    _TOP_P_WITH_MIN_P,
    MIN_P,
)

#: llama.cpp's (`common/common.h`, the default of `samplers`, and `common_sampler_init` in `common/sampling.cpp`): the
#: three truncations come first and measure the distribution at temperature 1; the temperature only reshapes what they
#: left. Its other samplers (dry, top_n_sigma, typ_p, xtc, adaptive_p, mirostat) are off by default and not here: a
#: request that asks for one gains it at its place. Not carried over: with mirostat its other samplers are off; its
#: penalties count the last 64 tokens, the prompt's included, not the whole output; and it asks the grammar about the
#: drawn token, masking and drawing again where that was forbidden, while this order masks first (its own
#: `grammar_first`).
LLAMA_CPP: Order = (MASK, LOGIT_BIAS, REPETITION, FREQUENCY, PRESENCE, TOP_K, TOP_P, MIN_P, TEMPERATURE)

#: The orders by the names that `order=` takes.
ORDERS: Mapping[str, Order] = MappingProxyType(
    {"llmlab": ORDER, "vllm": VLLM, "sglang": SGLANG, "llama.cpp": LLAMA_CPP}
)
