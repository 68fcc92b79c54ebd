"""The stages of the library against oracles in float64, written from their definitions, and against transformers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from llmlab.sampling.draw import uniform
from llmlab.sampling.history import history_of, in_sequence
from llmlab.sampling.library import LIBRARY
from llmlab.sampling.orders import order_of, placed
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from llmlab.sampling.pipeline import process
from llmlab.sampling.stages import ORDERS

V, CASES = 61, 500
STAGES = {stage.name: stage for stage in LIBRARY}
#: What each stage is asked for, as a function from a random number in [0, 1].
ASKED: dict[str, Callable[[float], dict[str, float]]] = {
    "quadratic_smoothing": lambda u: {"smoothing_factor": 2 * u + 0.01, "smoothing_curve": 1 + 3 * ((7 * u) % 1)},
    "dynamic_temperature": lambda u: {"dynatemp_range": 1.5 * u + 0.01, "dynatemp_exponent": 0.3 + 2 * ((7 * u) % 1)},
    "top_n_sigma": lambda u: {"top_n_sigma": 4 * u + 0.01},
    "top_h": lambda u: {"top_h": 0.98 * u + 0.01},
    "typical_p": lambda u: {"typical_p": 0.98 * u + 0.01},
    "epsilon_cutoff": lambda u: {"epsilon_cutoff": 10 ** (-4 * u - 0.3)},
    "eta_cutoff": lambda u: {"eta_cutoff": 10 ** (-4 * u - 0.3)},
    "p_less": lambda u: {"p_less": 1 + round(u)},
    "xtc": lambda u: {"xtc_probability": 0.5, "xtc_threshold": 0.3 * u + 0.005},
}


def test_every_stage_is_here() -> None:
    others = "test_sequences, test_states and test_guidance have the others"
    alone = [stage.name for stage in LIBRARY if not in_sequence((stage,))]
    assert list(ASKED) == alone, others


def rows(asked: Callable[[float], dict[str, float]], count: int = CASES) -> list[SamplingParams]:
    rng = np.random.default_rng(1)
    return [
        SamplingParams(seed=int(i), choice=i % 3, temperature=0.3 + i % 5 / 3, extra=asked(rng.uniform()))
        for i in range(count)
    ]


def logits_of(count: int = CASES) -> np.ndarray:
    """Flat and steep rows, some with ties, some with removed tokens, some with a single one left."""
    rng = np.random.default_rng(0)
    found = (rng.normal(size=(count, V)) * rng.choice([0.01, 1.0, 3.0, 8.0], (count, 1)) + rng.normal()).astype("f4")
    found[::5] = np.round(found[::5])
    found[::3][rng.uniform(size=found[::3].shape) < 0.4] = -np.inf
    found[:, 7] = np.where(np.isneginf(found).all(-1), 0.5, found[:, 7])
    found[::50] = -np.inf
    found[::50, 11] = 1.25
    return found


def arguments(params: list[SamplingParams], order: tuple[Any, ...]) -> tuple[SamplerInputs, History]:
    one = history_of(np.array([1, 2]), np.array([3]), vocab_size=V)
    history = jax.tree.map(lambda x: np.repeat(x, len(params), axis=0), one)
    return stack(params, vocab_size=V, order=order), history


def run(name: str, logits: np.ndarray, params: list[SamplingParams], *, by_rows: bool = False) -> np.ndarray:
    order = (STAGES[name],)
    inputs, history = arguments(params, order)
    compiled = jax.jit(lambda x, y, z: process(x, y, z, order=order, by_rows=by_rows))
    return np.asarray(compiled(logits, inputs, history))


def softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max())
    return p / p.sum()


def entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


# Each oracle gets the logits (float64) that are left, their values, and says of each how far it is from being removed:
# positive where it stays. What lies within rounding of 0 may go either way.


def sigma(x: np.ndarray, o: dict[str, float]) -> np.ndarray:
    return x - (x.max() - o["top_n_sigma"] * x.std())


def typical(x: np.ndarray, o: dict[str, float]) -> np.ndarray:
    p = softmax(x)
    away = np.abs(-np.log(p) - entropy(p))
    # Values that differ by no more than rounding are one group.
    before = np.array([p[away < a - 1e-4].sum() for a in away])
    until = np.array([p[away < a + 1e-4].sum() - p[i] for i, a in enumerate(away)])
    stays, goes = o["typical_p"] - until, o["typical_p"] - before
    return np.where(stays > 0, stays, np.where(goes < 0, goes, 0.0))


def epsilon(x: np.ndarray, o: dict[str, float]) -> np.ndarray:
    return np.where(x == x.max(), 1.0, softmax(x) / o["epsilon_cutoff"] - 1)


def eta(x: np.ndarray, o: dict[str, float]) -> np.ndarray:
    e = o["eta_cutoff"]
    return np.where(x == x.max(), 1.0, softmax(x) / min(e, np.sqrt(e) * np.exp(-entropy(softmax(x)))) - 1)


def p_less(x: np.ndarray, o: dict[str, float]) -> np.ndarray:
    p = softmax(x)
    limit = (p**2).sum()
    if o["p_less"] == 2:
        limit = (V * limit - 1) / (V - 1)
    return np.where(x == x.max(), 1.0, p - limit)


def top_h(x: np.ndarray, o: dict[str, float]) -> np.ndarray:
    order = np.argsort(-x, kind="stable")
    p = softmax(x[order])
    terms = np.where(p > 0, -p * np.log(np.where(p > 0, p, 1)), 0.0)
    margin = o["top_h"] * terms.sum() - np.cumsum(terms)
    margin[0] = 1.0
    found = np.empty(len(x))
    found[order] = margin
    return found


ORACLES = {
    "top_n_sigma": sigma,
    "typical_p": typical,
    "epsilon_cutoff": epsilon,
    "eta_cutoff": eta,
    "p_less": p_less,
    "top_h": top_h,
}


@pytest.mark.parametrize("name", ORACLES)
def test_the_truncations_keep_what_the_oracle_keeps(name: str) -> None:
    params, logits = rows(ASKED[name]), logits_of()
    left = run(name, logits, params)
    judged = removed = 0
    for row, (before, after, param) in enumerate(zip(logits, left, params, strict=True)):
        ids = np.flatnonzero(before > -np.inf)
        margin = ORACLES[name](before[ids].astype(np.float64), dict(param.extra))
        stays = after[ids] > -np.inf
        sure = np.abs(margin) > 2e-5
        assert (stays == (margin > 0))[sure].all(), (row, param.extra, before[ids], margin, stays)
        assert np.array_equal(after[ids][stays], before[ids][stays]), "a token that stays keeps its logit"
        assert stays.any() and not (after > before).any()
        judged, removed = judged + sure.sum(), removed + (~stays).sum()
    assert judged > 0.9 * np.isfinite(logits).sum() and 0.05 < removed / judged < 0.98


def test_xtc_leaves_the_least_of_the_top_choices_and_draws_by_seed_choice_and_position() -> None:
    params, logits = rows(ASKED["xtc"]), logits_of()
    left = run("xtc", logits, params)
    inputs, history = arguments(params, (STAGES["xtc"],))
    chance = np.asarray(uniform(inputs, history, stream="xtc"))
    acted = 0
    for before, after, param, u in zip(logits, left, params, chance, strict=True):
        ids = np.flatnonzero(before > -np.inf)
        p, limit = softmax(before[ids].astype(np.float64)), param.extra["xtc_threshold"]
        if (np.abs(p / limit - 1) < 1e-5).any():
            continue
        ranked = sorted((i for i, own in zip(ids, p, strict=True) if own >= limit), key=lambda i: (-before[i], i))
        gone = set(ranked[:-1]) if u < 0.5 else set()
        assert {i for i in ids if np.isneginf(after[i])} == gone
        acted += bool(gone)
    assert acted > 50
    assert 0.4 < (chance < 0.5).mean() < 0.6 and len(set(chance)) > 0.99 * CASES
    again = [SamplingParams(seed=3, choice=1, extra=param.extra) for param in params]
    inputs, history = arguments(again, (STAGES["xtc"],))
    history = history._replace(position=np.arange(CASES, dtype=np.int32))
    other = np.asarray(uniform(inputs, history, stream="xtc"))
    assert abs(other.mean() - 0.5) < 0.05 and np.array_equal(np.asarray(uniform(inputs, history, stream="xtc")), other)
    assert abs(np.corrcoef(other, np.asarray(uniform(inputs, history, stream="other")))[0, 1]) < 0.15


def test_quadratic_smoothing_bends_the_logits() -> None:
    params, logits = rows(ASKED["quadratic_smoothing"]), logits_of()
    left = run("quadratic_smoothing", logits, params)
    for before, after, param in zip(logits.astype(np.float64), left, params, strict=True):
        f, c = param.extra["smoothing_factor"], param.extra["smoothing_curve"]
        d = before - before.max()
        with np.errstate(invalid="ignore"):
            bent = -((3 - c) / 2 * f * d**2) + (c - 1) / 2 * f * d**3 + before.max()
        wanted = np.where(np.isneginf(before), -np.inf, bent)
        np.testing.assert_allclose(after, wanted, rtol=2e-5, atol=2e-5)


def test_the_dynamic_temperature_follows_the_entropy() -> None:
    params, logits = rows(ASKED["dynamic_temperature"]), logits_of()
    order = order_of(placed("llmlab", params))
    names = [stage.name for stage in order]
    assert names.index("dynamic_temperature") + 1 == names.index("temperature")
    inputs, history = arguments(params, order)
    left = np.asarray(jax.jit(lambda *x: process(*x, order=order))(logits, inputs, history))
    for before, after, param in zip(logits.astype(np.float64), left.astype(np.float64), params, strict=True):
        ids = np.flatnonzero(before > -np.inf)
        t, reach, power = param.temperature, param.extra["dynatemp_range"], param.extra["dynatemp_exponent"]
        if len(ids) > 1:
            share = entropy(softmax(before[ids])) / np.log(len(ids))
            low = max(0.0, t - reach)
            t = low + (t + reach - low) * share**power
        if t > 0.01:
            np.testing.assert_allclose(softmax(after[ids]), softmax(before[ids] / t), atol=2e-5)
        assert np.isneginf(after).sum() == V - len(ids)


def test_a_dynamic_temperature_of_a_greedy_row_stays_greedy() -> None:
    params = [SamplingParams(temperature=0.0, extra={"dynatemp_range": 1.0})]
    order = order_of(placed("llmlab", params))
    logits = logits_of(1)
    left = np.asarray(jax.jit(lambda *x: process(*x, order=order))(logits, *arguments(params, order)))
    assert np.isfinite(left).sum() == 1


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("by_rows", [False, True])
def test_rows_in_a_mixed_batch_equal_rows_alone_and_neutral_ones_keep_every_bit(name: str, by_rows: bool) -> None:
    count = 12
    logits, asked = logits_of(count), rows(ASKED[name], count)
    neutral = SamplingParams()
    mixed = [param if row % 2 else neutral for row, param in enumerate(asked)]
    both = run(name, logits, mixed, by_rows=by_rows)
    assert both[::2].tobytes() == logits[::2].tobytes()
    whole = run(name, logits, asked, by_rows=by_rows)
    assert whole[1::2].tobytes() == both[1::2].tobytes()


def test_a_request_that_asks_for_a_stage_runs_it_at_its_place() -> None:
    extra = {name: value for one in ASKED.values() for name, value in one(0.4).items()}
    extra |= {"no_repeat_ngram_size": 3, "dry_multiplier": 0.8, "mirostat": 2, "adaptive_target": 0.5}
    extra |= {"guidance_scale": 2.0, "contrastive_strength": 0.5}
    every = SamplingParams(extra=extra)
    for base, order in ORDERS.items():
        found = order_of(placed(base, [every]))
        assert tuple(stage for stage in found if stage not in LIBRARY) == order
        assert {stage for stage in found if stage not in order} == set(LIBRARY)
    chain = [stage.name for stage in order_of(placed("llama.cpp", [every]))]
    wanted = ["presence", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature"]
    wanted += ["mirostat", "adaptive_p"]
    assert [name for name in chain if name in wanted] == wanted
    assert placed("llmlab", [SamplingParams(extra={"xtc_threshold": 0.3})]) == "llmlab", "off without a probability"
    assert placed("llmlab", [SamplingParams(), every]) == placed("llmlab", [every])


@pytest.mark.reference
@pytest.mark.parametrize("name", ["typical_p", "epsilon_cutoff", "eta_cutoff", "top_h"])
def test_transformers_keeps_the_same(name: str) -> None:
    import torch
    from transformers.generation import logits_process

    made = {
        "typical_p": lambda o: logits_process.TypicalLogitsWarper(mass=o["typical_p"]),
        "epsilon_cutoff": lambda o: logits_process.EpsilonLogitsWarper(epsilon=o["epsilon_cutoff"]),
        "eta_cutoff": lambda o: logits_process.EtaLogitsWarper(epsilon=o["eta_cutoff"]),
        "top_h": lambda o: logits_process.TopHLogitsWarper(top_h=o["top_h"]),
    }[name]
    params = rows(ASKED[name])
    # Without ties, which a sort may break either way, and without removed tokens, of which some of theirs make a NaN.
    logits = (np.random.default_rng(2).normal(size=(CASES, V)) * np.linspace(0.5, 6, CASES)[:, None]).astype(np.float32)
    left = run(name, logits, params)
    differ = 0
    for before, after, param in zip(logits, left, params, strict=True):
        theirs = made(dict(param.extra))(None, torch.tensor(before[None], dtype=torch.float64))[0].numpy()
        margin = ORACLES[name](before.astype(np.float64), dict(param.extra))
        sure = np.abs(margin) > 2e-5
        assert (np.isfinite(theirs) == np.isfinite(after))[sure].all()
        differ += int((np.isfinite(theirs) != np.isfinite(after)).sum())
    assert differ < 5
