"""Compares the model's probabilities of whole answers with distributions that are known: is the model calibrated?"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmlab import metrics
from llmlab.counterfactuals.score import check_given
from llmlab.display.html import Markup, fragment
from llmlab.display.progress import progress_bar
from llmlab.embedded import demo_truth
from llmlab.errors import RequestError, short
from llmlab.frames.schema import build
from llmlab.protocol.arguments import listed, whole
from llmlab.protocol.backend import Backend, GivenTokens, LogitsBackend
from llmlab.protocol.request import Request
from llmlab.text.numbers import count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CALIBRATION_COLUMNS: dict[str, str] = {
    "prompt": "index",
    "distribution": "text",
    "answer": "text",
    "truth": "number",
    "model": "number",
    "logprob": "number",
}
PROMPTS_COLUMNS: dict[str, str] = {
    "distribution": "text",
    "prompts": "index",
    "answers": "index",
    "kl": "number",
    "total_variation": "number",
    "elsewhere": "number",
    "entropy": "number",
}


class Truth(NamedTuple):
    """A prompt whose answers have a known distribution.

    Attributes:
        messages: the prompt, as `Lab.request` takes it.
        distribution: whole answer -> probability.
        name: the name of the distribution; several prompts may ask for draws from the same one.
    """

    messages: Any
    distribution: Mapping[str, float]
    name: str


@dataclass(frozen=True, eq=False)
class Calibration:
    """A model's probability of every answer whose true probability is known.

    Attributes:
        answers: see `frame`.
        model: the model's name.
    """

    answers: pd.DataFrame
    model: str

    def frame(self) -> pd.DataFrame:
        """One row per answer of each prompt.

        Columns: prompt (its number), distribution (its name), answer, truth (the true probability), model (the model's
        probability of exactly this text, followed by an end token), logprob (the logarithm of `model`).
        """
        return self.answers.copy()

    def prompts_frame(self) -> pd.DataFrame:
        """One row per distribution, averaged over its prompts; the worst fit comes first.

        Columns: distribution (its name), prompts, answers (per prompt), kl (KL(truth || model), in nats),
        total_variation, elsewhere (the model's probability of all other answers), entropy (of the truth, in nats).
        """
        rows: dict[str, list[Any]] = {name: [] for name in PROMPTS_COLUMNS}
        for distribution, part in self.answers.groupby("distribution", sort=False):
            each = [one for _, one in part.groupby("prompt", sort=False)]
            truths = [one["truth"].to_numpy(np.float64) for one in each]
            found = {
                "distribution": distribution,
                "prompts": len(each),
                "answers": max(len(one) for one in each),
                "kl": np.mean([metrics.kl_divergence(one, p="truth", q="model") for one in each]),
                "total_variation": np.mean([metrics.total_variation(one, p="truth", q="model") for one in each]),
                # If truncation leaves only the listed answers, their float32 probabilities sum to a little more than 1.
                "elsewhere": np.mean([max(0.0, 1 - one["model"].sum()) for one in each]),
                "entropy": np.mean([-(p @ np.log(p)) for p in truths]),
            }
            for name in PROMPTS_COLUMNS:
                rows[name].append(found[name])
        frame = build(rows, PROMPTS_COLUMNS)
        return frame.sort_values("kl", ascending=False, kind="stable", ignore_index=True)

    @property
    def kl(self) -> float:
        """The mean over distributions of KL(truth || model), in nats."""
        return float(self.prompts_frame()["kl"].mean())

    @property
    def total_variation(self) -> float:
        """The mean over distributions of the total variation distance."""
        return float(self.prompts_frame()["total_variation"].mean())

    def ece(self, *, bins: int = 10) -> float:
        """The expected calibration error of the most likely answer to each prompt, in `bins` bins of equal width.

        It compares the model's probability of that answer with the true one. Source: see
        `metrics.expected_calibration_error`.
        """
        bins = whole("bins", bins, least=1)
        best = self.answers.loc[self.answers.groupby("prompt", sort=False)["model"].idxmax()]
        return metrics.expected_calibration_error(best, confidence="model", correct="truth", bins=bins)

    def classwise_ece(self, *, bins: int = 10) -> float:
        """The expected calibration error over all answers to all prompts, each of them a prediction of its own.

        Source: Kull, Perello-Nieto, Kaengsepp, Silva Filho, Song, Flach 2019, "Beyond temperature scaling".
        """
        bins = whole("bins", bins, least=1)
        return metrics.expected_calibration_error(self.answers, confidence="model", correct="truth", bins=bins)

    def reliability_frame(self, *, bins: int = 10) -> pd.DataFrame:
        """One row per bin of the model's probability that contains answers.

        Columns: low, high (the ends of the bin), answers (how many), model, truth (the means of both probabilities).
        """
        bins = whole("bins", bins, least=1)
        model, truth = (self.answers[name].to_numpy(np.float64) for name in ("model", "truth"))
        which = metrics.calibration_bins(model, bins=bins)
        used = np.unique(which)
        columns = {
            "low": used / bins,
            "high": (used + 1) / bins,
            "answers": [int((which == at).sum()) for at in used],
            "model": [model[which == at].mean() for at in used],
            "truth": [truth[which == at].mean() for at in used],
        }
        return build(columns, {name: "index" if name == "answers" else "number" for name in columns})

    def plot(self, *, bins: int = 10, ax: Axes | None = None) -> Axes:
        """Plots the true against the model's probability of each answer; see `llmlab.plots.check.plot_calibration`."""
        from llmlab.plots.check import plot_calibration

        note = (
            f"KL {self.kl:.4f} nats\ntotal variation {self.total_variation:.3f}\n"
            f"calibration error {self.ece(bins=bins):.3f}, every answer {self.classwise_ece(bins=bins):.3f}"
        )
        return plot_calibration(
            self.frame(), self.reliability_frame(bins=bins), heading=f"{self.model}: {self.size}", note=note, ax=ax
        )

    @property
    def size(self) -> str:
        """The numbers of distributions and prompts, in words."""
        return ", ".join(count(self.answers[name].nunique(), name) for name in ("distribution", "prompt"))

    def __repr__(self) -> str:
        return (
            f"Calibration: {self.model} · {self.size}, {count(len(self.answers), 'answer')} · "
            f"KL(truth || model) {self.kl:.4f} nats · total variation {self.total_variation:.4f} · "
            f"calibration error {self.ece():.4f} (most likely answer), {self.classwise_ece():.4f} (every answer)"
        )

    def _repr_html_(self) -> str:
        return str(fragment("<div>{}</div>{}", repr(self), Markup(self.prompts_frame().head(10).to_html())))


def check_calibration(
    backend: Backend,
    truth: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None,
    *,
    request: Callable[..., Request],
    prompts_per_distribution: int | None,
    fields: Mapping[str, Any],
) -> Calibration:
    """Compute the model's probability of every answer by teacher forcing; see `Lab.check_calibration`.

    Args:
        backend: the model to ask.
        truth: as in `read_truth`.
        request: makes one validated request of messages and fields, as `Lab.request` does.
        prompts_per_distribution: as in `chosen`.
        fields: the request's fields, the same for each prompt.

    Raises:
        RequestError: an argument is wrong; the backend cannot score given answers.
    """
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{backend.name} is an endpoint that scores no given answers; llmlab.load a model for that")
    for name in ("messages", "prompt"):
        if fields.get(name) is not None:
            raise RequestError(f"{name} cannot be given here: each entry of truth has its own", param=name)
    check_given(fields)
    rows = chosen(read_truth(truth), prompts_per_distribution=prompts_per_distribution)
    columns: dict[str, list[Any]] = {name: [] for name in CALIBRATION_COLUMNS}
    with progress_bar(total=len(rows), unit="prompt", description="calibration") as bar:
        for number, row in enumerate(rows):
            logprobs = _answer_logprobs(backend, request(row.messages, **fields), list(row.distribution))
            for (answer, probability), logprob in zip(row.distribution.items(), logprobs, strict=True):
                found = (number, row.name, answer, probability, math.exp(logprob), logprob)
                for name, value in zip(CALIBRATION_COLUMNS, found, strict=True):
                    columns[name].append(value)
            bar.update(1)
    return Calibration(build(columns, CALIBRATION_COLUMNS), backend.name)


def read_truth(truth: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None) -> list[Truth]:
    """The prompts whose answers have a known distribution.

    Args:
        truth: a list of dicts, a frame with the same columns, or a file of JSON lines. Each has `messages`, a
            `distribution` (whole answer -> probability) and perhaps the `name` of the distribution. None takes the
            embedded model's.

    Raises:
        RequestError: an entry has no messages, or no distribution that sums to 1; the message says which one.
    """
    if truth is None:
        truth = demo_truth()
    if isinstance(truth, str | os.PathLike):
        lines = Path(truth).expanduser().read_text("utf-8").splitlines()
        try:
            rows = [json.loads(line) for line in lines if line.strip()]
        except json.JSONDecodeError as error:
            raise RequestError(f"{truth} is not JSON lines: {error}", param="truth") from None
    else:
        records: Any = getattr(truth, "to_dict", None) if hasattr(truth, "columns") else None  # of a frame
        rows = listed("truth", truth if records is None else records("records"), of="prompts with distributions")
    if not rows:
        raise RequestError("truth is empty: give at least one prompt with a distribution", param="truth")
    return [_checked(row, number) for number, row in enumerate(rows)]


def chosen(rows: Sequence[Truth], *, prompts_per_distribution: int | None) -> list[Truth]:
    """The first `prompts_per_distribution` prompts of each distribution, in order; None keeps all."""
    if prompts_per_distribution is None:
        return list(rows)
    most = whole("prompts_per_distribution", prompts_per_distribution, least=1)
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        seen[row.name] = seen.get(row.name, 0) + 1
        if seen[row.name] <= most:
            found.append(row)
    return found


def _checked(row: Any, number: int) -> Truth:
    where = f"truth[{number}]"
    if not isinstance(row, Mapping) or "messages" not in row or "distribution" not in row:
        raise RequestError(f"{where} needs messages and a distribution, got {short(row)}", param="truth")
    given = row["distribution"]
    if (
        not isinstance(given, Mapping)
        or not all(isinstance(answer, str) for answer in given)
        or not all(isinstance(p, int | float) and not isinstance(p, bool) and 0 < p <= 1 for p in given.values())
    ):
        raise RequestError(f"{where}.distribution must map answers to probabilities, got {short(given)}", param="truth")
    if abs(sum(given.values()) - 1) > 1e-6:
        raise RequestError(f"{where}.distribution sums to {sum(given.values()):.6g}, not to 1", param="truth")
    return Truth(row["messages"], given, str(row.get("name", f"distribution {number}")))


def _answer_logprobs(backend: LogitsBackend, request: Request, answers: Sequence[str]) -> list[float]:
    """The logprob of each whole answer: of its text followed by any one of the end tokens."""
    bodies = [backend.encode(answer) for answer in answers]
    given = [
        GivenTokens(index, np.array([*body, end], np.int32))
        for index, (body, end) in enumerate((body, end) for body in bodies for end in backend.end_ids)
    ]
    scored = backend.score(request, given, seed=0).choices
    each = np.array([choice.tokens.sampling_logprob.astype(np.float64).sum() for choice in scored])
    found: list[float] = np.logaddexp.reduce(each.reshape(len(answers), -1), axis=1).tolist()
    return found
