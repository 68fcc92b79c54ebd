"""What the sampler's stages do to one step's distribution, as arrays: one token, truncation, penalties, temperatures.

Each function returns the data of one plot or frame. Functions that choose tokens themselves take `labels`, a function
from token ids to the texts that stand for them on an axis; this room knows tokens by their ids alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64

from llmlab.distributions.probabilities import best_ids, log_softmax, softmax
from llmlab.distributions.step import SamplerRow, Step, changed, cut_settings, cuts_of, neutral, placed_rows
from llmlab.distributions.trace import last, parameter_of, removing_stages, textbook_logits
from llmlab.errors import RequestError
from llmlab.sampling.orders import order_of

Labels: TypeAlias = Callable[[Sequence[int]], tuple[str, ...]]


class StageTable(NamedTuple):
    """K tokens after each of S stages; the first stage is "raw", the model's own distribution."""

    stages: tuple[str, ...]
    active: tuple[bool, ...]  #: whether the settings ask for the stage
    logit: Float64[np.ndarray, "K S"]  #: -inf once the token is removed
    logprob: Float64[np.ndarray, "K S"]  #: nats
    removed_by: tuple[str, ...]  #: per token, the stage that removed it; "" where it can be sampled


class TokenStages(NamedTuple):
    """One token after each of the S stages that the settings ask for; the first is "raw"."""

    label: str
    token_id: int
    stages: tuple[str, ...]  #: with their numbers in the order
    settings: tuple[str, ...]  #: the value that each stage was given
    logit: Float64[np.ndarray, " S"]
    prob: Float64[np.ndarray, " S"]
    removed_by: str  #: "" where the token can be sampled


class Cut(NamedTuple):
    """What one of top_k, top_p and min_p removed."""

    name: str
    value: float
    kept: int  #: how many tokens it left
    removed: int  #: how many tokens it removed
    mass: float  #: their probability before truncation


class TruncationCurve(NamedTuple):
    """The probabilities before top_k, top_p and min_p, falling, and what each of them removes."""

    prob: Float64[np.ndarray, " n"]
    cuts: tuple[Cut, ...]  #: those that are on, in the order in which they act
    kept: int  #: how many tokens can be sampled
    min_p_level: float  #: the probability below which min_p removes; NaN if it is off or acts before the temperature


class PenaltyShifts(NamedTuple):
    """What bias and penalties did to K tokens, ordered by the larger of their probabilities before and after."""

    labels: tuple[str, ...]
    token_ids: tuple[int, ...]
    before: Float64[np.ndarray, " K"]  #: probability at temperature 1, without truncation
    after: Float64[np.ndarray, " K"]
    shifts: Mapping[str, Float64[np.ndarray, " K"]]  #: stage -> what it added to the logits


class TemperatureDistributions(NamedTuple):
    """The next-token distribution at T temperatures: its K most likely tokens, and what truncation removes.

    `prob` is the distribution after the temperature and before truncation; `final` the one that is sampled from.
    """

    labels: tuple[str, ...]
    token_ids: tuple[int, ...]
    temperatures: tuple[float, ...]
    prob: np.ndarray  #: [T, K]
    final: np.ndarray  #: [T, K], zero where a token was removed
    removed_by: tuple[tuple[str, ...], ...]  #: T rows of K names: the stage that removed the token, "" where none did
    settings: Mapping[str, float]  #: the values of top_k, top_p and min_p, of those that are on
    min_p_level: np.ndarray  #: [T] the probability below which min_p removes; NaN where it acts before the temperature
    removed: Mapping[str, np.ndarray]  #: stage -> [T] how many tokens of the whole vocabulary it removed
    removed_mass: Mapping[str, np.ndarray]  #: stage -> [T] the probability of these tokens in `prob`
    kept: np.ndarray  #: [T] how many tokens can be sampled


def stage_table(step: Step, ids: Sequence[int], *, row: SamplerRow, order: str) -> StageTable:
    """Logit and logprob of some tokens after each stage of an order, "raw" first."""
    order = placed_rows(order, [row])
    temperature = float(np.float32(row.params.temperature))
    trace = step.trace([row], order=order)
    shown = textbook_logits(trace, temperature)
    return StageTable(
        stages=tuple(trace),
        active=_active(step, row, order=order),
        logit=np.stack([left[0, ids] for left in shown.values()], axis=1),
        logprob=np.stack([log_softmax(left[0])[ids] for left in trace.values()], axis=1),
        removed_by=tuple(str(name) for name in removing_stages(trace)[0, ids]),
    )


def token_stages(step: Step, token: int, *, row: SamplerRow, order: str, label: str) -> TokenStages:
    """The data of `plot_stages`: one token after each stage that the settings ask for."""
    order = placed_rows(order, [row])
    table = stage_table(step, [token], row=row, order=order)
    shown = [(number, table.stages[number]) for number, on in enumerate(table.active) if on]
    numbers = [number for number, _ in shown]
    return TokenStages(
        label=label,
        token_id=token,
        stages=tuple(f"{number} {parameter_of(name)}" if number else "raw" for number, name in shown),
        settings=tuple(_setting(step, name, token, row, order=order) for _, name in shown),
        logit=table.logit[0, numbers],
        prob=np.exp(table.logprob[0, numbers]),
        removed_by=table.removed_by[0],
    )


def truncation_curve(step: Step, *, row: SamplerRow, order: str) -> TruncationCurve:
    """The data of `plot_truncation`: probabilities before truncation, falling, and what each stage removes."""
    uncut = softmax(step.before_cuts([row], order=order)[0])
    ranking = np.argsort(-step.before_temperature(row, order=order), kind="stable")
    order = placed_rows(order, [row])
    trace = step.trace([row], order=order)
    left = {name: int(np.isfinite(rows[0]).sum()) for name, rows in trace.items()}
    removed_by, settings = removing_stages(trace)[0], cut_settings(row.params, order=order)
    cuts = []
    for stage, active in zip(trace, _active(step, row, order=order), strict=True):
        name = parameter_of(stage)
        if name in settings and active:
            gone = removed_by == stage
            cuts.append(Cut(name, settings[name], left[stage], int(gone.sum()), float(uncut[gone].sum())))
    prob = uncut[ranking]
    level = float(_min_p_levels(trace, settings, uncut[None, :])[0])
    return TruncationCurve(prob[prob > 0], tuple(cuts), left[list(trace)[-1]], level)


def penalty_shifts(step: Step, *, row: SamplerRow, order: str, top: int, labels: Labels) -> PenaltyShifts:
    """The data of `plot_penalties`: the `top` most likely tokens before and after bias and penalties.

    Raises:
        RequestError: no token is moved.
    """
    # Without the mask, which moves nothing and only removes.
    order = placed_rows(order, [row])
    off = neutral(order, "temperature") | neutral(order, "truncation")
    free = changed(row, min_tokens=0, **off)._replace(mask=None)
    trace = {name: rows[0].astype(np.float64) for name, rows in step.trace([free], order=order).items()}
    rows = list(trace.values())
    compared = {stage.name for stage in order_of(order) if stage.reads_negative}  # which gives normed logits
    moved = {}
    for name, before, after in zip(list(trace)[1:], rows[:-1], rows[1:], strict=True):
        begun = log_softmax(before) if name in compared and not np.array_equal(before, after) else before
        there = np.isfinite(begun) & np.isfinite(after)  # a token that is removed is not moved
        moved[name] = np.subtract(after, begun, where=there, out=np.zeros_like(after))
    moved = {name: shift for name, shift in moved.items() if shift.any()}
    if not moved:
        raise RequestError(
            "no bias or penalty moves a token here: give logit_bias, or a repetition_penalty; frequency_penalty and "
            "presence_penalty look at what was generated, result.next_token(position)"
        )
    before, after = softmax(rows[0]), softmax(rows[-1])
    ids = np.argsort(-np.maximum(before, after), kind="stable")[:top].tolist()
    return PenaltyShifts(
        labels=labels(ids),
        token_ids=tuple(ids),
        before=before[ids],
        after=after[ids],
        shifts={name: shift[ids] for name, shift in moved.items()},
    )


def temperature_distributions(
    step: Step, *, rows: Sequence[SamplerRow], order: str, top: int, labels: Labels
) -> TemperatureDistributions:
    """The data of `plot_temperatures`.

    Args:
        step: the decoding step.
        rows: one per temperature; they differ in nothing else.
        order: the name of the order of the sampler's stages.
        top: the number of tokens, the most likely ones after bias, penalties and mask.
        labels: from token ids to the texts on an axis.
    """
    order = placed_rows(order, rows)
    settings, cuts = cut_settings(rows[0].params, order=order), cuts_of(order)
    # Logits after all other stages, also in orders where the temperature comes after the truncation.
    uncut = softmax(step.before_cuts(rows, order=order))
    shown = best_ids(step.before_temperature(rows[0], order=order), top)
    trace = step.trace(rows, order=order)
    gone = _removed_by_cut(trace, cuts)
    final = last(trace)
    return TemperatureDistributions(
        labels=labels(shown),
        token_ids=tuple(shown),
        temperatures=tuple(row.params.temperature for row in rows),
        prob=uncut[:, shown],
        final=softmax(final)[:, shown],
        removed_by=tuple(
            tuple(next((cut for cut in cuts if gone[cut][t, i]), "") for i in shown) for t in range(len(rows))
        ),
        settings=settings,
        min_p_level=_min_p_levels(trace, settings, uncut),
        removed={cut: gone[cut].sum(-1) for cut in settings},
        removed_mass={cut: np.where(gone[cut], uncut, 0).sum(-1) for cut in settings},
        kept=np.isfinite(final).sum(-1),
    )


def _active(step: Step, row: SamplerRow, *, order: str) -> tuple[bool, ...]:
    """Whether the settings ask for each stage of an order, "raw" first."""
    inputs = step.inputs([row], order=order).inputs
    return (True, *(bool(np.asarray(stage.active(inputs))[0]) for stage in order_of(order)))


def _setting(step: Step, stage: str, token: int, row: SamplerRow, *, order: str) -> str:
    """The value that a stage was given, as far as it concerns one token."""
    params, made = row.params, int((step.made == token).sum())
    if stage == "raw":
        return ""
    if stage == "logit_bias":
        return f"{params.logit_bias[token]:+g}" if token in params.logit_bias else "no bias"
    if stage == "mask":
        return "grammar" if row.mask is not None else f"min_tokens {params.min_tokens}"
    if stage == "repetition":
        return f"= {params.repetition_penalty:g}" if made or token in step.prompt_ids else "not seen"
    if stage in ("frequency", "presence"):
        times = f" x {made}" if stage == "frequency" else ""
        return f"= {getattr(params, stage + '_penalty'):g}{times}" if made else "not made"
    fields = next(one.fields for one in order_of(order) if one.name == stage)
    return f"= {params.value_of(fields[0]):g}" if fields else "on"


def _min_p_levels(trace: Mapping[str, np.ndarray], settings: Mapping[str, float], uncut: np.ndarray) -> np.ndarray:
    """The probability [B] below which min_p removes; NaN where it is off or acts before the temperature."""
    names = list(trace)
    if "min_p" in settings and names.index("temperature") < names.index("min_p"):
        return np.asarray(settings["min_p"] * uncut.max(-1))
    return np.full(len(uncut), np.nan)


def _removed_by_cut(trace: Mapping[str, np.ndarray], cuts: Sequence[str]) -> dict[str, Bool[np.ndarray, "B V"]]:
    """Cut -> the tokens that it, and no stage before it, removed."""
    alive = np.isfinite(trace["raw"])
    gone = {cut: np.zeros(alive.shape, bool) for cut in cuts}
    for name, rows in trace.items():
        left = np.isfinite(rows)
        if parameter_of(name) in gone:
            gone[parameter_of(name)] |= alive & ~left
        alive &= left
    return gone
