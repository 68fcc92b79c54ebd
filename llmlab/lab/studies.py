"""What a lab asks about many answers at once: sweeps, the sampler against its law, the model against known laws."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from llmlab.protocol.request import Request
from llmlab.protocol.signatures import STREAMING, shows_fields

if TYPE_CHECKING:
    from llmlab.checks.calibration import Calibration
    from llmlab.checks.sampler import SamplerCheck
    from llmlab.lab.lab import Lab
    from llmlab.metrics import Metric
    from llmlab.sweeps.sweep import Sweep


class Studies:
    """The part of a `Lab` that asks more than one question.

    Attributes:
        last_sweep: the last sweep that was made here, also what there was of one when it was interrupted.
    """

    def __init__(self) -> None:
        self.last_sweep: Sweep | None = None

    @shows_fields(without=STREAMING)
    def sweep(
        self,
        messages: str | Sequence[Any] | Request | None = None,
        *,
        order: str | Sequence[str] = "llmlab",
        n: int | None = None,
        seed: int | None = None,
        independent: bool = False,
        metrics: Mapping[str, Metric] | None = None,
        save: str | os.PathLike[str] | None = None,
        resume: bool | Sweep = True,
        **fields: Any,
    ) -> Sweep:
        """Ask every combination of some parameters' values, n times each, in one batch; each prompt is read once.

            sweep = lab.sweep("Name an animal.", temperature=[0, 0.5, 1], top_p=[0.8, 1], n=16, seed=7)
            sweep.frame()

        Cells share their noise, so that what differs between two of them is the parameters' doing; prompts do not.
        An interrupt leaves the cells that are done in `last_sweep`, whose `resume()` asks the rest.

        Args:
            messages: as in `request`, or a list of such prompts; None where there is a `prompt`, or a list of them.
            order: as in `chat`; a list is swept.
            n: completions a cell; by default the request's own, else 16.
            seed: that each prompt's is derived from (the first one's is this one); drawn if absent.
            independent: give every cell noise of its own.
            metrics: name -> function of one completion's `logprobs_frame()` that gives a number: a column each.
            save: a .parquet file that the sweep is written to, also while it runs.
            resume: go on with what is in that file, or with this sweep. False writes over the file.
            fields: as in `chat`; a list (or array) of values is swept. Of `stop` and `tools`, a list of lists.

        Raises:
            RequestError: as in `chat`, before anything runs; a metric without a name of its own; a file that holds
                another sweep.
        """
        from llmlab.sweeps.start import sweep

        lab = cast("Lab", self)
        return sweep(
            lab, messages, request=lab.request, order=order, n=n, seed=seed, independent=independent, metrics=metrics,
            save=save, resume=resume, fields=fields,
        )  # fmt: skip

    @shows_fields(without=STREAMING)
    def check_sampler(
        self,
        messages: str | Sequence[Any] | Request | None = None,
        *,
        draws: int = 20_000,
        seed: int = 0,
        order: str = "llmlab",
        **fields: Any,
    ) -> SamplerCheck:
        """Draw the next token many times, and test whether the draws fit the exact law (a chi-square test).

        The draws are the sampler's own, one for each seed from `seed` on; some are asked of the engine as well.

        Args:
            messages: as in `next_token`.
            draws: how many.
            seed: the first one.
            order: as in `chat`.
            fields: as in `chat`.

        Raises:
            RequestError: as in `next_token`.
        """
        from llmlab.checks.sampler import check_sampler

        lab = cast("Lab", self)
        return check_sampler(lab.next_token(messages, order=order, **fields), lab.backend, draws=draws, seed=seed)

    @shows_fields(without=("messages", "prompt", *STREAMING))
    def calibration(
        self,
        truth: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None = None,
        *,
        prompts_per_distribution: int | None = None,
        **fields: Any,
    ) -> Calibration:
        """The model's probability of whole answers against laws that are known: is it calibrated?

        An answer's probability is that of its whole text and of ending there, by teacher forcing.

        Args:
            truth: prompts and the distributions of their answers, as dicts with `messages`, `distribution` (whole
                answer -> probability) and perhaps `name` (of the distribution), or a file of such JSON lines; by
                default the embedded model's.
            prompts_per_distribution: ask only the first so many prompts of each distribution; by default all.
            fields: as in `chat`; with a temperature or truncation, the distribution sampled from is compared.

        Raises:
            RequestError: as in `chat`; a law that is none; a backend that cannot score given answers.
        """
        from llmlab.checks.calibration import check_calibration

        lab = cast("Lab", self)
        return check_calibration(
            lab.backend, truth, request=lab.request, prompts_per_distribution=prompts_per_distribution, fields=fields
        )
