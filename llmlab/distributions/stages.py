"""What the sampler's stages do to one distribution, as arrays: truncation, penalties, temperatures, one token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from llmlab.distributions.step import CUTS, FIXED, NO_CUTS, Step, cut_settings, killers, kind, quotients, softmax
from llmlab.errors import RequestError
from llmlab.protocol.request import Request

#: The stages that move single tokens.
PENALTIES = FIXED[:4]


class Cut(NamedTuple):
    """What one cut took away."""

    name: str
    value: float
    kept: int  #: how many tokens it left
    removed: int
    mass: float  #: their probability in the law before all cuts


class TruncationCurve(NamedTuple):
    """A law's probabilities, falling, before its cuts, and where the cuts fall."""

    prob: Float64[np.ndarray, " n"]
    cuts: tuple[Cut, ...]  #: those asked for, in the order in which they act
    kept: int
    min_p_level: float  #: below it min_p removes; NaN without min_p, or where the temperature comes later


class Waterfall(NamedTuple):
    """What each of S stages did to one token; the first is the raw law."""

    label: str
    token_id: int
    stages: tuple[str, ...]  #: with the numbers of their places in the order
    settings: tuple[str, ...]  #: what each stage was asked for
    logit: Float64[np.ndarray, " S"]
    prob: Float64[np.ndarray, " S"]
    removed_by: str  #: "" where the token can be drawn


class PenaltyShifts(NamedTuple):
    """What bias and penalties did to K tokens, most likely first by the larger of both probabilities."""

    labels: tuple[str, ...]
    token_ids: tuple[int, ...]
    before: Float64[np.ndarray, " K"]
    after: Float64[np.ndarray, " K"]
    shifts: Mapping[str, Float64[np.ndarray, " K"]]  #: stage -> how far it moved the logits


def truncation_curve(step: Step, *, request: Request, order: str | None) -> TruncationCurve:
    """The data of `plot_truncation`; see `NextToken.truncation`."""
    uncut = softmax(step.uncut([request], order=order)[0])
    ranking = np.argsort(-step.shaped(request, order=order), kind="stable")
    traced = step.trace([request], order=order)
    left = {name: int(np.isfinite(rows[0]).sum()) for name, rows in traced.items()}
    inputs = step.rows([request]).inputs
    by, settings = killers(traced)[0], cut_settings(request)
    cuts = []
    for stage in step.sampler(order):
        if kind(stage.name) in settings and np.asarray(stage.active(inputs))[0]:
            name, gone = kind(stage.name), by == stage.name
            cuts.append(Cut(name, settings[name], left[stage.name], int(gone.sum()), float(uncut[gone].sum())))
    level = np.nan
    names = list(traced)
    if "min_p" in settings and names.index("temperature") < names.index("min_p"):
        level = settings["min_p"] * float(uncut.max())
    prob = uncut[ranking]
    return TruncationCurve(prob[prob > 0], tuple(cuts), left[names[-1]], level)


def waterfall(step: Step, token: int, *, request: Request, order: str | None) -> Waterfall:
    """The data of `plot_ledger`; see `NextToken.waterfall`."""
    sampler = step.sampler(order)
    inputs = step.rows([request]).inputs
    traced = step.trace([request], order=order)
    spoken = quotients(traced, float(inputs.temperature[0]))
    asked = [True, *(bool(np.asarray(stage.active(inputs))[0]) for stage in sampler)]
    shown = [(number, name) for number, (name, on) in enumerate(zip(traced, asked, strict=True)) if on]
    return Waterfall(
        label=step.labels([token])[0],
        token_id=token,
        stages=tuple(f"{number} {kind(name)}" if number else "raw" for number, name in shown),
        settings=tuple(_setting(step, name, token, request) for _, name in shown),
        logit=np.array([spoken[name][0, token] for _, name in shown]),
        prob=np.array([softmax(traced[name][0])[token] for _, name in shown]),
        removed_by=str(killers(traced)[0, token]),
    )


def penalty_shifts(step: Step, *, request: Request, order: str | None, top: int) -> PenaltyShifts:
    """The data of `plot_penalties`; see `NextToken.penalties`."""
    # Without the mask, which moves nothing and only removes.
    free = request.replace(temperature=1.0, min_tokens=0, response_format=None, **NO_CUTS)
    traced = {name: rows[0].astype(np.float64) for name, rows in step.trace([free], order=order).items()}
    rows = list(traced.values())
    moved = {name: after - before for name, before, after in zip(list(traced)[1:], rows[:-1], rows[1:], strict=True)}
    moved = {name: shift for name, shift in moved.items() if shift.any()}
    if not moved:
        raise RequestError(
            "no bias or penalty moves a token here: give logit_bias, or a repetition_penalty; frequency_penalty and "
            "presence_penalty look at what was generated, result.next_token(position)"
        )
    before, after = softmax(rows[0]), softmax(rows[-1])
    ids = np.argsort(-np.maximum(before, after), kind="stable")[:top].tolist()
    return PenaltyShifts(
        labels=step.labels(ids),
        token_ids=tuple(ids),
        before=before[ids],
        after=after[ids],
        shifts={name: shift[ids] for name, shift in moved.items()},
    )


def _setting(step: Step, stage: str, token: int, request: Request) -> str:
    """What a stage was asked for, as far as it concerns one token."""
    made = int((step.made == token).sum())
    if stage == "raw":
        return ""
    if stage == "logit_bias":
        return f"{request.logit_bias[token]:+g}" if token in request.logit_bias else "no bias"
    if stage == "mask":
        return "grammar" if step.allowed(request) is not None else f"min_tokens {request.min_tokens}"
    if stage == "repetition":
        seen = made or token in step.prompt_ids
        return f"= {request.repetition_penalty:g}" if seen else "not seen"
    if stage in ("frequency", "presence"):
        times = f" x {made}" if stage == "frequency" else ""
        return f"= {getattr(request, stage + '_penalty'):g}{times}" if made else "not made"
    return f"= {getattr(request, kind(stage)):g}"


class TemperatureLaws(NamedTuple):
    """The law of the next token under T temperatures, for its K best tokens by raw probability.

    `prob` is the law after the temperature and before the cuts; `final` the law that would be drawn from.
    """

    labels: tuple[str, ...]
    token_ids: tuple[int, ...]
    temperatures: tuple[float, ...]
    prob: np.ndarray  #: [T, K]
    final: np.ndarray  #: [T, K], zero where a token was cut
    removed_by: tuple[tuple[str, ...], ...]  #: T rows of K names: "" where kept, else the cut that removed the token
    settings: Mapping[str, float]  #: the cuts asked for: top_k, top_p, min_p
    min_p_level: np.ndarray  #: [T] the probability under which min_p removes; NaN where it acts before the temperature
    removed: Mapping[str, np.ndarray]  #: cut -> [T] tokens of the whole vocabulary that it removed
    removed_mass: Mapping[str, np.ndarray]  #: cut -> [T] their probability in `prob`'s law
    kept: np.ndarray  #: [T] tokens that could be drawn


def _removals(traced: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cut -> [B, V]: the tokens that it, and no stage before it, removed."""
    alive = np.isfinite(traced["raw"])
    gone = {cut: np.zeros(alive.shape, bool) for cut in CUTS}
    for name, rows in traced.items():
        left = np.isfinite(rows)
        if kind(name) in CUTS:
            gone[kind(name)] |= alive & ~left
        alive &= left
    return gone


def _best(logits: np.ndarray, top: int) -> list[int]:
    """The ids of the largest, falling, ties to the lower id; without a sort of the whole vocabulary."""
    least = np.partition(logits, -top)[-top] if top < len(logits) else -np.inf
    found = np.flatnonzero(logits >= least)
    return [int(i) for i in found[np.argsort(-logits[found], kind="stable")][:top]]
