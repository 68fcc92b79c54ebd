"""The order in which a token is chosen. Everything is float32, [B, V] -> [B, V], and a removed token has -inf.

 1. logit_bias    l += bias; additive even at -100
 2. repetition    tokens of the prompt and the output: l / r where l > 0, l * r elsewhere
 3. frequency     l -= f * count, over the generated tokens
 4. presence      l -= p where count > 0, over the generated tokens
 5. mask          what the grammar forbids is removed, and the end tokens while fewer than min_tokens are generated
 6. temperature   l / t; under 1e-5 only the largest is left, the lowest id among equals
 7. top_k         exactly k are left, ties going to the lower id
 8. top_p         of what is left, kept iff the mass strictly before it (probability falling, id rising) is < p
 9. min_p         removed iff its probability is < min_p times the largest
10. draw          argmax(l + Gumbel noise), the noise a function of (seed, choice, position, token)

A stage that no row asks for is skipped, and a row that does not ask for it goes through bit for bit: what a row gets
never depends on the rows beside it. Of the figures (`logprobs`), the raw ones are taken before 1, the others after 9.

`run` is what the engine compiles into its step; `trace` keeps what every stage left; both walk the same `Stage`s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Float32, Int32

from llmlab.sampling.draw import draw, noise
from llmlab.sampling.logprobs import ALTERNATIVES, Figures, figures
from llmlab.sampling.params import GREEDY, History, SamplerInputs
from llmlab.sampling.penalties import (
    apply_frequency,
    apply_logit_bias,
    apply_mask,
    apply_presence,
    apply_repetition,
)
from llmlab.sampling.truncation import apply_min_p, apply_temperature, apply_top_k, apply_top_p


class Stage(NamedTuple):
    """One step of an order, as a value: an order is a tuple of these."""

    name: str
    active: Callable[[SamplerInputs], Array]  #: [B] bool: the rows that ask for it
    apply: Callable[[Array, SamplerInputs, History], Array]  #: [B, V] -> [B, V]; other rows come out as they went in


Order: TypeAlias = tuple[Stage, ...]

_LOGIT_BIAS = Stage(
    "logit_bias",
    lambda inputs: inputs.biased,
    lambda logits, inputs, history: apply_logit_bias(logits, bias=inputs.bias, biased=inputs.biased),
)
_REPETITION = Stage(
    "repetition",
    lambda inputs: inputs.repetition_penalty != 1.0,
    lambda logits, inputs, history: apply_repetition(
        logits, penalty=inputs.repetition_penalty, seen=history.prompt | (history.counts > 0)
    ),
)
_FREQUENCY = Stage(
    "frequency",
    lambda inputs: inputs.frequency_penalty != 0.0,
    lambda logits, inputs, history: apply_frequency(logits, penalty=inputs.frequency_penalty, counts=history.counts),
)
_PRESENCE = Stage(
    "presence",
    lambda inputs: inputs.presence_penalty != 0.0,
    lambda logits, inputs, history: apply_presence(logits, penalty=inputs.presence_penalty, counts=history.counts),
)
_MASK = Stage(
    "mask",
    lambda inputs: inputs.masked | (inputs.min_tokens > 0),
    lambda logits, inputs, history: apply_mask(
        logits,
        mask=inputs.mask,
        masked=inputs.masked,
        ends=inputs.ends,
        may_end=history.position >= inputs.min_tokens,
    ),
)
_TEMPERATURE = Stage(
    "temperature",
    lambda inputs: inputs.temperature != 1.0,
    lambda logits, inputs, history: apply_temperature(logits, temperature=inputs.temperature),
)
_TOP_K = Stage(
    "top_k",
    lambda inputs: inputs.top_k > 0,
    lambda logits, inputs, history: apply_top_k(logits, top_k=inputs.top_k),
)
_TOP_P = Stage(
    "top_p",
    lambda inputs: inputs.top_p < 1.0,
    lambda logits, inputs, history: apply_top_p(logits, top_p=inputs.top_p),
)
_MIN_P = Stage(
    "min_p",
    lambda inputs: inputs.min_p > 0.0,
    lambda logits, inputs, history: apply_min_p(logits, min_p=inputs.min_p),
)

#: Ours, the docstring's 1 to 9.
ORDER: Order = (_LOGIT_BIAS, _REPETITION, _FREQUENCY, _PRESENCE, _MASK, _TEMPERATURE, _TOP_K, _TOP_P, _MIN_P)

#: vLLM's (`vllm/v1/sample/sampler.py`, the docstring of `Sampler`, and `ops/topk_topp_sampler.py`): what is allowed
#: comes first, and min_p before top_k and top_p, which therefore measure their mass without the tail that it removed.
#: Not carried over: its top_k keeps every token that ties with the k-th, ours the lower ids.
VLLM: Order = (_MASK, _LOGIT_BIAS, _REPETITION, _FREQUENCY, _PRESENCE, _TEMPERATURE, _MIN_P, _TOP_K, _TOP_P)


def _without_min_p(inputs: SamplerInputs) -> Array:
    return jnp.where(inputs.min_p > 0.0, 1.0, inputs.top_p)


def _with_min_p(inputs: SamplerInputs) -> Array:
    return jnp.where(inputs.min_p > 0.0, inputs.top_p, 1.0)


_TOP_P_JOINT = Stage(
    "top_p_joint",
    lambda inputs: _without_min_p(inputs) < 1.0,
    lambda logits, inputs, history: apply_top_p(logits, top_p=_without_min_p(inputs)),
)
_TOP_P_WITH_MIN_P = Stage(
    "top_p",
    lambda inputs: _with_min_p(inputs) < 1.0,
    lambda logits, inputs, history: apply_top_p(logits, top_p=_with_min_p(inputs)),
)

#: SGLang's (`python/sglang/srt/sampling/sampling_batch_info.py`, `apply_logits_bias`, and `layers/sampler.py` with its
#: default FlashInfer backend): the additive penalties before the scaling one, the bias last of all. There top_k and
#: top_p are one kernel with `filter_apply_order="joint"`, which measures top_p over the law *before* top_k. Both keep
#: a prefix of the same walk, so that this is top_p first and top_k after it: the stage `top_p_joint`. A request with
#: min_p takes another kernel, top_k, top_p over what is left, then min_p: the stage `top_p`. Not carried over: its
#: repetition penalty counts the generated tokens alone (`penaltylib/repetition_penalty.py`), not the prompt's; a batch
#: in which any row has min_p takes the second way as a whole there, each row its own way here; and its cuts keep
#: whatever ties with the last kept token.
SGLANG: Order = (
    _FREQUENCY,
    _PRESENCE,
    _REPETITION,
    _MASK,
    _LOGIT_BIAS,
    _TEMPERATURE,
    _TOP_P_JOINT,
    _TOP_K,
    _TOP_P_WITH_MIN_P,
    _MIN_P,
)

#: llama.cpp's (`common/common.h`, the default of `samplers`, and `common_sampler_init` in `common/sampling.cpp`): the
#: three cuts come first and measure the law at temperature 1; the temperature only reshapes what they left. Its other
#: samplers (dry, top_n_sigma, typ_p, xtc) are off by default and not here. Not carried over: its penalties count the
#: last 64 tokens, the prompt's included, not the whole output; and it asks the grammar about the drawn token, masking
#: and drawing again where that was forbidden, while this order masks first (its own `grammar_first`).
LLAMA_CPP: Order = (_MASK, _LOGIT_BIAS, _REPETITION, _FREQUENCY, _PRESENCE, _TOP_K, _TOP_P, _MIN_P, _TEMPERATURE)

#: The orders by the names that `order=` takes.
ORDERS: Mapping[str, Order] = MappingProxyType(
    {"llmlab": ORDER, "vllm": VLLM, "sglang": SGLANG, "llama.cpp": LLAMA_CPP}
)


def run(
    logits: Float[Array, "B V"],
    inputs: SamplerInputs,
    history: History,
    *,
    order: Order = ORDER,
    alternatives: int = ALTERNATIVES,
) -> tuple[Int32[Array, " B"], Figures]:
    """Draw a token for each row, and its figures. To be compiled: only `order` and `alternatives` are static.

    Args:
        logits: the model's, of any float type; taken to float32.
        inputs: what the rows ask for.
        history: what they have seen; it is not advanced.
        order: one of `ORDERS`, or any tuple of stages.
        alternatives: how many of the best tokens the figures list.
    """
    inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
    raw = logits.astype(jnp.float32)
    final = process(raw, inputs, history, order=order)
    # Where one token is left there is nothing to draw, and the noise is most of the cost of a greedy batch.
    values = lax.cond(
        jnp.any(inputs.temperature >= GREEDY),
        lambda: noise(inputs.seed, inputs.choice, history.position, raw.shape[-1]),
        lambda: jnp.zeros_like(raw),
    )
    token = draw(final, values)
    return token, figures(raw, final, token, alternatives=alternatives)


def process(
    logits: Float[Array, "B V"], inputs: SamplerInputs, history: History, *, order: Order = ORDER
) -> Float32[Array, "B V"]:
    """The logits of the law that a token is drawn from; -inf where a token was removed."""
    return _walk(logits, inputs, history, order=order)[-1]


def trace(
    logits: Float[Array, "B V"], inputs: SamplerInputs, history: History, *, order: Order = ORDER
) -> dict[str, Float32[Array, "B V"]]:
    """What each stage left, by its name, in the order in which they ran; "raw" comes first. The last is `process`'s.

    Compiled in here, because a dict that leaves a compiled function has forgotten the order of its keys.
    """
    names = ("raw", *(stage.name for stage in order))
    return dict(zip(names, _compiled_walk(logits, inputs, history, order=order), strict=True))


def _walk(logits: Array, inputs: SamplerInputs, history: History, *, order: Order) -> tuple[Array, ...]:
    """The raw logits, and what each stage left of them."""
    inputs, history = jax.tree.map(jnp.asarray, (inputs, history))
    lefts = [logits.astype(jnp.float32)]
    for stage in order:

        def apply(logits: Array, stage: Stage = stage) -> Array:
            return stage.apply(logits, inputs, history)

        lefts.append(lax.cond(jnp.any(stage.active(inputs)), apply, lambda logits: logits, lefts[-1]))
    return tuple(lefts)


_compiled_walk = jax.jit(_walk, static_argnames="order")
