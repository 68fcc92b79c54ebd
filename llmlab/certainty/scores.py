"""Which columns of a frame are scores of certainty, and the exact interval of a share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from llmlab.errors import RequestError, short
from llmlab.protocol.arguments import listed

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["uncertainty", "confidence", "probability"]
#: Scores that are known by their name. The higher an uncertainty, the less certain the answer.
UNCERTAINTIES = (
    "semantic_entropy",
    "weighted_semantic_entropy",
    "discrete_semantic_entropy",
    "predictive_entropy",
    "length_normalised_entropy",
    "eigenvalue_laplacian",
    "degree_uncertainty",
    "sentence_sar",
    "answer_perplexity",
    "token_sar",
    "sar",
)
#: The higher a confidence, the more certain the answer.
CONFIDENCES = ("answer_logprob", "answer_probability", "self_consistency", "lexical_similarity", "p_true")
#: Confidences that claim to be the probability that the answer is right.
PROBABILITIES = ("answer_probability", "self_consistency", "p_true")


def scores_of(
    frame: pd.DataFrame,
    correct: str,
    *,
    uncertainty: Sequence[str],
    certainty: Sequence[str],
    probability: Sequence[str],
) -> dict[str, Kind]:
    """The columns of a frame that are scores, and what each is; see `evaluate`.

    Raises:
        RequestError: a column is missing, or there is none.
    """
    if correct not in frame.columns:
        raise RequestError(
            f"the frame has no column {short(correct)} that says which answers were right", param="correct"
        )
    found: dict[str, Kind] = {}
    for name in frame.columns:
        if name in UNCERTAINTIES:
            found[name] = "uncertainty"
        elif name in CONFIDENCES:
            found[name] = "probability" if name in PROBABILITIES else "confidence"
    own: dict[str, tuple[Kind, Sequence[str]]] = {
        "uncertainty": ("uncertainty", uncertainty),
        "certainty": ("confidence", certainty),
        "probability": ("probability", probability),
    }
    for param, (kind, names) in own.items():
        for name in listed(param, names, of="columns"):
            if name not in frame.columns or name == correct:
                raise RequestError(f"{param}: the frame has no score {short(name)}", param=param)
            found[name] = kind
    if not found:
        raise RequestError("the frame has no score: name its columns, uncertainty=[...]", param="uncertainty")
    return found


def exact_interval(right: int, questions: int, *, confidence: float) -> tuple[float, float]:
    """The exact interval of a share.

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the
    binomial".
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = 0.0 if right == 0 else float(beta.ppf(tail, right, questions - right + 1))
    high = 1.0 if right == questions else float(beta.ppf(1 - tail, right + 1, questions - right))
    return low, high
