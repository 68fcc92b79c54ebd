"""One decoding step: its logits, the tokens before it, and what the sampler makes of them under given settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from llmlab.distributions.blocks import bucket
from llmlab.distributions.probabilities import log_softmax
from llmlab.distributions.trace import last, parameter_of
from llmlab.sampling.history import history_of
from llmlab.sampling.orders import order_of, placed
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from llmlab.sampling.stage import reads_negative
from llmlab.sampling.stages import ORDER
from llmlab.sampling.trail import Masks, Trail

_CUTS = tuple(stage for stage in ORDER if stage.kind == "truncation")
#: The stages that remove tokens by their place in the distribution; the others reshape it.
CUTS = tuple(stage.name for stage in _CUTS)
#: The values of these stages' fields that keep every token.
NO_CUTS: dict[str, Any] = {field.name: field.neutral for stage in _CUTS for field in stage.fields}
#: The stages before the temperature and the truncation, in every order.
FIXED = tuple(stage.name for stage in ORDER if stage.kind in ("logits", "mask"))


class SamplerRow(NamedTuple):
    """The sampler settings of one batch row."""

    params: SamplingParams
    mask: Bool[np.ndarray, " V"] | None = None  #: the tokens that the grammar allows; None without a grammar
    masks: Masks | None = None  #: what the grammar allowed at each token before; None without a grammar


class StepInputs(NamedTuple):
    """The sampler's arguments for B rows that share one step."""

    logits: Float32[np.ndarray, " V"]
    inputs: SamplerInputs
    history: History  #: with a leading dimension of 1; its states have B


class Step:
    """The logits of V tokens and the tokens before them: what the next-token distribution depends on besides settings.

    Args:
        logits: the model's, float32 [V], before every stage.
        prompt_ids: the prompt's token ids [L].
        made: the token ids generated after it [T]; penalties count them.
        end_ids: the tokens that end an answer, which `min_tokens` holds back.
        trail: the logits that `made` were drawn from, for stages with a state; those after a negative prompt too.
    """

    def __init__(
        self,
        logits: Float32[np.ndarray, " V"],
        *,
        prompt_ids: Int32[np.ndarray, " L"],
        made: Int32[np.ndarray, " T"],
        end_ids: Sequence[int] = (),
        trail: Trail | None = None,
    ) -> None:
        self.logits = logits
        self.prompt_ids = prompt_ids
        self.made = made
        self.end_ids = end_ids
        self.trail = trail

    @cached_property
    def logprobs(self) -> Float64[np.ndarray, " V"]:
        """Log-probabilities of the raw distribution, in nats."""
        return log_softmax(self.logits)

    @cached_property
    def ranking(self) -> Int64[np.ndarray, " V"]:
        """The token ids, most likely first in the raw distribution, ties to the lower id."""
        return np.argsort(-self.logits, kind="stable")

    def inputs(self, rows: Sequence[SamplerRow], *, order: str) -> StepInputs:
        """The sampler's arguments for these rows, padded to a bucket with copies of the last one."""
        V = len(self.logits)
        padded = [*rows, *[rows[-1]] * (bucket(len(rows)) - len(rows))]
        params, stages = [row.params for row in padded], order_of(order)
        inputs = stack(params, vocab_size=V, ends=self.end_ids, order=stages)
        states = None
        if self.trail is not None:
            masks = [row.masks for row in padded]
            states = self.trail.states(inputs, order=order, rows=params, masks=masks, count=len(self.made))
            if reads_negative(stages):
                inputs = inputs._replace(negative=np.tile(self.trail.negative(len(self.made)), (len(padded), 1)))
        if any(row.mask is not None for row in padded):
            bits = np.zeros((len(padded), -(-V // 32) * 32), bool)
            for at, row in enumerate(padded):
                bits[at, :V] = True if row.mask is None else row.mask
            packed = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
            inputs = inputs._replace(mask=packed, masked=np.array([row.mask is not None for row in padded]))
        history = history_of(self.prompt_ids, self.made, vocab_size=V, order=stages, states=states)
        return StepInputs(self.logits, inputs, history)

    def trace(self, rows: Sequence[SamplerRow], *, order: str) -> dict[str, Float32[np.ndarray, "B V"]]:
        """The logits after each stage of an order, "raw" first, for B rows; a removed token has -inf."""
        import jax
        import jax.numpy as jnp

        from llmlab.sampling.pipeline import trace

        order = placed_rows(order, rows)
        logits, inputs, history = self.inputs(rows, order=order)
        B = len(inputs.temperature)
        spread = jax.tree.map(lambda x: np.broadcast_to(x, (B, *x.shape[1:])), history)
        lefts = trace(jnp.asarray(np.tile(logits, (B, 1))), inputs, spread, order=order_of(order))
        return {stage: np.asarray(left)[: len(rows)] for stage, left in lefts.items()}

    def before_cuts(self, rows: Sequence[SamplerRow], *, order: str) -> Float32[np.ndarray, "B V"]:
        """Logits after every stage except those that truncate (top_k, top_p, min_p and the like)."""
        # The same program with these stages off, so that nothing else need be compiled.
        order = placed_rows(order, rows)
        off = neutral(order, "truncation")
        return last(self.trace([changed(row, **off) for row in rows], order=order))

    def before_temperature(self, row: SamplerRow, *, order: str) -> Float32[np.ndarray, " V"]:
        """Logits after bias, penalties and mask: what the temperature and the truncation act on."""
        order = placed_rows(order, [row])
        return self.before_cuts([changed(row, **neutral(order, "temperature"))], order=order)[0]


def placed_rows(order: str, rows: Sequence[SamplerRow]) -> str:
    """The key of the order with the stages that the rows ask for."""
    return placed(order, [row.params for row in rows])


def neutral(order: str, kind: str) -> dict[str, Any]:
    """The values of fields at which no stage of a kind does anything."""
    stages = [stage for stage in order_of(order) if stage.kind == kind]
    return {one.name: one.neutral for stage in stages for one in stage.fields}


def cuts_of(order: str) -> tuple[str, ...]:
    """The names of the stages of an order that truncate, as a user knows them."""
    return tuple(dict.fromkeys(parameter_of(stage.name) for stage in order_of(order) if stage.kind == "truncation"))


def changed(row: SamplerRow, **params: Any) -> SamplerRow:
    """The row with some of its parameters changed."""
    return row._replace(params=row.params.changed(**params))


def cut_settings(params: SamplingParams, *, order: str = "llmlab") -> dict[str, float]:
    """The values of the stages that truncate, of those that are on; of a stage with several fields, of the first."""
    stages = {parameter_of(stage.name): stage for stage in order_of(order) if stage.kind == "truncation"}
    on = {
        name: stage
        for name, stage in sorted(stages.items(), key=lambda item: (item[0] not in CUTS, _place(item[0])))
        if any(params.value_of(one) != one.neutral for one in stage.fields)
    }
    return {name: float(params.value_of(stage.fields[0])) for name, stage in on.items()}


def _place(name: str) -> int:
    return CUTS.index(name) if name in CUTS else 0
