"""How certain a model is of its answers: measures over n samples of one prompt or of many, on frames alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llmlab import metrics
from llmlab.certainty.evaluation import Evaluation, evaluate
from llmlab.certainty.sets import AnswerSets, calibrate
from llmlab.errors import RequestError, short
from llmlab.frames.samples import samples_frame
from llmlab.frames.schema import build
from llmlab.frames.tokens import logprobs_frame
from llmlab.metrics import Equivalence, Similarity
from llmlab.metrics.answers import answers_of
from llmlab.metrics.equivalence import classes_of
from llmlab.metrics.samples import class_logprobs, sample_logprobs
from llmlab.metrics.similarity import similarity_named
from llmlab.protocol.arguments import flag, listed
from llmlab.protocol.completion import Completion
from llmlab.text.numbers import count

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The columns of `Certainty.frame` after those that tell the prompts apart.
CERTAINTY_COLUMNS: dict[str, str] = {
    "samples": "index",
    "classes": "count",
    "answer": "text",
    "semantic_entropy": "number",
    "weighted_semantic_entropy": "number",
    "discrete_semantic_entropy": "number",
    "predictive_entropy": "number",
    "length_normalised_entropy": "number",
    "eigenvalue_laplacian": "number",
    "degree_uncertainty": "number",
    "sentence_sar": "number",
    "answer_perplexity": "number",
    "answer_logprob": "number",
    "answer_probability": "number",
    "self_consistency": "number",
    "lexical_similarity": "number",
}
#: Those that are there with `relevance`.
RELEVANCE_COLUMNS: dict[str, str] = {"token_sar": "number", "sar": "number"}
CLASSES_COLUMNS: dict[str, str] = {
    "answer_class": "index",
    "text": "text",
    "samples": "index",
    "share": "number",
    "probability": "number",
}


class Certainty:
    """How certain a model is of its answers: one or many prompts, with n sampled answers to each.

    `result.certainty()`, `sweep.certainty()` and `llmlab.certainty.measure` return one. `len(certainty)` is the number
    of prompts (of cells, for a sweep). No model is asked.

    Args:
        samples: the frame of samples; see `measure`.
        by: the columns that tell the prompts apart.
        tokens: the tokens of the samples of each prompt, in their order; None where they are not known.
        equivalence: as in `measure`.
        similarity: as in `measure`.
        relevance: as in `measure`.
        distinct: as in `measure`.
    """

    def __init__(
        self,
        samples: pd.DataFrame,
        *,
        by: Sequence[str],
        tokens: Sequence[pd.DataFrame] | None = None,
        equivalence: Equivalence = "exact",
        similarity: Similarity = "rouge_l",
        relevance: Similarity | None = None,
        distinct: bool = True,
    ) -> None:
        # Several measures ask for the same pairs of texts.
        self.equivalence: Equivalence = cache(equivalence) if callable(equivalence) else equivalence
        self._similarity = cache(similarity_named(similarity))
        self._relevance = None if relevance is None else similarity_named(relevance)
        self._distinct = flag("distinct", distinct)
        self._samples, self._by, self._tokens = samples, list(by), tokens
        self._frame: pd.DataFrame | None = None
        self._rows = _groups(samples, self._by)
        self._parts = [samples.iloc[at].reset_index(drop=True) for at in self._rows]
        self._classes = [self._classes_of(part) for part in self._parts]

    def frame(self) -> pd.DataFrame:
        """One row per prompt: its most frequent answer, and how certain the model is of it.

        Columns: those that tell the prompts apart (the swept parameters of a sweep), samples, classes (how many
        different answers), answer (the first sample of the most frequent class, of the first one at a tie).

        The higher, the less certain: semantic_entropy, weighted_semantic_entropy, discrete_semantic_entropy,
        predictive_entropy, sentence_sar (in nats), length_normalised_entropy (nats per token), eigenvalue_laplacian,
        degree_uncertainty, answer_perplexity (of the answer's tokens in the distribution sampled from).

        The higher, the more certain: answer_logprob (the log-probability of the answer, in nats, also called maximum
        sequence probability), answer_probability (of all sampled texts of its class together), self_consistency (the
        share of the samples that are in its class), lexical_similarity.

        With `relevance` also token_sar (in nats per token) and sar (in nats), the higher, the less certain. Each is a
        function of `llmlab.metrics`, with its source. NaN where the log-probabilities are not known, or where there are
        too few samples.
        """
        if self._frame is None:
            more = {} if self._relevance is None else RELEVANCE_COLUMNS
            kinds = {**CERTAINTY_COLUMNS, **more}
            rows = [self._measured(at) for at in range(len(self._parts))]
            found = build({name: [row[name] for row in rows] for name in kinds}, kinds)
            self._frame = self._beside(found, np.arange(len(rows)))
        return self._frame.copy()

    def samples_frame(self) -> pd.DataFrame:
        """One row per sample.

        Columns: those that tell the prompts apart, those of the samples (choice, text, finish_reason, tokens, logprob,
        sampling_logprob), answer_class (equal for answers of one prompt that are equivalent, from 0; NaN if unknown).
        """
        found = self._samples.copy()
        classes = np.full(len(found), np.nan)
        for at, own in zip(self._rows, self._classes, strict=True):
            classes[at] = np.nan if own is None else own
        return found.assign(**build({"answer_class": classes}, {"answer_class": "count"}))

    def classes_frame(self) -> pd.DataFrame:
        """One row per class of equivalent answers of each prompt.

        Columns: those that tell the prompts apart, answer_class, text (the first one), samples, share (of the prompt's
        samples), probability (of all sampled texts of the class together, in the distribution sampled from).
        """
        rows: dict[str, list[Any]] = {name: [] for name in CLASSES_COLUMNS}
        prompts = []
        for at, (part, classes) in enumerate(zip(self._parts, self._classes, strict=True)):
            if classes is None:
                continue
            texts, counts = part["text"].tolist(), np.bincount(classes)
            for one, probability in enumerate(self._probabilities(at)):
                first, samples = int(np.argmax(classes == one)), int(counts[one])
                values = (one, texts[first], samples, samples / len(texts), probability)
                for column, value in zip(rows.values(), values, strict=True):
                    column.append(value)
                prompts.append(at)
        return self._beside(build(rows, CLASSES_COLUMNS), np.array(prompts, np.int64))

    def evaluate(
        self, correct: Sequence[Any] | Callable[[pd.Series], bool], *, probability: Sequence[str] = (), **options: Any
    ) -> Evaluation:
        """Compares the measures with whether the answers were right: AUROC, rejection, calibration.

            found.evaluate(lambda row: row["answer"] == truth[row["prompt"]]).frame()

        Args:
            correct: one bool per row of `frame()`, or a function of such a row.
            probability: as in `llmlab.certainty.evaluate`.
            options: as there: confidence, resamples, seed.

        Raises:
            RequestError: `correct` has another length, or an argument is wrong.
        """
        frame = self.frame()
        found = [correct(row) for _, row in frame.iterrows()] if callable(correct) else list(correct)
        if len(found) != len(frame):
            raise RequestError(
                f"correct has {len(found)} values and there are {count(len(frame), 'prompt')}", param="correct"
            )
        return evaluate(frame.assign(correct=found), correct="correct", probability=probability, **options)

    def answer_sets(self, truth: Sequence[str], *, coverage: float = 0.9) -> AnswerSets:
        """Calibrates sets of answers that hold the right one with a stated probability (split conformal prediction).

            sets = calibration.answer_sets(truth, coverage=0.9)
            sets.frame(test)

        These prompts are the calibration set. A set holds the classes whose share of the samples is large enough.

        Args:
            truth: the right answer to each prompt, in the order of `frame()`; it is compared by the equivalence.
            coverage: the probability, between 0 and 1, over calibration sets and new prompts of the same kind.

        Raises:
            RequestError: `truth` has another length, or an argument is wrong.
        """
        return calibrate(
            self.classes_frame(), self.prompt_numbers(), truth, equivalence=self.equivalence, coverage=coverage
        )

    def prompt_numbers(self) -> np.ndarray:
        """The number of the prompt of each row of `classes_frame()`, from 0: int [classes]."""
        sizes = [0 if own is None else int(own.max()) + 1 for own in self._classes]
        return np.repeat(np.arange(len(sizes)), sizes)

    def _classes_of(self, part: pd.DataFrame) -> np.ndarray | None:
        texts = answers_of(part, "text", "certainty")
        return classes_of(texts, self.equivalence) if texts else None

    def _probabilities(self, at: int) -> np.ndarray:
        """The probability of each class of a prompt's answers [classes]; NaN where it is not known."""
        part, classes = self._parts[at], self._classes[at]
        texts = answers_of(part, "text", "certainty")
        values = sample_logprobs(part, "sampling_logprob", "certainty", length_normalised=False)
        if texts is None or classes is None or np.isnan(values).any():
            return np.full(0 if classes is None else int(classes.max()) + 1, np.nan)
        return np.exp(class_logprobs(texts, values, classes, distinct=self._distinct))

    def _measured(self, at: int) -> dict[str, Any]:
        part, classes = self._parts[at], self._classes[at]
        best = None if classes is None else int(np.bincount(classes).argmax())
        first = -1 if best is None or classes is None else int(np.argmax(classes == best))
        tokens, logprob = float(part["tokens"].iloc[first]), float(part["sampling_logprob"].iloc[first])
        same, alike = self.equivalence, self._similarity
        found: dict[str, Any] = {
            "samples": len(part),
            "classes": None if classes is None else int(classes.max()) + 1,
            "answer": None if best is None else part["text"].iloc[first],
            "weighted_semantic_entropy": metrics.semantic_entropy(
                part, equivalence=same, estimate="weighted", distinct=self._distinct
            ),
            "semantic_entropy": metrics.semantic_entropy(part, equivalence=same, distinct=self._distinct),
            "discrete_semantic_entropy": metrics.semantic_entropy(part, equivalence=same, estimate="discrete"),
            "predictive_entropy": metrics.predictive_entropy(part),
            "length_normalised_entropy": metrics.predictive_entropy(part, length_normalised=True),
            "eigenvalue_laplacian": metrics.eigenvalue_laplacian(part, similarity=alike),
            "degree_uncertainty": metrics.degree_uncertainty(part, similarity=alike),
            "sentence_sar": metrics.sentence_sar(part, similarity=alike),
            "self_consistency": metrics.majority_share(part, equivalence=same),
            "lexical_similarity": metrics.lexical_similarity(part, similarity=alike),
            "answer_logprob": np.nan if best is None else logprob,
            "answer_perplexity": np.exp(-logprob / tokens) if best is not None and tokens > 0 else np.nan,
            "answer_probability": np.nan if best is None else float(self._probabilities(at)[best]),
        }
        if self._relevance is not None:
            assert self._tokens is not None
            own = self._tokens[at]
            found["token_sar"] = metrics.token_sar(own, similarity=self._relevance)
            found["sar"] = metrics.sar(own, similarity=alike, relevance=self._relevance)
        return found

    def _beside(self, found: pd.DataFrame, prompts: np.ndarray) -> pd.DataFrame:
        """The columns that tell the prompts apart, then those of a frame; `prompts` are the numbers of its rows'."""
        firsts = np.array([at[0] for at in self._rows], np.int64)
        own = self._samples[self._by].iloc[firsts[prompts]].reset_index(drop=True)
        taken = [name for name in self._by if name in found.columns]
        if taken:
            raise RequestError(f"by has {', '.join(taken)}, a column of the frame of certainty; rename it", param="by")
        return pd.concat([own, found], axis="columns")

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return (
            f"Certainty: {count(len(self), 'prompt')}, {count(len(self._samples), 'sample')}; frame() has the measures"
        )


def measure(
    answers: Any,
    *,
    by: str | Sequence[str] | None = None,
    equivalence: Equivalence = "exact",
    similarity: Similarity = "rouge_l",
    relevance: Similarity | None = None,
    distinct: bool = True,
) -> Certainty:
    """Measures how certain a model is of its answers, from n samples for each prompt; no model is asked.

        results = lab.chat(questions, n=10, temperature=1.0, seed=7)
        llmlab.certainty.measure(results, equivalence="normalised").frame()

    Args:
        answers: a result, a list of results (one per prompt, as `lab.chat` returns them), or a frame of samples with
            the columns text, tokens and sampling_logprob.
        by: of a frame, the column or columns that tell the prompts apart; by default `prompt` if there is one. A list
            of results has the column `prompt`, its number from 0.
        equivalence: which answers are the same: "exact" (without white space around them), "normalised" (also without
            case, punctuation and articles), a function of two texts to a bool, or
            `metrics.cosine(embed, threshold=...)`.
        similarity: how alike two answers are, for lexical_similarity, eigenvalue_laplacian, degree_uncertainty and SAR:
            "rouge_l", "token_f1", "jaccard", or a function of two texts to a number from 0 to 1.
        relevance: the similarity of an answer and the answer without one of its tokens, for token_sar and sar, which
            are measured where this is given; it is asked once per token.
        distinct: as in `metrics.semantic_entropy`.

    Raises:
        RequestError: an argument is wrong, or a column is missing.
    """
    tokens: list[pd.DataFrame] | None = None
    if isinstance(answers, pd.DataFrame):
        names = [by] if isinstance(by, str) else listed("by", _default(answers) if by is None else by, of="columns")
        missing = [name for name in (*names, "text", "tokens", "sampling_logprob") if name not in answers.columns]
        if missing:
            raise RequestError(
                f"certainty reads the columns {', '.join(missing)}, and the frame has "
                f"{', '.join(map(str, answers.columns))}",
                param="answers",
            )
        if relevance is not None:
            raise RequestError("relevance needs the tokens: give results, not a frame", param="relevance")
        samples = answers.reset_index(drop=True)
    else:
        if by is not None:
            raise RequestError("by is for a frame of samples; results are told apart by their number", param="by")
        single = hasattr(answers, "choices")
        results = list(_completions([answers] if single else answers))
        names = [] if single else ["prompt"]
        parts = [samples_frame(one.choices) for one in results]
        tokens = [logprobs_frame(one) for one in results]
        samples = pd.concat(parts or [samples_frame(())], ignore_index=True)
        if not single:
            number = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            samples.insert(0, "prompt", number)
    return Certainty(
        samples, by=names, tokens=tokens, equivalence=equivalence, similarity=similarity, relevance=relevance,
        distinct=distinct,
    )  # fmt: skip


def _default(samples: pd.DataFrame) -> list[str]:
    return ["prompt"] if "prompt" in samples.columns else []


def _completions(answers: Any) -> Iterator[Completion]:
    for one in listed("answers", answers, of="results"):
        found = getattr(one, "data", one)
        if not isinstance(found, Completion):
            raise RequestError(
                f"answers must be a result, a list of results or a frame of samples, got {short(one)}", param="answers"
            )
        if not found.choices:
            raise RequestError("answers has a result without choices", param="answers")
        yield found


def _groups(samples: pd.DataFrame, by: Sequence[str]) -> list[np.ndarray]:
    """The rows of each prompt, in the order of the first ones."""
    if not len(samples):
        return []
    if not by:
        return [np.arange(len(samples))]
    number = samples.groupby(list(by), sort=False, dropna=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
