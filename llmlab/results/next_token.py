"""The exact law of the token that comes next: what each sampling parameter does to it, before any token is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from llmlab.distributions.draws import Noise
from llmlab.distributions.stages import _best, _removals
from llmlab.distributions.step import CUTS, Step, cut_settings, last, log_softmax, softmax
from llmlab.errors import ContextLengthError, RequestError
from llmlab.protocol.arguments import listed, most, whole
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.request import Request
from llmlab.protocol.signatures import SAMPLING_FIELDS, shows_fields
from llmlab.text.token_names import Token

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.distributions.stages import PenaltyShifts, TemperatureLaws, TruncationCurve, Waterfall
    from llmlab.results.next_token_grid import Laws

__all__ = ["LogitsBackend", "NextToken"]

#: The largest choice and position that noise is drawn for.
_INT32 = 2**31 - 1


class NextToken(Step):
    """The law of the next token after a prompt, over the whole vocabulary of V tokens.

    Sampling fields, spelled as the API spells them, can be given to each method; the request's own are the default.
    `lab.next_token` makes one for a prompt, `result.ledger` one for any position of what was generated.

    Attributes:
        logits: the model's, float32 [V], before every stage.
        prompt_ids: the prompt's token ids [L].
        made: the tokens generated since [T].
        request: the request that was asked.
        order: the order of the sampler's stages.
        seed: of the noise; None where nothing is drawn.
        choice: which of the request's choices the noise is that of.
        drawn: the token that was drawn here, None where none was.
    """

    drawn: int | None = None

    @classmethod
    def of(cls, backend: LogitsBackend, request: Request, *, order: str = "llmlab") -> NextToken:
        """Ask the model once; everything after that is arithmetic."""
        prompt = backend.render(request)
        try:
            logits = backend.next_logits(prompt)
        except ContextLengthError as error:
            # The backend was given token ids, and cannot know which field they came from.
            raise ContextLengthError(error.message, param=request.subject) from None
        law = cls(logits, backend=backend, request=request, prompt_ids=prompt, order=order)
        law.sampler(order)
        law.allowed(request)  # a grammar that cannot be had is an error now
        return law

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def frame(self, *, top: int | None = 20, order: str | None = None, **fields: Any) -> pd.DataFrame:
        """The `top` tokens by raw probability (None: all V), one a row.

        Columns: token, token_id, bytes, logprob (raw), sampling_logprob (of the law that these fields would have
        drawn from; -inf where it cannot be drawn), rank (1-based, raw), kept.

        Raises:
            RequestError: a field is unknown or out of range.
        """
        from llmlab.frames.distribution import NEXT_TOKEN_COLUMNS
        from llmlab.frames.schema import build

        ids = self._top(top)
        final = log_softmax(last(self.trace([fields], order=order))[0])
        return build(
            {
                **self.spelled(ids),
                "logprob": self.logprobs[ids],
                "sampling_logprob": final[ids],
                "rank": np.arange(1, len(ids) + 1),
                "kept": np.isfinite(final[ids]),
            },
            NEXT_TOKEN_COLUMNS,
        )

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def stages(
        self,
        *,
        top: int | None = 20,
        tokens: Token | Iterable[Token] | None = None,
        order: str | None = None,
        **fields: Any,
    ) -> pd.DataFrame:
        """The ledger: what each numbered stage did to each token, and which of them took it out.

        One row a token and stage.

        Columns: token, token_id, bytes, number (the stage's place in the order; 0 is the raw law), stage, active
        (whether these fields ask for it), logit and logprob and prob after it (-inf, -inf and 0 once the token is out;
        under a temperature below 1e-5 the logit of the one that is left is 0), removed_by (the stage that took the
        token out, NA where it can be drawn).

        Args:
            top: so many tokens by raw probability; None for all V.
            tokens: these instead (or this one), by id, text or bytes.
            order: the order of the stages, if it is to be another than the step's own.
            fields: sampling fields.
        """
        from llmlab.frames.distribution import ledger_frame

        ids = self._top(top) if tokens is None else self.token_ids(tokens)
        return ledger_frame(self, ids, request=self.changed(fields), order=order)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def flip_points(
        self,
        token: Token,
        *,
        order: str | None = None,
        choice: int | None = None,
        position: int | None = None,
        **fields: Any,
    ) -> pd.DataFrame:
        """The exact values of each parameter between which a token is kept and, under a seed, is the one drawn.

        One parameter is varied, the others, the penalties and the order are held. Worked out, not scanned: see
        `llmlab.distributions.flip_points`. In float64 from the engine's float32 logits; a value that is asked for is
        rounded to float32, and right at an end may fall on either side.

        Columns: parameter (temperature, top_k, top_p, min_p; the temperatures below 1e-5, where the law is one-hot,
        have a row of their own), event (kept, drawn), low, high (both inside; NA for never; of top_k, inf is off),
        value (what the parameter is held at while others are varied).

        Args:
            token: an id, or the exact text or bytes of a token.
            order: as in `frame`.
            choice: of the noise, as is `position`; by default this step's. The seed is the request's, or `seed=`;
                without one there are no rows for `drawn`.
            position: see `choice`.
            fields: what is held, where it is not the request's.
        """
        from llmlab.frames.distribution import flip_frame

        request = self.changed(fields)
        at = Noise(request.seed if "seed" in fields else self.seed, *self._place(choice, position))
        return flip_frame(self, self.token_id(token), request=request, order=order, noise=at)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def under(self, *, order: str | None = None, **fields: Any) -> Laws:
        """The laws of a whole grid at once: fields that are given a list are varied, all against all.

            law.under(temperature=[0.5, 1.0, 1.5], top_p=[0.8, 1.0]).frame(top=5)

        The model is not asked again, and nothing is compiled for another grid.

        Raises:
            RequestError: a field is unknown or out of range, or no list.
        """
        from llmlab.results.next_token_grid import Laws

        grid = {name: list(values) for name, values in fields.items() if _varied(values)}
        if not all(grid.values()):
            empty = next(name for name, values in grid.items() if not values)
            raise RequestError(f"{empty} is varied over no value at all", param=empty)
        fixed = self.changed({name: value for name, value in fields.items() if name not in grid})
        step = NextToken(
            self.logits, backend=self._backend, request=fixed, prompt_ids=self.prompt_ids, made=self.made,
            order=self.order, seed=self.seed, choice=self.choice,
        )  # fmt: skip
        return Laws(step, grid=grid, order=self.order_name(order))

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def draws(
        self,
        seeds: Iterable[int],
        *,
        order: str | None = None,
        choice: int | None = None,
        position: int | None = None,
        **fields: Any,
    ) -> Int64[np.ndarray, " S"]:
        """The token ids that the engine would draw here, one for each seed; `choice` and `position` are the noise's."""
        from llmlab.distributions.draws import drawn
        from llmlab.sampling.params import seed_words

        words = [seed_words(whole("seeds", seed)) for seed in listed("seeds", seeds, of="seeds")]
        noise_choice, noise_position = self._place(choice, position)
        final = last(self.trace([fields], order=order))[0]
        return drawn(final, words, choice=noise_choice, position=noise_position)

    @shows_fields(only=SAMPLING_FIELDS, without=("temperature",), unchanged=True)
    def temperatures(
        self,
        temperatures: Iterable[float] = (0.3, 0.7, 1.0, 1.5),
        *,
        top: int = 12,
        order: str | None = None,
        **fields: Any,
    ) -> TemperatureLaws:
        """The law under several temperatures, and what top_k, top_p and min_p take from each: what the plot draws."""
        from llmlab.distributions.stages import TemperatureLaws

        if "temperature" in fields:
            raise RequestError("temperature is what is varied here: give temperatures, a list", param="temperature")
        asked = listed("temperatures", temperatures, of="temperatures")
        if not asked:
            raise RequestError("temperatures is empty: give at least one", param="temperatures")
        top = whole("top", top, least=1)
        requests = [self.changed({**fields, "temperature": t}) for t in asked]
        settings = cut_settings(requests[0])
        # What the cuts act on has every other stage behind it, whatever the order.
        uncut = softmax(self.uncut(requests, order=order))
        shaped = self.shaped(requests[0], order=order)
        shown = _best(shaped, top)
        traced = self.trace(requests, order=order)
        gone = _removals(traced)
        left = np.isfinite(last(traced))
        final = softmax(last(traced))
        names = list(traced)
        level = np.full(len(requests), np.nan)
        if "min_p" in settings and names.index("temperature") < names.index("min_p"):
            level = settings["min_p"] * uncut.max(-1)
        return TemperatureLaws(
            labels=self.labels(shown),
            token_ids=tuple(shown),
            temperatures=tuple(request.temperature for request in requests),
            prob=uncut[:, shown],
            final=final[:, shown],
            removed_by=tuple(
                tuple(next((cut for cut in CUTS if gone[cut][row, i]), "") for i in shown)
                for row in range(len(requests))
            ),
            settings=settings,
            min_p_level=level,
            removed={cut: gone[cut].sum(-1) for cut in settings},
            removed_mass={cut: np.where(gone[cut], uncut, 0).sum(-1) for cut in settings},
            kept=left.sum(-1),
        )

    @shows_fields(only=SAMPLING_FIELDS, without=("temperature",), unchanged=True)
    def plot_temperatures(
        self,
        temperatures: Iterable[float] = (0.3, 0.7, 1.0, 1.5),
        *,
        top: int = 12,
        order: str | None = None,
        ax: Axes | None = None,
        **fields: Any,
    ) -> Axes:
        """The law under several temperatures with the cuts of `top_k`, `top_p` and `min_p` drawn on it.

        See `llmlab.plots.temperatures.plot_temperatures`; its data are those of `temperatures`.
        """
        from llmlab.plots.temperatures import plot_temperatures

        return plot_temperatures(self.temperatures(temperatures, top=top, order=order, **fields), ax=ax)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def truncation(self, *, order: str | None = None, **fields: Any) -> TruncationCurve:
        """The probabilities before the cuts, falling, and what each cut takes: what `plot_truncation` draws."""
        from llmlab.distributions.stages import truncation_curve

        return truncation_curve(self, request=self.changed(fields), order=order)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def plot_truncation(self, *, order: str | None = None, ax: Axes | None = None, **fields: Any) -> Axes:
        """Where top_k, top_p and min_p cut the law, and the mass that each removes."""
        from llmlab.plots.distribution import plot_truncation

        return plot_truncation(self.truncation(order=order, **fields), ax=ax)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def waterfall(self, token: Token, *, order: str | None = None, **fields: Any) -> Waterfall:
        """What each stage that these fields ask for did to one token: what `plot_ledger` draws."""
        from llmlab.distributions.stages import waterfall

        return waterfall(self, self.token_id(token), request=self.changed(fields), order=order)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def plot_ledger(self, token: Token, *, order: str | None = None, ax: Axes | None = None, **fields: Any) -> Axes:
        """The ledger of one token as a waterfall: what moved its probability, and what removed it."""
        from llmlab.plots.distribution import plot_ledger

        return plot_ledger(self.waterfall(token, order=order, **fields), ax=ax)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def penalties(self, *, top: int = 15, order: str | None = None, **fields: Any) -> PenaltyShifts:
        """The most likely tokens before and after bias and penalties: what `plot_penalties` draws.

        Raises:
            RequestError: no token is moved.
        """
        from llmlab.distributions.stages import penalty_shifts

        return penalty_shifts(self, request=self.changed(fields), order=order, top=whole("top", top, least=1))

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def plot_penalties(self, *, top: int = 15, order: str | None = None, ax: Axes | None = None, **fields: Any) -> Axes:
        """How bias and the repetition, frequency and presence penalties moved the most likely tokens."""
        from llmlab.plots.distribution import plot_penalties

        return plot_penalties(self.penalties(top=top, order=order, **fields), ax=ax)

    def _repr_html_(self) -> str:
        return f"<div>{escape(repr(self))}</div>{self.frame(top=10).to_html()}"

    def __repr__(self) -> str:
        made = f" and {len(self.made)} more" if len(self.made) else ""
        drawn = "" if self.drawn is None else f", where {self.labels([self.drawn])[0]} was drawn"
        over = f"over a vocabulary of {len(self.logits):,}"
        return f"<the token after a prompt of {len(self.prompt_ids)}{made}{drawn}, {over}>"

    def _top(self, top: int | None) -> list[int]:
        return [int(i) for i in self.ranking[: most(top)]]

    def _place(self, choice: Any, position: Any) -> tuple[int, int]:
        """Which noise is meant: by default this step's."""
        return (
            self.choice if choice is None else whole("choice", choice, least=0, most=_INT32),
            len(self.made) if position is None else whole("position", position, least=0, most=_INT32),
        )


def _varied(value: Any) -> bool:
    return isinstance(value, list | tuple | range) or getattr(value, "ndim", 0) > 0
