"""The exact distribution of the next token: what each sampling parameter does to it, before any token is sampled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from llmlab.display.html import Markup, fragment
from llmlab.distributions.probabilities import entropy, log_softmax
from llmlab.distributions.step import Step
from llmlab.distributions.trace import last
from llmlab.errors import RequestError
from llmlab.protocol.arguments import OrderLike, listed, most, order_name, whole
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.request import Request
from llmlab.protocol.signatures import SAMPLING_FIELDS, shows_fields
from llmlab.results.step_request import StepRequest, token_ids, trail_of
from llmlab.results.token_probability import TokenProbability, token_probabilities
from llmlab.text.token_names import Token, TokenNames

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.distributions.stages import PenaltyShifts, TemperatureDistributions, TokenStages, TruncationCurve
    from llmlab.results.next_token_grid import NextTokenGrid
    from llmlab.sampling.trail import Trail

__all__ = ["NextToken"]

#: The signature of a method shows the sampling fields in the place of its `**fields`.
_shows_fields = shows_fields(only=SAMPLING_FIELDS, unchanged=True)
_shows_fields_except_temperature = shows_fields(only=SAMPLING_FIELDS, without=("temperature",), unchanged=True)


class NextToken:
    """The distribution of the next token over the whole vocabulary of V tokens, at one decoding step.

    `lab.next_token(...)` returns one for a prompt, `result.next_token(position)` one for any position of an answer. The
    model is run once; everything here is computed from its logits, by the same code that the engine samples with.

    Methods take sampling fields under the names that a request has (`temperature`, `top_k`, `logit_bias`, ...); a field
    that is not given has the value of `request`. Tokens are named by id, by exact text or by bytes. An `order` is the
    name of an order of the sampler's stages ("llmlab", "vllm", "sglang", "llama.cpp") or a list of stages.
    Log-probabilities are in nats.

    Attributes:
        logits: the model's, float32 [V], before every stage of the sampler.
        prompt_ids: the prompt's token ids [L].
        made: the token ids generated after it [T].
        request: the request that this step belongs to.
        order: the order of the sampler's stages where a method is given none.
        seed: of the noise; None where the request has none.
        choice: the index of the choice, which the noise depends on.
        drawn: the id of the token that was sampled here; None where none was.
        token_names: from token ids to bytes, names and labels, and back.
    """

    def __init__(
        self,
        logits: Float32[np.ndarray, " V"],
        *,
        backend: LogitsBackend,
        request: Request,
        prompt_ids: Int32[np.ndarray, " L"],
        made: Int32[np.ndarray, " T"] | None = None,
        order: OrderLike = "llmlab",
        seed: int | None = None,
        choice: int = 0,
        drawn: int | None = None,
        token_names: TokenNames | None = None,
        trail: Trail | None = None,
    ) -> None:
        self.logits = logits
        self.prompt_ids = prompt_ids
        self.made = np.zeros(0, np.int32) if made is None else made
        self.request = request
        self.order = order_name(order)
        self.seed = request.seed if seed is None else seed
        self.choice = choice
        self.drawn = drawn
        self.token_names = token_names or TokenNames(backend.token_bytes, backend.token_names, vocab_size=len(logits))
        trail = trail or trail_of(backend, request, prompt_ids=prompt_ids, made=self.made)
        self._step = Step(logits, prompt_ids=prompt_ids, made=self.made, end_ids=backend.end_ids, trail=trail)
        self._asked = StepRequest(
            request, backend=backend, prompt_ids=prompt_ids, made=self.made, seed=self.seed, choice=choice
        )

    # --- probabilities ------------------------------------------------------------------------------------------------

    @property
    def logprobs(self) -> Float64[np.ndarray, " V"]:
        """Log-probabilities of the raw distribution, the softmax of `logits`, in nats."""
        return self._step.logprobs

    @property
    def probs(self) -> Float64[np.ndarray, " V"]:
        """Probabilities of the raw distribution; the model's own, at temperature 1."""
        return np.exp(self._step.logprobs)

    @property
    def entropy(self) -> float:
        """The entropy of the raw distribution, in nats."""
        return float(entropy(self.logits))

    @property
    def ranking(self) -> Int64[np.ndarray, " V"]:
        """The token ids, most likely first in the raw distribution, ties to the lower id."""
        return self._step.ranking

    @_shows_fields
    def sampling_logprobs(self, *, order: OrderLike | None = None, **fields: Any) -> Float64[np.ndarray, " V"]:
        """Log-probabilities of the distribution that these fields sample from, in nats; -inf for a removed token.

        Raises:
            RequestError: a field is unknown or out of range.
        """
        return log_softmax(self._final(order, fields))

    @_shows_fields
    def top(self, count: int = 10, *, order: OrderLike | None = None, **fields: Any) -> list[TokenProbability]:
        """The `count` most likely tokens of the raw distribution, with their probabilities; `frame` has more of them.

        Raises:
            RequestError: a field is unknown or out of range.
        """
        ids = self.ranking[: whole("count", count, least=1)].tolist()
        return token_probabilities(
            ids, self.token_names, raw=self.logprobs, sampling=self.sampling_logprobs(order=order, **fields)
        )

    @_shows_fields
    def plot(self, *, top: int = 12, order: OrderLike | None = None, ax: Axes | None = None, **fields: Any) -> Axes:
        """Draw the most likely tokens at the request's temperature, and what top_k, top_p and min_p remove."""
        temperature = self._asked.changed(fields).temperature
        others = {name: value for name, value in fields.items() if name != "temperature"}
        return self.plot_temperatures([temperature], top=top, order=order, ax=ax, **others)

    @_shows_fields
    def frame(self, *, top: int | None = 20, order: OrderLike | None = None, **fields: Any) -> pd.DataFrame:
        """One row per token: the `top` most likely tokens of the raw distribution (None: all V).

        Columns: token, token_id, bytes, logprob (raw), sampling_logprob (of the distribution that these fields sample
        from; -inf where the token cannot be sampled), rank (raw, from 1), kept (whether it can be sampled).

        Raises:
            RequestError: a field is unknown or out of range.
        """
        from llmlab.frames.distribution import next_token_frame

        ids, final = self.ranking[: most(top)], log_softmax(self._final(order, fields))
        return next_token_frame(self._step, ids, final[None, ids], names=self.token_names)

    @_shows_fields
    def sample(
        self,
        seeds: Iterable[int],
        *,
        order: OrderLike | None = None,
        choice: int | None = None,
        position: int | None = None,
        **fields: Any,
    ) -> Int64[np.ndarray, " S"]:
        """The token ids that the engine samples here, one for each of S seeds.

        Args:
            seeds: signed 64-bit integers.
            order: the order of the sampler's stages; by default this step's.
            choice: the index of the choice, which the noise depends on; by default this step's.
            position: the position in the answer, which the noise depends on; by default this step's.
            fields: sampling fields.

        Raises:
            RequestError: a seed or a field is out of range.
        """
        from llmlab.distributions.draws import sample_ids
        from llmlab.sampling.params import seed_words

        words = [seed_words(whole("seeds", seed)) for seed in listed("seeds", seeds, of="seeds")]
        noise_choice, noise_position = self._asked.noise_place(choice, position)
        return sample_ids(self._final(order, fields), words, choice=noise_choice, position=noise_position)

    @_shows_fields
    def sweep(self, *, order: OrderLike | None = None, **fields: Any) -> NextTokenGrid:
        """The distributions of a whole grid: every field that is given a list is varied, all against all.

            next_token.sweep(temperature=[0.5, 1.0, 1.5], top_p=[0.8, 1.0]).frame(top=5)

        The model is not run again, and another grid compiles nothing.

        Raises:
            RequestError: a field is unknown or out of range, or its list is empty.
        """
        from llmlab.results.next_token_grid import NextTokenGrid

        return NextTokenGrid.of(
            self._step, self._asked, names=self.token_names, fields=fields, order=self._order(order)
        )

    # --- the stages of the sampler ------------------------------------------------------------------------------------

    @_shows_fields
    def stages_frame(
        self,
        *,
        top: int | None = 20,
        tokens: Token | Iterable[Token] | None = None,
        order: OrderLike | None = None,
        **fields: Any,
    ) -> pd.DataFrame:
        """One row per token and stage of the sampler: its logit and probability after it, and what removed the token.

        Columns: token, token_id, bytes, number (of the stage in the order; 0 is the raw distribution), stage, active
        (whether these fields ask for the stage), logit, logprob and prob after it (-inf, -inf and 0 once the token is
        removed; at a temperature below 1e-5 the logit of the one token left is 0), removed_by (the stage that removed
        the token, NaN where it can be sampled).

        Args:
            top: the number of tokens, the most likely ones of the raw distribution; None for all V.
            tokens: these tokens (or this one) instead.
            order: the order of the sampler's stages; by default this step's.
            fields: sampling fields.

        Raises:
            RequestError: a field is unknown or out of range, or there is no such token.
        """
        from llmlab.frames.distribution import stages_frame

        ids = self.ranking[: most(top)].tolist() if tokens is None else token_ids(tokens, self.token_names)
        return stages_frame(
            self._step, ids, row=self._asked.row(fields), order=self._order(order), names=self.token_names
        )

    @_shows_fields
    def plot_stages(
        self, token: Token, *, order: OrderLike | None = None, ax: Axes | None = None, **fields: Any
    ) -> Axes:
        """Draw the probability of one token after each stage that these fields ask for; see `plot_stages`."""
        from llmlab.plots.distribution import plot_stages

        return plot_stages(self._token_stages(token, order=order, **fields), ax=ax)

    def _token_stages(self, token: Token, *, order: OrderLike | None = None, **fields: Any) -> TokenStages:
        from llmlab.distributions.stages import token_stages

        token_id = self.token_names.id_of(token)
        row, (label,) = self._asked.row(fields), self._labels([token_id])
        return token_stages(self._step, token_id, row=row, order=self._order(order), label=label)

    @_shows_fields
    def flip_points_frame(
        self,
        token: Token,
        *,
        order: OrderLike | None = None,
        choice: int | None = None,
        position: int | None = None,
        **fields: Any,
    ) -> pd.DataFrame:
        """One row per parameter and event: the values between which a token is kept and, with a seed, is sampled.

        One parameter is varied while the others, the penalties and the order are held. The ends are exact, not scanned
        (`llmlab.distributions.flip_points` explains how): float64, from the engine's float32 logits. The engine rounds
        a value to float32, so that a value right at an end may fall on either side. With a stage of one's own or of the
        library in the order, they are scanned (`llmlab.distributions.flip_scan`); its parameters have rows too, and
        several where a token comes and goes more than once.

        Columns: parameter (temperature, top_k, top_p, min_p; temperatures below 1e-5, at which only the most likely
        token is left, have a row of their own), event (kept, drawn), low, high (both inside; NaN for never; an infinite
        top_k is off), value (what the parameter is held at while others are varied).

        Args:
            token: by id, exact text or bytes.
            order: the order of the sampler's stages; by default this step's.
            choice: the index of the choice, which the noise depends on; by default this step's.
            position: the position in the answer, which the noise depends on; by default this step's.
            fields: sampling fields that are held; with a `seed`, here or in the request, there are rows for `drawn`.

        Raises:
            RequestError: a field is unknown or out of range, or there is no such token.
        """
        from llmlab.distributions.draws import Noise
        from llmlab.frames.distribution import flip_points_frame

        seed = self._asked.changed(fields).seed if "seed" in fields else self.seed
        noise = Noise(seed, *self._asked.noise_place(choice, position)).values(len(self.logits))
        token_id = self.token_names.id_of(token)
        return flip_points_frame(
            self._step, token_id, row=self._asked.row(fields), order=self._order(order), noise=noise
        )

    @_shows_fields_except_temperature
    def temperatures(
        self,
        temperatures: Iterable[float] = (0.3, 0.7, 1.0, 1.5),
        *,
        top: int = 12,
        order: OrderLike | None = None,
        **fields: Any,
    ) -> TemperatureDistributions:
        """The distribution at several temperatures, and what top_k, top_p and min_p remove from each, as arrays.

        Args:
            temperatures: T of them.
            top: the number of tokens, the most likely ones after bias, penalties and mask.
            order: the order of the sampler's stages; by default this step's.
            fields: sampling fields except `temperature`.

        Raises:
            RequestError: a field is unknown or out of range.
        """
        from llmlab.distributions.stages import temperature_distributions

        if "temperature" in fields:
            raise RequestError("temperature is what is varied here: give temperatures, a list", param="temperature")
        if not (asked := listed("temperatures", temperatures, of="temperatures")):
            raise RequestError("temperatures is empty: give at least one", param="temperatures")
        top = whole("top", top, least=1)
        rows = [self._asked.row({**fields, "temperature": value}) for value in asked]
        return temperature_distributions(self._step, rows=rows, order=self._order(order), top=top, labels=self._labels)

    @_shows_fields_except_temperature
    def plot_temperatures(
        self,
        temperatures: Iterable[float] = (0.3, 0.7, 1.0, 1.5),
        *,
        top: int = 12,
        order: OrderLike | None = None,
        ax: Axes | None = None,
        **fields: Any,
    ) -> Axes:
        """Draw the distribution at several temperatures, and what top_k, top_p and min_p remove; see `temperatures`."""
        from llmlab.plots.distribution import plot_temperatures

        return plot_temperatures(self.temperatures(temperatures, top=top, order=order, **fields), ax=ax)

    @_shows_fields
    def truncation(self, *, order: OrderLike | None = None, **fields: Any) -> TruncationCurve:
        """The probabilities before top_k, top_p and min_p, falling, and what each of these removes, as arrays."""
        from llmlab.distributions.stages import truncation_curve

        return truncation_curve(self._step, row=self._asked.row(fields), order=self._order(order))

    @_shows_fields
    def plot_truncation(self, *, order: OrderLike | None = None, ax: Axes | None = None, **fields: Any) -> Axes:
        """Draw which ranks top_k, top_p and min_p remove, and their probability; see `truncation`."""
        from llmlab.plots.distribution import plot_truncation

        return plot_truncation(self.truncation(order=order, **fields), ax=ax)

    @_shows_fields
    def penalties(self, *, top: int = 15, order: OrderLike | None = None, **fields: Any) -> PenaltyShifts:
        """The `top` most likely tokens before and after bias and penalties, as arrays.

        Raises:
            RequestError: no token is moved.
        """
        from llmlab.distributions.stages import penalty_shifts

        top = whole("top", top, least=1)
        return penalty_shifts(
            self._step, row=self._asked.row(fields), order=self._order(order), top=top, labels=self._labels
        )

    @_shows_fields
    def plot_penalties(
        self, *, top: int = 15, order: OrderLike | None = None, ax: Axes | None = None, **fields: Any
    ) -> Axes:
        """Draw how bias and penalties move the probabilities of the most likely tokens; see `penalties`."""
        from llmlab.plots.distribution import plot_penalties

        return plot_penalties(self.penalties(top=top, order=order, **fields), ax=ax)

    # --- what is written ----------------------------------------------------------------------------------------------

    def _repr_html_(self) -> str:
        return str(fragment("<div>{}</div>{}", repr(self), Markup(self.frame(top=10).to_html())))

    def __repr__(self) -> str:
        made = f" and {len(self.made)} more" if len(self.made) else ""
        drawn = "" if self.drawn is None else f", where {self._labels([self.drawn])[0]} was drawn"
        over = f"over a vocabulary of {len(self.logits):,}"
        return f"<the token after a prompt of {len(self.prompt_ids)}{made}{drawn}, {over}>"

    def _labels(self, ids: Iterable[int]) -> tuple[str, ...]:
        """The tokens as an axis spells them, in characters that the font in use has."""
        from llmlab.plots.labels import token_labels

        known = list(ids)
        return token_labels([self.token_names.bytes_of(i) for i in known], known, self.token_names.names)

    def _order(self, order: OrderLike | None) -> str:
        return self.order if order is None else order_name(order)

    def _final(self, order: OrderLike | None, fields: dict[str, Any]) -> Float32[np.ndarray, " V"]:
        """The logits after the last stage."""
        return last(self._step.trace([self._asked.row(fields)], order=self._order(order)))[0]
