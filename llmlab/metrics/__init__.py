"""Metrics: each takes a dataframe and returns one number, and names its source.

    from llmlab import metrics

    metrics.perplexity(result.logprobs_frame())
    sweep = lab.sweep("Tell me a story.", temperature=[0.5, 1.0], n=16)
    sweep.summary_frame(metrics={"agreement": metrics.pairwise_agreement})

Each docstring says which kind of frame the metric reads:

- a frame of tokens: `Result.logprobs_frame()`, or the rows of one choice. `lab.sweep(metrics=...)` passes the latter.
- a frame of completions: one row per completion with its `text`, as `Sweep.frame()` has, and its `tool_calls`.
  `Sweep.summary_frame(metrics=...)` passes the rows of one cell.
- a frame of probabilities: one row per token or answer.

Logarithms are natural, entropies in nats. A metric is NaN where the frame cannot tell it: it has no rows, or a value is
missing. A missing column is a `RequestError`.

What a metric of samples expects may depend on how many there are, or on how long they are. The docstrings say so:

- `pairwise_bleu`, `pairwise_agreement`, `length_normalised_entropy`, `mean_varentropy` and `distinct_n(among=...)` do
  not depend on it, and compare samples of any size;
- `self_bleu` grows with the number of samples, `majority_share` falls with it; `sample_entropy` grows towards the
  entropy of the distribution, `distinct_n` falls with the length of a text, `expected_calibration_error` falls with the
  number of predictions, `perplexity` with the length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from llmlab.metrics.answers import majority_share, pairwise_agreement, pairwise_bleu, sample_entropy, self_bleu
from llmlab.metrics.probabilities import calibration_bins as calibration_bins
from llmlab.metrics.probabilities import (
    entropy,
    expected_calibration_error,
    kl_divergence,
    total_variation,
    varentropy,
)
from llmlab.metrics.tokens import (
    distinct_n,
    length_normalised_entropy,
    mean_entropy,
    mean_logprob,
    mean_varentropy,
    perplexity,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Metric",
    "distinct_n",
    "entropy",
    "expected_calibration_error",
    "kl_divergence",
    "length_normalised_entropy",
    "majority_share",
    "mean_entropy",
    "mean_logprob",
    "mean_varentropy",
    "pairwise_agreement",
    "pairwise_bleu",
    "perplexity",
    "sample_entropy",
    "self_bleu",
    "total_variation",
    "varentropy",
]

#: A function from a frame to a number.
Metric: TypeAlias = "Callable[[pd.DataFrame], float]"
