"""The library of stages that a request can ask for beyond the built-in ones; nobody pays for those that are not asked.

They are listed in the order in which they run where a request asks for several of them at one place. Each gives its
source. Their arithmetic is in `cutoffs` and `reshaping`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from llmlab.sampling.fields import Control, Field, number
from llmlab.sampling.stage import Inputs, Order, Seen, Stage

if TYPE_CHECKING:
    from jax import Array

__all__ = ["LIBRARY", "LIBRARY_FIELDS"]


def _apply_top_n_sigma(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.cutoffs import apply_top_n_sigma

    return apply_top_n_sigma(logits, top_n_sigma=inputs.top_n_sigma)


#: Tang et al. 2024 (arXiv:2411.07641), "Top-nsigma: Not All Logits Are You Need".
TOP_N_SIGMA = Stage(
    "top_n_sigma",
    "truncation",
    (
        number(
            "top_n_sigma", 0, 100, default=0.0, extension=True,
            text="Keeps tokens whose logit lies at most this many standard deviations below the largest; 0 is off.",
            control=Control("more", high=5, step=0.05),
        ),
    ),
    lambda inputs: inputs.top_n_sigma > 0.0,
    _apply_top_n_sigma,
    after=(("llama.cpp", "presence"), ("", "temperature")),
)  # fmt: skip

#: Every stage of the library.
LIBRARY: Order = (TOP_N_SIGMA,)
#: Their fields, by name.
LIBRARY_FIELDS: Mapping[str, Field] = MappingProxyType({one.name: one for stage in LIBRARY for one in stage.fields})
