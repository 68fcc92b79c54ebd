"""The frames of a distribution of answers, and which answers are in an event."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.frames.schema import build, column_kind
from llmlab.search.asked_answers import Found
from llmlab.search.divergence import Bounds, distance
from llmlab.search.explored import Weighed

if TYPE_CHECKING:
    import pandas as pd

    from llmlab.protocol.request import Request

__all__ = ["AnswerFrames", "Classes", "Event"]

#: Some answers: those whose text has a regular expression in it, those that a function of the text is true of, or those
#: with one of some texts.
Event: TypeAlias = str | re.Pattern[str] | Callable[[str], bool] | Collection[str]
#: An event, or several by their names.
Classes: TypeAlias = Event | Mapping[str, Event]

ANSWERS_COLUMNS: dict[str, str] = {
    "rank": "index",
    "text": "text",
    "finish_reason": "text",
    "probability": "number",
    "high": "number",
    "logprob": "number",
    "spellings": "index",
    "tokens": "index",
}
ANSWERS_SUMMARY_COLUMNS: dict[str, str] = {
    "answers": "index",
    "explored": "number",
    "unexplored": "number",
    "cut_off": "number",
}
ANSWERS_PROBABILITY_COLUMNS: dict[str, str] = {"class": "text", "low": "number", "high": "number"}
ANSWERS_BOUNDS_COLUMNS: dict[str, str] = {"class": "text", "passes": "index", "low": "number", "high": "number"}
ANSWERS_CONDITIONAL_COLUMNS: dict[str, str] = {
    "rank": "index",
    "text": "text",
    "finish_reason": "text",
    "probability": "number",
    "free_probability": "number",
    "conditional_low": "number",
    "conditional_high": "number",
    "weight_low": "number",
    "weight_high": "number",
}
ANSWERS_DISTANCE_COLUMNS: dict[str, str] = {
    "fits_low": "number",
    "fits_high": "number",
    "total_variation_low": "number",
    "total_variation_high": "number",
    "kl_low": "number",
    "kl_high": "number",
}
#: The kinds of stages that reweigh the tokens of a step, the same with and without a grammar.
_REWEIGHING = ("logits", "mask", "temperature")
#: The finish reasons of an answer.
_REASONS = ("stop", "length", "tool_calls")


class AnswerFrames:
    """Answers that were found, as frames; `Answers` says what their columns are.

    Args:
        found: what was found.
    """

    def __init__(self, found: Found) -> None:
        self._found, self._explored = found, found.explored
        points = found.settings.points
        #: Of each setting: the values of the varied fields, and what it says of the answers.
        self.cells: list[tuple[dict[str, Any], Weighed]] = list(zip(points, found.weighed[: len(points)], strict=True))

    @cached_property
    def classes(self) -> list[tuple[str, str]]:
        """The different answers: texts with their finish reasons."""
        return list(dict.fromkeys(zip(self._explored.text, self._explored.finish_reason, strict=True)))

    def answers(self) -> pd.DataFrame:
        """One row per setting and answer."""
        rows: list[dict[str, Any]] = []
        for point, weighed in self.cells:
            total = self._totals(weighed.probability)
            count = self._totals((weighed.probability > 0).astype(float))
            best = self._best(weighed.logprob)
            for rank, at in enumerate(_ranked(total), start=1):
                text, reason = self.classes[at]
                rows.append(
                    point | {
                        "rank": rank, "text": text, "finish_reason": reason, "probability": total[at],
                        "high": min(1.0, total[at] + weighed.left), "logprob": float(np.log(total[at])),
                        "spellings": int(count[at]), "tokens": len(self._explored.ids(best[at])),
                    }
                )  # fmt: skip
        return self._built(rows, ANSWERS_COLUMNS)

    def summary(self) -> pd.DataFrame:
        """One row per setting."""
        length, rows = np.array([reason == "length" for reason in self._explored.finish_reason], bool), []
        for point, weighed in self.cells:
            p = weighed.probability
            values = [int((self._totals(p) > 0).sum()), float(p.sum()), weighed.left, float(p[length].sum())]
            rows.append(point | dict(zip(ANSWERS_SUMMARY_COLUMNS, values, strict=True)))
        return self._built(rows, ANSWERS_SUMMARY_COLUMNS)

    def probability(self, classes: Classes) -> pd.DataFrame:
        """One row per setting and class."""
        inside, rows = self._named(classes), []
        for point, weighed in self.cells:
            rows += [point | {"class": name} | bounds(weighed, some)._asdict() for name, some in inside.items()]
        return self._built(rows, ANSWERS_PROBABILITY_COLUMNS)

    def begins(self, classes: Mapping[str, Sequence[Bounds]]) -> pd.DataFrame:
        """One row per setting and class; each class has bounds under each setting."""
        rows = [
            point | {"class": name} | own[at]._asdict()
            for at, (point, _) in enumerate(self.cells)
            for name, own in classes.items()
        ]
        return self._built(rows, ANSWERS_PROBABILITY_COLUMNS)

    def bounds(self, classes: Classes) -> pd.DataFrame:
        """One row per setting, class and pass."""
        inside, passes, rows = self._named(classes), self._explored.passes, []
        when = self._explored.found_at - 1
        for point, weighed in self.cells:
            p = weighed.probability
            found = np.cumsum(np.bincount(when, p, minlength=passes))
            left = weighed.left + (found[-1] - found)
            for name, some in inside.items():
                low = np.cumsum(np.bincount(when[some], p[some], minlength=passes))
                rows += [
                    point | {"class": name, "passes": at + 1, "low": low[at], "high": min(1.0, low[at] + left[at])}
                    for at in range(passes)
                ]
        return self._built(rows, ANSWERS_BOUNDS_COLUMNS)

    def conditional(self) -> pd.DataFrame:
        """One row per setting and answer that fits the grammar."""
        rows = []
        for (point, weighed), own in zip(self.cells, self._free, strict=True):
            q, p = self._totals(self._fitting(weighed)), self._totals(self._fitting(own))
            low, high = float(p.sum()), min(1.0, float(p.sum()) + own.left)
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.stack([p / high, np.minimum(p / low, 1.0)])
                weight = share / q
            for rank, at in enumerate(_ranked(np.maximum(q, p)), start=1):
                text, reason = self.classes[at]
                values = [q[at], p[at], *share[:, at], *weight[:, at]]
                named = dict(zip(list(ANSWERS_CONDITIONAL_COLUMNS)[3:], map(float, values), strict=True))
                rows.append(point | {"rank": rank, "text": text, "finish_reason": reason} | named)
        return self._built(rows, ANSWERS_CONDITIONAL_COLUMNS)

    def distance(self) -> pd.DataFrame:
        """One row per setting: how far a grammar's distribution is from the model's own fitting answers."""
        rows = []
        for (point, weighed), own, request in zip(self.cells, self._free, self._found.settings.requests, strict=True):
            found = distance(
                weighed.probability, self._fitting(own), q_left=weighed.left, p_left=own.left,
                renormalised=_reweighs(request),
            )  # fmt: skip
            values = [side for sides in found for side in sides]
            rows.append(point | dict(zip(ANSWERS_DISTANCE_COLUMNS, values, strict=True)))
        return self._built(rows, ANSWERS_DISTANCE_COLUMNS)

    def inside(self, event: Event | None, *, finish_reason: str | None = None) -> np.ndarray:
        """Which of the token sequences that were found are in an event [A].

        Raises:
            RequestError: it is no event, or no finish reason.
        """
        if finish_reason is not None and finish_reason not in _REASONS:
            raise RequestError(
                f"finish_reason must be one of {', '.join(_REASONS)}, got {short(finish_reason)}", param="finish_reason"
            )
        holds = _test(event)
        known = {text: holds(text) for text in dict.fromkeys(self._explored.text)}
        some = [
            known[text] and finish_reason in (None, reason)
            for text, reason in zip(self._explored.text, self._explored.finish_reason, strict=True)
        ]
        return np.array(some, bool)

    def _named(self, classes: Classes) -> dict[str, np.ndarray]:
        if isinstance(classes, Mapping):
            if not classes:
                raise RequestError("classes is empty: give at least one event", param="classes")
            return {str(name): self.inside(event) for name, event in classes.items()}
        name = classes if isinstance(classes, str) else getattr(classes, "pattern", "event")
        return {name: self.inside(classes)}

    @property
    def _free(self) -> tuple[Weighed, ...]:
        if not self._found.has_grammar:
            raise RequestError(
                "the request has no grammar to compare the model with: give response_format or structured_outputs"
            )
        return self._found.weighed[len(self.cells) :]

    @cached_property
    def _class_of(self) -> np.ndarray:
        number = {one: at for at, one in enumerate(self.classes)}
        each = zip(self._explored.text, self._explored.finish_reason, strict=True)
        return np.array([number[one] for one in each], np.int64)

    def _totals(self, values: np.ndarray) -> np.ndarray:
        """The sums of the values of each class's sequences."""
        return np.bincount(self._class_of, values, minlength=len(self.classes))

    def _best(self, logprob: np.ndarray) -> dict[int, int]:
        """The most likely sequence of each class."""
        found: dict[int, int] = {}
        for at in np.argsort(-logprob, kind="stable").tolist():
            found.setdefault(int(self._class_of[at]), at)
        return found

    def _fitting(self, weighed: Weighed) -> np.ndarray:
        """The probabilities of the answers that ended by themselves; an answer that was cut off does not fit."""
        return np.where(self._explored.ended, weighed.probability, 0.0)

    def _built(self, rows: list[dict[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
        kinds = {name: column_kind(name) for name in self._found.settings.axes} | dict(columns)
        return build({name: [row[name] for row in rows] for name in kinds}, kinds)


def bounds(weighed: Weighed, inside: np.ndarray) -> Bounds:
    """Bounds of the probability of an event that has some of the sequences that were found."""
    low = min(1.0, float(weighed.probability[inside].sum()))
    return Bounds(low, min(1.0, low + weighed.left))


def _ranked(total: np.ndarray) -> list[int]:
    return [int(at) for at in np.argsort(-total, kind="stable") if total[at] > 0]


def _reweighs(request: Request) -> bool:
    """Whether a request's sampler weighs the tokens of a step alike with and without a grammar."""
    from llmlab.sampling.library import LIBRARY
    from llmlab.sampling.stages import STAGES

    return all(
        stage.kind in _REWEIGHING or all(getattr(request, one.name) == one.default for one in stage.fields)
        for stage in (*STAGES, *LIBRARY)
    )


def _test(event: Any) -> Callable[[str], bool]:
    """Whether an answer's text is in an event."""
    if event is None:
        return lambda text: True
    if isinstance(event, str | re.Pattern):
        try:
            pattern = re.compile(event)
        except re.error as bad:
            raise RequestError(f"event = {short(event)} is no regular expression: {bad}", param="event") from None
        return lambda text: pattern.search(text) is not None
    if callable(event):
        return lambda text: bool(event(text))
    if isinstance(event, Collection) and all(isinstance(text, str) for text in event):
        texts = frozenset(event)
        return texts.__contains__
    raise RequestError(
        f"event must be a regular expression, a function of the text, or a collection of texts, got {short(event)}",
        param="event",
    )
