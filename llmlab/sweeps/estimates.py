"""A sweep's methods that estimate what was not run, and differences between what was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmlab.errors import RequestError
from llmlab.metrics import Metric
from llmlab.protocol.signatures import SAMPLING_FIELDS, shows_fields
from llmlab.results.result import Asker
from llmlab.sweeps.frames import SweepFrames

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Estimates"]


class Estimates(SweepFrames):
    """The answers to a grid of requests, as far as estimates need them; a `Sweep` is one."""

    _asker: Asker | None

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def reweight_frame(
        self,
        columns: str | Sequence[str] | None = None,
        *,
        metrics: Mapping[str, Metric] | None = None,
        confidence: float = 0.95,
        **fields: Any,
    ) -> pd.DataFrame:
        """What metrics would be under settings of the sampler that were not run, from the answers that there are.

            swept = lab.sweep("Tell me a story.", temperature=[0.7, 1.0], n=64, max_tokens=30, seed=1)
            swept.reweight_frame("distinct_2", temperature=[0.6, 0.8, 0.9, 1.1])

        Each answer's probability under every setting is known exactly: one pass of the model over it says them all. So
        the answers are weighed by the ratio of their probability under the settings asked about to that under the
        mixture of all settings that were run (self-normalized importance sampling). A value is refused, with NaN and a
        reason, where answers that could be drawn there could not be drawn here (`missing` is their probability), where
        the weights leave fewer than 8 effective answers to a prompt, or where too few answers have most of the weight
        (by the tail's shape `pareto_k`, unless half of the answers are effective).

        Columns: the fields asked about (and the swept ones, as swept), metric, completions, value, low, high, effective
        (how many unweighted answers would be as good), pareto_k, missing, problem ("" where there is none). `missing`
        is estimated too. Metrics of `sampling_*` columns are those of the settings that were run.

        Args:
            columns: columns of `frame()`; by default all with statistics.
            metrics: name -> function of one completion's `logprobs_frame()`; these are estimated besides.
            confidence: the confidence level of the intervals, between 0 and 1.
            fields: sampling fields, a value or a list each; also `order`.

        Raises:
            RequestError: a name is unknown; a field is none of the sampler's or out of range; the sweep varies
                something else; it has no lab; a setting has a stage with a state of its own.

        Source: Owen 2013, "Monte Carlo theory, methods and examples", chapter 9; Veach and Guibas 1995, "Optimally
        combining sampling techniques for Monte Carlo rendering"; Vehtari et al. 2024, arXiv:1507.02646.
        """
        from llmlab.sweeps.reweighted import checked_columns, reweighted, target_axes

        if self._asker is None:
            raise RequestError("this sweep has no lab; load it with Sweep.load(path, lab=lab)")
        if not self.completions:
            raise RequestError("this sweep has no answers yet")
        axes = target_axes(self.grid, fields)
        frame = self.frame(metrics=metrics)
        own = list(self._metrics if metrics is None else metrics)
        wanted = checked_columns(own if metrics is not None and columns is None else columns, own=own)
        cells = list(zip(self.cells, self.completions.values(), strict=True))
        return reweighted(
            frame, self.grid, cells, self._asker.backend, axes=axes, columns=wanted, confidence=confidence
        )

    def paired_frame(
        self, columns: str | Sequence[str] | None = None, *, along: str | None = None, confidence: float = 0.95
    ) -> pd.DataFrame:
        """Differences of metrics between neighbouring values of a swept field, from answers that share their noise.

        The same choice of two cells is drawn with the same noise, so that much of what varies is common to both, and
        the differences vary less than those of independent answers: `variance_ratio` says how much of the variance is
        left, 1 being that of independent ones.

        Columns: the other swept fields, the field and the field with `_after` (its two values), metric, completions
        (pairs), difference (of the means, the second minus the first), low, high (Student's interval), variance_ratio.

        Args:
            columns: columns of `frame()`; by default all with statistics.
            along: the swept field; by default the first.
            confidence: the confidence level of the intervals, between 0 and 1.

        Raises:
            RequestError: a name is unknown; the cells have noise of their own; nothing is swept.
        """
        from llmlab.sweeps.reweighted import checked_columns, paired

        wanted = checked_columns(columns, own=list(self._metrics))
        return paired(self.frame(), self.grid, along=along, columns=wanted, confidence=confidence)
