"""Metrics: each takes a dataframe and returns one number, and names its source.

    from llmlab import metrics

    metrics.perplexity(result.logprobs_frame())
    sweep = lab.sweep("Tell me a story.", temperature=[0.5, 1.0], n=16)
    sweep.summary_frame(metrics={"agreement": metrics.pairwise_agreement})

Each docstring says which kind of frame the metric reads:

- a frame of tokens: `Result.logprobs_frame()`, or the rows of one choice. `lab.sweep(metrics=...)` passes the latter.
- a frame of completions: one row per completion with its `text`, as `Sweep.frame()` has, and its `tool_calls`.
  `Sweep.summary_frame(metrics=...)` passes the rows of one cell.
- a frame of samples: one row per sampled answer to one prompt, with its `text`, `sampling_logprob` and `tokens`, as
  `result.samples_frame()` has them.
- a frame of judged answers: one row per question, with scores and whether the answer was `correct`.
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
from llmlab.metrics.equivalence import Equivalence, cosine, normalised
from llmlab.metrics.judged import auroc, brier_score, conformal_threshold, prediction_rejection_ratio
from llmlab.metrics.probabilities import calibration_bins as calibration_bins
from llmlab.metrics.probabilities import (
    entropy,
    expected_calibration_error,
    kl_divergence,
    total_variation,
    varentropy,
)
from llmlab.metrics.relevance import sar, sentence_sar, token_sar
from llmlab.metrics.samples import (
    degree_uncertainty,
    eigenvalue_laplacian,
    lexical_similarity,
    predictive_entropy,
    semantic_entropy,
)
from llmlab.metrics.similarity import Similarity, jaccard, rouge_l, token_f1
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
    "Equivalence",
    "Metric",
    "Similarity",
    "auroc",
    "brier_score",
    "conformal_threshold",
    "cosine",
    "degree_uncertainty",
    "distinct_n",
    "eigenvalue_laplacian",
    "entropy",
    "expected_calibration_error",
    "jaccard",
    "kl_divergence",
    "length_normalised_entropy",
    "lexical_similarity",
    "majority_share",
    "mean_entropy",
    "mean_logprob",
    "mean_varentropy",
    "normalised",
    "pairwise_agreement",
    "pairwise_bleu",
    "perplexity",
    "prediction_rejection_ratio",
    "predictive_entropy",
    "rouge_l",
    "sample_entropy",
    "sar",
    "self_bleu",
    "semantic_entropy",
    "sentence_sar",
    "token_f1",
    "token_sar",
    "total_variation",
    "varentropy",
]

#: A function from a frame to a number.
Metric: TypeAlias = "Callable[[pd.DataFrame], float]"
