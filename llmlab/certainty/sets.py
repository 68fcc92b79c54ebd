"""Sets of answers that hold the right one with a stated probability: split conformal prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from llmlab.errors import RequestError, short
from llmlab.metrics import Equivalence
from llmlab.metrics.equivalence import classes_of
from llmlab.metrics.judged import conformal_threshold
from llmlab.protocol.arguments import listed, number
from llmlab.text.numbers import count

if TYPE_CHECKING:
    from collections.abc import Iterator


@runtime_checkable
class _Sampled(Protocol):
    """Prompts with the classes of their sampled answers; a `Certainty` is one."""

    def classes_frame(self) -> pd.DataFrame:
        """One row per class of each prompt."""

    def prompt_numbers(self) -> np.ndarray:
        """The number of the prompt of each row of `classes_frame()`, from 0."""


@dataclass(frozen=True)
class AnswerSets:
    """Sets of answers, calibrated by `Certainty.answer_sets`.

    Attributes:
        share: a set holds the classes with at least this share of the samples; 0 takes every answer that was sampled.
        complete: whether the sets hold the right answer as often as stated. False where the right answers of too many
            calibration prompts were never sampled: then only a set of all conceivable answers would, and `frame` has
            all that were sampled.
        coverage: the stated probability.
        prompts: the number of calibration prompts.
        equivalence: which answers are the same.
    """

    share: float
    complete: bool
    coverage: float
    prompts: int
    equivalence: Equivalence

    def frame(self, certainty: _Sampled, truth: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per class in the set of each prompt, the most frequent one first.

        Columns: those of `Certainty.classes_frame()`; with `truth` also right (whether the class holds the right
        answer).

        Args:
            certainty: the answers to new prompts, sampled as often as those of the calibration prompts.
            truth: the right answer to each prompt.

        Raises:
            RequestError: `truth` has another length, or `certainty` is something else.
        """
        if not isinstance(certainty, _Sampled):
            raise RequestError(f"certainty must be a Certainty, got {short(certainty)}", param="certainty")
        classes, prompt = certainty.classes_frame(), certainty.prompt_numbers()
        if truth is not None:
            classes["right"] = _right(classes, prompt, truth, equivalence=self.equivalence)
        # The shares are quotients of whole numbers, so that rounding decides nothing here.
        kept = np.flatnonzero(classes["share"].to_numpy() >= self.share - 1e-12)
        shares = classes["share"].to_numpy()[kept]
        return classes.iloc[kept[np.lexsort((-shares, prompt[kept]))]].reset_index(drop=True)

    def __repr__(self) -> str:
        said = "" if self.complete else ", which sets of sampled answers do not reach"
        return (
            f"AnswerSets: classes with at least {self.share:.3g} of the samples · coverage {self.coverage:g}{said} · "
            f"calibrated on {count(self.prompts, 'prompt')}"
        )


def calibrate(
    classes: pd.DataFrame, prompt: np.ndarray, truth: Sequence[str], *, equivalence: Equivalence, coverage: float
) -> AnswerSets:
    """Calibrates sets of answers; see `Certainty.answer_sets`.

    The score of an answer is 1 minus the share of its class; that of a right answer that was not sampled is infinite.

    Args:
        classes: `Certainty.classes_frame()`.
        prompt: the number of the prompt of each of its rows.
        truth: the right answer to each prompt.
        equivalence: which answers are the same.
        coverage: the probability that a set holds the right answer.

    Raises:
        RequestError: `truth` has another length, or `coverage` is out of range.

    Sources: Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world"; with frequencies of samples as
    scores Su, Luo, Wang, Cheng 2024, "API is enough: conformal prediction for large language models without
    logit-access", arXiv:2403.01216.
    """
    coverage = number("coverage", coverage, 0, 1)
    if coverage in (0, 1):
        raise RequestError(f"coverage must lie between 0 and 1, got {coverage:g}", param="coverage")
    right = _right(classes, prompt, truth, equivalence=equivalence)
    scores = np.full(len(truth), np.inf)
    np.minimum.at(scores, prompt[right], 1 - classes["share"].to_numpy()[right])
    found = conformal_threshold(scores, coverage=coverage)
    return AnswerSets(max(0.0, 1 - found), bool(np.isfinite(found)), coverage, len(scores), equivalence)


def _right(classes: pd.DataFrame, prompt: np.ndarray, truth: Any, *, equivalence: Equivalence) -> np.ndarray:
    """Whether each class holds the right answer to its prompt."""
    answers = listed("truth", truth, of="texts")
    needed = int(prompt.max(initial=-1)) + 1
    if len(answers) < needed or not all(isinstance(one, str) for one in answers):
        raise RequestError(
            f"truth must be a text for each of {count(needed, 'prompt')}, got {short(truth)}", param="truth"
        )
    pairs: Iterator[tuple[str, int]] = zip(classes["text"], prompt.tolist(), strict=True)
    return np.array([classes_of([text, answers[at]], equivalence)[1] == 0 for text, at in pairs], bool)
