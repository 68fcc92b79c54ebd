"""The library of stages that a request can ask for beyond the built-in ones; nobody pays for those that are not asked.

They are listed in the order in which they run where a request asks for several of them at one place. Each gives its
source. Their arithmetic is in `cutoffs` and `reshaping`; those that read the sequence of tokens are in `repetition`,
those with a state in `feedback`, and those that compare two prompts in `guidance`.

Where they stand in the orders of other engines: in llama.cpp's (`common/common.h`) dry and then top_n_sigma come before
top_k, typical_p between top_k and top_p, xtc after min_p, then the temperature with its dynamic range, and mirostat or
adaptive_p last. The other engines have none of them. There, and in our own order, they stand where transformers has
them: guidance first, top_h between the temperature and top_k, and typical_p, epsilon_cutoff and
eta_cutoff after min_p.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from llmlab.sampling.feedback import ADAPTIVE_P, MIROSTAT
from llmlab.sampling.fields import Control, Field, integer, number
from llmlab.sampling.guidance import CONTRAST, GUIDANCE
from llmlab.sampling.repetition import DRY, NO_REPEAT_NGRAM
from llmlab.sampling.stage import Inputs, Order, Seen, Stage, late

if TYPE_CHECKING:
    from jax import Array

__all__ = ["LIBRARY", "LIBRARY_FIELDS"]


QUADRATIC = Stage(
    "quadratic_smoothing",
    "temperature",
    (
        number(
            "smoothing_factor", 0, 10, default=0.0, extension=True,
            text="Bends the logits by their squared distance from the largest, times this; 0 is off.",
            control=Control("more", step=0.05),
        ),
        number(
            "smoothing_curve", 1, 10, default=1.0, extension=True,
            text="Above 1, smoothing_factor also adds a cubic term, which suppresses unlikely tokens.",
            control=Control("more", step=0.05),
        ),
    ),
    lambda inputs: inputs.smoothing_factor > 0.0,
    late("reshaping.apply_quadratic", factor="smoothing_factor", curve="smoothing_curve"),
)  # fmt: skip


DYNAMIC_TEMPERATURE = Stage(
    "dynamic_temperature",
    "temperature",
    (
        number(
            "dynatemp_range", 0, 2, default=0.0, extension=True,
            text="Lets the temperature vary by up to this: lower where the model is sure, higher where not; 0 is off.",
            control=Control("more", step=0.05),
        ),
        number(
            "dynatemp_exponent", 0, 10, default=1.0, extension=True,
            text="How the varying temperature follows the entropy: its share of the largest one, to this power.",
            control=Control("more", step=0.05),
        ),
    ),
    lambda inputs: inputs.dynatemp_range > 0.0,
    late(
        "reshaping.apply_dynamic_temperature", "temperature", reach="dynatemp_range", exponent="dynatemp_exponent"
    ),
)  # fmt: skip


TOP_N_SIGMA = Stage(
    "top_n_sigma",
    "truncation",
    (
        number(
            "top_n_sigma", 0, 20, default=0.0, extension=True,
            text="Keeps tokens whose logit lies at most this many standard deviations below the largest; 0 is off.",
            control=Control("more", step=0.05),
        ),
    ),
    lambda inputs: inputs.top_n_sigma > 0.0,
    late("cutoffs.apply_top_n_sigma", "top_n_sigma"),
    after=(("llama.cpp", "presence"), ("", "temperature")),
)  # fmt: skip


TOP_H = Stage(
    "top_h",
    "truncation",
    (
        number(
            "top_h", 0, 1, default=0.0, extension=True,
            text="Keeps the most likely tokens, of the first 100, that have this share of their entropy; 0 is off.",
            control=Control("more", step=0.01),
        ),
    ),
    lambda inputs: inputs.top_h > 0.0,
    late("cutoffs.apply_top_h", "top_h"),
    most=lambda inputs: (inputs.top_h > 0.0).astype("int32") * 100,
    by_front=True,
    after=(("llama.cpp", "presence"), ("", "temperature")),
)  # fmt: skip


TYPICAL_P = Stage(
    "typical_p",
    "truncation",
    (
        number(
            "typical_p", 0, 1, above=True, default=1.0, extension=True,
            text="Keeps the tokens whose surprise is closest to the entropy, until they add up to this probability.",
            control=Control("more", low=0.01),
        ),
    ),
    lambda inputs: inputs.typical_p < 1.0,
    late("cutoffs.apply_typical_p", "typical_p"),
    after=(("llama.cpp", "top_k"),),
)  # fmt: skip


EPSILON_CUTOFF = Stage(
    "epsilon_cutoff",
    "truncation",
    (
        number(
            "epsilon_cutoff", 0, 1, default=0.0, extension=True,
            text="Removes tokens whose probability is less than this; 0 is off.",
            control=Control("more", step=0.001, scale="log"),
        ),
    ),
    lambda inputs: inputs.epsilon_cutoff > 0.0,
    late("cutoffs.apply_epsilon_cutoff", epsilon="epsilon_cutoff"),
    after=(("llama.cpp", "min_p"),),
)  # fmt: skip


ETA_CUTOFF = Stage(
    "eta_cutoff",
    "truncation",
    (
        number(
            "eta_cutoff", 0, 1, default=0.0, extension=True,
            text="Removes tokens less probable than this and than its root times exp(-entropy); 0 is off.",
            control=Control("more", step=0.001, scale="log"),
        ),
    ),
    lambda inputs: inputs.eta_cutoff > 0.0,
    late("cutoffs.apply_eta_cutoff", epsilon="eta_cutoff"),
    after=(("llama.cpp", "min_p"),),
)  # fmt: skip


def _apply_p_less(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.cutoffs import apply_p_less

    return apply_p_less(logits, p_less=inputs.p_less, vocab_size=inputs.ends.shape[-1])


P_LESS = Stage(
    "p_less",
    "truncation",
    (
        integer(
            "p_less", 0, 2, default=0, extension=True,
            text="1 removes tokens less probable than the sum of squared probabilities, 2 than its normalised value; "
            "0 is off.",
            control=Control("more"),
        ),
    ),
    lambda inputs: inputs.p_less > 0,
    _apply_p_less,
    after=(("llama.cpp", "min_p"),),
)  # fmt: skip


def _apply_xtc(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.cutoffs import apply_xtc
    from llmlab.sampling.draw import uniform

    chance = uniform(inputs, history, stream="xtc")
    return apply_xtc(logits, threshold=inputs.xtc_threshold, chosen=chance < inputs.xtc_probability)


XTC = Stage(
    "xtc",
    "truncation",
    (
        number(
            "xtc_probability", 0, 1, default=0.0, extension=True,
            text="How often the tokens above xtc_threshold are removed except the least likely of them; 0 is off.",
            control=Control("more", step=0.01),
        ),
        number(
            "xtc_threshold", 0, 1, above=True, default=0.1, extension=True,
            text="The probability from which on a token counts as one of the top choices that xtc removes.",
            control=Control("more", low=0.01),
        ),
    ),
    lambda inputs: inputs.xtc_probability > 0.0,
    _apply_xtc,
    after=(("llama.cpp", "min_p"),),
)  # fmt: skip

#: Every stage of the library.
LIBRARY: Order = (
    GUIDANCE,
    NO_REPEAT_NGRAM,
    DRY,
    CONTRAST,
    QUADRATIC,
    DYNAMIC_TEMPERATURE,
    TOP_N_SIGMA,
    TOP_H,
    TYPICAL_P,
    EPSILON_CUTOFF,
    ETA_CUTOFF,
    P_LESS,
    XTC,
    MIROSTAT,
    ADAPTIVE_P,
)
#: Their fields, by name.
LIBRARY_FIELDS: Mapping[str, Field] = MappingProxyType({one.name: one for stage in LIBRARY for one in stage.fields})
