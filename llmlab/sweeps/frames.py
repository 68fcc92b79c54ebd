"""The frames of a sweep: its completions, means with intervals, its samples, and how certain the model is of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from llmlab.metrics import Metric
from llmlab.protocol.completion import Completion
from llmlab.sweeps.grid import Cell, Grid

if TYPE_CHECKING:
    import pandas as pd

    from llmlab.certainty.measure import Certainty
    from llmlab.metrics import Equivalence, Similarity


class SweepFrames:
    """The finished cells of a grid of requests, as frames; a `Sweep` is one.

    Args:
        grid: the cells.
        completions: index of a finished cell -> its answer.
        metrics: name -> function of one completion's `logprobs_frame()`; each is a column of `frame()`.
    """

    def __init__(
        self, grid: Grid, completions: Mapping[int, Completion], *, metrics: Mapping[str, Metric] | None = None
    ) -> None:
        self.grid = grid
        self.completions = dict(sorted(completions.items()))
        self._metrics = dict(metrics or {})
        self._frame: pd.DataFrame | None = None

    @property
    def axes(self) -> Mapping[str, tuple[Any, ...]]:
        """The swept parameters and their values. A list of prompts is the axis "prompt": their texts, or labels."""
        return self.grid.axes

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The finished cells, in the order of `results`."""
        return tuple(self.grid.cells[index] for index in self.completions)

    def frame(self, *, metrics: Mapping[str, Metric] | None = None) -> pd.DataFrame:
        """One row per completion, with what was swept and statistics of the answer.

        Columns: the swept parameters, choice, seed, text, finish_reason, tokens, mean_logprob, perplexity,
        mean_entropy, distinct_1, distinct_2, lacks_end, and one column per metric. If the requests have tools,
        `tool_calls` comes after `text`: the calls as a JSON list of names and arguments, missing if there are none.

        The statistics are over all generated tokens, including the end token. Endpoints other than llmlab's own do not
        list it: `lacks_end` is true in rows whose statistics are over the other tokens, so that they cannot be compared
        with those of a local model. mean_logprob and perplexity are of the raw distribution, before the sampler's
        stages; distinct_1 and distinct_2 count n-grams of token ids, and fall with the length of a completion
        (`metrics.distinct_n(among=...)` does not). `lab.chat` with the parameters and the `seed` of a row, and with n
        above its `choice`, gives the same completion again.

        Args:
            metrics: name -> function of one completion's `logprobs_frame()`, in place of the sweep's own metrics.

        Raises:
            RequestError: a metric failed or did not return a number; the message names it.
        """
        if metrics is not None:
            from llmlab.sweeps.table import check_metrics

            return self._with(check_metrics(metrics, self.axes))
        if self._frame is None:
            self._frame = self._with(self._metrics)
        return self._frame.copy()

    def _with(self, metrics: Mapping[str, Metric]) -> pd.DataFrame:
        from llmlab.sweeps.table import sweep_frame

        return sweep_frame(self.grid, list(zip(self.cells, self.completions.values(), strict=True)), metrics=metrics)

    def summary_frame(
        self,
        columns: str | Sequence[str] | None = None,
        *,
        by: str | Sequence[str] | None = None,
        metrics: Mapping[str, Metric] | None = None,
        over: Literal["completions", "prompts"] = "completions",
        confidence: float = 0.95,
        resamples: int = 2_000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """One row per group of cells and metric: the mean over the group, with a confidence interval.

        Columns: those of `by`, metric, completions (how many have a value), value, low, high.

        For a column of `frame()` the interval is the percentile interval of the bootstrap. It is too short when there
        are few completions: in a simulation of 95% intervals, 89% of those from 8 normal values contained the mean, 93%
        from 16, and 94% from 32 (of exponential values: 84%, 88% and 92%). Where all values are equal it has no length,
        which says no more than that they are equal. A metric of `lab.sweep(metrics=...)` all of whose values are 0 or 1
        has Wilson's interval instead, which keeps its level with few completions.

        One of `metrics` is computed for each cell; its value is the mean over the cells of the group. If it is a share
        of completions its interval is Wilson's too, and otherwise the jackknife's, which is symmetric, so that it may
        reach beyond the values that the metric can have. Where cells share their noise, the same choices are resampled
        or left out in all of them. What a metric of many completions is may depend on their number (see
        `llmlab.metrics`): each cell has completions / cells of them.

        Args:
            columns: columns of `frame()`; by default all columns with statistics.
            by: the parameters to group by; by default all of them, so that each cell is a group (with over="prompts":
                all except the prompts).
            metrics: name -> function of the rows of `frame()` of one cell, such as `metrics.pairwise_bleu`.
            over: what varies in the population that the interval is about: other completions of these prompts, or other
                prompts (give at least a dozen prompts for that).
            confidence: the confidence level of the intervals, between 0 and 1.
            resamples: the number of bootstrap resamples.
            seed: of the resamples; the same seed gives the same intervals.

        Raises:
            RequestError: a name is unknown; a metric failed or did not return a number.
        """
        from llmlab.sweeps.table import sweep_summary

        return sweep_summary(
            self.frame(), self.grid, columns, by=by, own=list(self._metrics), metrics=metrics, over=over,
            confidence=confidence, resamples=resamples, seed=seed,
        )  # fmt: skip

    def samples_frame(self) -> pd.DataFrame:
        """One row per completion, with the log-probability of the whole answer: a frame of samples.

        Columns: the swept parameters, then those of `Result.samples_frame`.
        """
        from llmlab.sweeps.table import sweep_samples

        return sweep_samples(self.grid, list(zip(self.cells, self.completions.values(), strict=True)))

    def certainty(
        self,
        *,
        equivalence: Equivalence = "exact",
        similarity: Similarity = "rouge_l",
        relevance: Similarity | None = None,
        distinct: bool = True,
    ) -> Certainty:
        """Measures how certain the model is of its answer in each finished cell, from its completions as samples.

            lab.sweep(questions, temperature=[0.5, 1.0], n=10).certainty(equivalence="normalised").frame()

        The arguments are those of `llmlab.certainty.measure`. No model is asked.
        """
        from llmlab.certainty.measure import Certainty
        from llmlab.frames.tokens import logprobs_frame

        return Certainty(
            self.samples_frame(), by=list(self.grid.columns),
            tokens=[logprobs_frame(completion) for completion in self.completions.values()],
            equivalence=equivalence, similarity=similarity, relevance=relevance, distinct=distinct,
        )  # fmt: skip
