"""Is the model calibrated? Its probability of whole answers against laws that are known."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmlab import metrics
from llmlab.counterfactuals.score import check_given
from llmlab.display.progress import progress_bar
from llmlab.errors import RequestError, short
from llmlab.frames.schema import build
from llmlab.protocol.arguments import listed, whole
from llmlab.protocol.backend import GivenTokens, LogitsBackend

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.lab.lab import Lab

CALIBRATION_COLUMNS: dict[str, str] = {
    "prompt": "index",
    "law": "text",
    "answer": "text",
    "truth": "number",
    "model": "number",
    "logprob": "number",
}
LAWS_COLUMNS: dict[str, str] = {
    "law": "text",
    "prompts": "index",
    "answers": "index",
    "kl": "number",
    "total_variation": "number",
    "elsewhere": "number",
    "entropy": "number",
}


class Truth(NamedTuple):
    """A prompt whose answers have a known law."""

    messages: Any
    distribution: Mapping[str, float]
    law: str


@dataclass(frozen=True, eq=False)
class Calibration:
    """A model's probability of every answer of laws that are known.

    Attributes:
        answers: see `frame`.
        model: who was asked.
    """

    answers: pd.DataFrame
    model: str

    def frame(self) -> pd.DataFrame:
        """One row an answer of a prompt.

        Columns: prompt (its number), law (its name), answer, truth (its probability), model (the model's probability
        of that whole text and of ending there), logprob (its logarithm).
        """
        return self.answers.copy()

    def laws(self) -> pd.DataFrame:
        """One row a law, its prompts averaged, the worst fit first.

        Columns: law, prompts, answers (of a prompt), kl (KL(truth || model), nats), total_variation, elsewhere (the
        model's probability of anything but the law's answers), entropy (the truth's, nats).
        """
        rows: dict[str, list[Any]] = {name: [] for name in LAWS_COLUMNS}
        for law, part in self.answers.groupby("law", sort=False):
            each = [one for _, one in part.groupby("prompt", sort=False)]
            truths = [one["truth"].to_numpy(np.float64) for one in each]
            found = {
                "law": law,
                "prompts": len(each),
                "answers": max(len(one) for one in each),
                "kl": np.mean([metrics.kl_divergence(one, p="truth", q="model") for one in each]),
                "total_variation": np.mean([metrics.total_variation(one, p="truth", q="model") for one in each]),
                # Under a cut that leaves only a law's answers, float32 sums to a little more than 1.
                "elsewhere": np.mean([max(0.0, 1 - one["model"].sum()) for one in each]),
                "entropy": np.mean([-(p @ np.log(p)) for p in truths]),
            }
            for name in LAWS_COLUMNS:
                rows[name].append(found[name])
        frame = build(rows, LAWS_COLUMNS)
        return frame.sort_values("kl", ascending=False, kind="stable", ignore_index=True)

    @property
    def kl(self) -> float:
        """The mean over laws of KL(truth || model), in nats."""
        return float(self.laws()["kl"].mean())

    @property
    def total_variation(self) -> float:
        """The mean over laws of the total variation."""
        return float(self.laws()["total_variation"].mean())

    def ece(self, *, bins: int = 10) -> float:
        """The expected calibration error of the model's likeliest answer of each prompt: what it is said to be worth,
        against how often it is right. Source: see `metrics.expected_calibration_error`.
        """
        bins = whole("bins", bins, least=1)
        best = self.answers.loc[self.answers.groupby("prompt", sort=False)["model"].idxmax()]
        return metrics.expected_calibration_error(best, confidence="model", correct="truth", bins=bins)

    def classwise_ece(self, *, bins: int = 10) -> float:
        """The same over every answer of every prompt, each a prediction of its own.

        Source: Kull, Perello-Nieto, Kaengsepp, Silva Filho, Song, Flach 2019, "Beyond temperature scaling".
        """
        bins = whole("bins", bins, least=1)
        return metrics.expected_calibration_error(self.answers, confidence="model", correct="truth", bins=bins)

    def reliability(self, *, bins: int = 10) -> pd.DataFrame:
        """One row a bin of the model's probability that has answers: low, high, answers, model, truth (both means)."""
        bins = whole("bins", bins, least=1)
        said, right = (self.answers[name].to_numpy(np.float64) for name in ("model", "truth"))
        which = metrics.calibration_bins(said, bins=bins)
        there = np.unique(which)
        columns = {
            "low": there / bins,
            "high": (there + 1) / bins,
            "answers": [int((which == at).sum()) for at in there],
            "model": [said[which == at].mean() for at in there],
            "truth": [right[which == at].mean() for at in there],
        }
        return build(columns, {name: "index" if name == "answers" else "number" for name in columns})

    def plot(self, *, bins: int = 10, ax: Axes | None = None) -> Axes:
        """Truth against the model's probability, answer by answer; see `llmlab.plots.check.plot_calibration`."""
        from llmlab.plots.check import plot_calibration

        return plot_calibration(self, bins=bins, ax=ax)

    @property
    def size(self) -> str:
        """How many laws and prompts were compared, in words."""
        counts = {name: self.answers[name].nunique() for name in ("law", "prompt")}
        return ", ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items())

    def __repr__(self) -> str:
        answers = f"{len(self.answers):,} answer{'' if len(self.answers) == 1 else 's'}"
        return (
            f"Calibration: {self.model} · {self.size}, {answers} · "
            f"KL(truth || model) {self.kl:.4f} nats · total variation {self.total_variation:.4f} · "
            f"calibration error {self.ece():.4f} (likeliest answer), {self.classwise_ece():.4f} (every answer)"
        )

    def _repr_html_(self) -> str:
        return f"<div>{escape(repr(self))}</div>{self.laws().head(10).to_html()}"


def calibration(
    lab: Lab,
    truth: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None,
    *,
    prompts_per_law: int | None,
    fields: Mapping[str, Any],
) -> Calibration:
    """What `Lab.check_calibration` does."""
    backend = lab.backend
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{backend.name} is an endpoint that scores no given answers; llmlab.load a model for that")
    for name in ("messages", "prompt"):
        if fields.get(name) is not None:
            raise RequestError(f"{name} are the truth's: each of its entries has its own", param=name)
    check_given(fields)
    rows = chosen(read_truth(truth), prompts_per_law=prompts_per_law)
    columns: dict[str, list[Any]] = {name: [] for name in CALIBRATION_COLUMNS}
    with progress_bar(total=len(rows), unit="prompt", description="calibration") as bar:
        for number, row in enumerate(rows):
            request = lab.request(row.messages, **fields)
            for (answer, probability), logprob in zip(
                row.distribution.items(), _logprobs(backend, request, list(row.distribution)), strict=True
            ):
                found = (number, row.law, answer, probability, math.exp(logprob), logprob)
                for name, value in zip(CALIBRATION_COLUMNS, found, strict=True):
                    columns[name].append(value)
            bar.update(1)
    return Calibration(build(columns, CALIBRATION_COLUMNS), backend.name)


def read_truth(truth: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None) -> list[Truth]:
    """Prompts with known laws: the embedded model's, those of a JSON-lines file, or as they are given.

    Raises:
        RequestError: one has no messages or no distribution that sums to 1; the message says which.
    """
    if truth is None:
        from llmlab.checkpoints.hub import demo_folder

        truth = demo_folder() / "truth.jsonl"
    if isinstance(truth, str | os.PathLike):
        lines = Path(truth).expanduser().read_text("utf-8").splitlines()
        try:
            rows = [json.loads(line) for line in lines if line.strip()]
        except json.JSONDecodeError as error:
            raise RequestError(f"{truth} is not JSON lines: {error}", param="truth") from None
    else:
        records: Any = getattr(truth, "to_dict", None) if hasattr(truth, "columns") else None  # a frame of them
        rows = listed("truth", truth if records is None else records("records"), of="prompts with their laws")
    if not rows:
        raise RequestError("truth holds no prompt at all", param="truth")
    return [_checked(row, number) for number, row in enumerate(rows)]


def chosen(rows: Sequence[Truth], *, prompts_per_law: int | None) -> list[Truth]:
    """The first so many prompts of each law, in their order."""
    if prompts_per_law is None:
        return list(rows)
    prompts_per_law = whole("prompts_per_law", prompts_per_law, least=1)
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        seen[row.law] = seen.get(row.law, 0) + 1
        if seen[row.law] <= prompts_per_law:
            found.append(row)
    return found


def _checked(row: Any, number: int) -> Truth:
    where = f"truth[{number}]"
    if not isinstance(row, Mapping) or "messages" not in row or "distribution" not in row:
        raise RequestError(f"{where} needs messages and a distribution, got {short(row)}", param="truth")
    law = row["distribution"]
    if (
        not isinstance(law, Mapping)
        or not all(isinstance(answer, str) for answer in law)
        or not all(isinstance(p, int | float) and not isinstance(p, bool) and 0 < p <= 1 for p in law.values())
    ):
        raise RequestError(f"{where}.distribution must map answers to probabilities, got {short(law)}", param="truth")
    if abs(sum(law.values()) - 1) > 1e-6:
        raise RequestError(f"{where}.distribution sums to {sum(law.values()):.6g}, not to 1", param="truth")
    return Truth(row["messages"], law, str(row.get("law", f"law {number}")))


def _logprobs(backend: LogitsBackend, request: Any, answers: Sequence[str]) -> list[float]:
    """The log-probability of each answer, to its end: under any of the tokens that end one."""
    bodies = [backend.encode(answer) for answer in answers]
    given = [
        GivenTokens(index, np.array([*body, end], np.int32))
        for index, (body, end) in enumerate((body, end) for body in bodies for end in backend.end_ids)
    ]
    scored = backend.score(request, given, seed=0).choices
    each = np.array([choice.tokens.sampling_logprob.astype(np.float64).sum() for choice in scored])
    found: list[float] = np.logaddexp.reduce(each.reshape(len(answers), -1), axis=1).tolist()
    return found
