"""Stages with a state over whole sequences, against oracles in float64 written from their definitions.

Mirostat 2: Basu et al. 2021 (arXiv:2007.14966), algorithm 2, with the surprise of llama.cpp, which is that under the
tokens that are left. Adaptive-p: llama.cpp pull request 17927, whose weighted sum and total weight are kept as two
numbers here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.errors import RequestError
from llmlab.sampling.draw import noise
from llmlab.sampling.history import history_of, joined
from llmlab.sampling.library import LIBRARY
from llmlab.sampling.orders import layout_of, order_of, placed
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, seed_words, stack
from llmlab.sampling.pipeline import replay, run, step
from llmlab.sampling.registry import further_stages
from llmlab.sampling.stages import ORDERS
from llmlab.sampling.states import stateful

V, CASES, STEPS = 53, 560, 7
NAMES = ("mirostat", "adaptive_p")


def test_these_are_the_stages_with_a_state() -> None:
    assert tuple(stage.name for stage in stateful(LIBRARY)) == NAMES


def extras(name: str, rng: np.random.Generator) -> dict[str, float]:
    if name == "mirostat":
        return {"mirostat": 2, "mirostat_tau": rng.uniform(0.1, 4), "mirostat_eta": rng.uniform(0, 1)}
    return {"adaptive_target": rng.uniform(0, 1), "adaptive_decay": rng.uniform(0, 0.99)}


@cache
def cases(name: str) -> tuple[list[SamplingParams], np.ndarray]:
    """The settings of the rows, and their logits [STEPS, CASES, V], some with ties, some with removed tokens."""
    rng = np.random.default_rng(4)
    rows = [
        SamplingParams(
            seed=int(rng.integers(-(2**62), 2**62)),
            choice=i % 4,
            temperature=[1.0, 0.7, 1.4, 0.0][i % 4],
            top_p=[1.0, 0.95][i % 2],
            logit_bias={int(rng.integers(V)): -100.0} if i % 3 == 0 else {},
            extra=extras(name, rng),
        )
        for i in range(CASES)
    ]
    logits = rng.normal(0, rng.choice([0.3, 1.5, 4.0], (1, CASES, 1)), (STEPS, CASES, V)).astype(np.float32)
    logits[:, ::5] = np.round(logits[:, ::5])
    return rows, logits


def start(rows: list[SamplingParams], order: Any) -> tuple[SamplerInputs, History]:
    one = history_of(np.array([1, 2]), np.zeros(0, np.int64), vocab_size=V, order=order)
    history = jax.tree.map(lambda x: np.repeat(x, len(rows), axis=0), one)
    return stack(rows, vocab_size=V, ends=(0,), order=order), history


@partial(jax.jit, static_argnames=("order", "by_rows"))
def one_step(logits: Any, inputs: Any, history: Any, *, order: Any, by_rows: bool) -> Any:
    token, statistics, states = step(logits, inputs, history, order=order, by_rows=by_rows)
    return token, statistics, joined(history, token, jnp.ones(token.shape, bool), states)


unasked = jax.jit(partial(run, order=ORDERS["llmlab"], by_rows=False))
gumbel = jax.jit(partial(noise, vocab_size=V))


class Sequence:
    """What rows drew, [STEPS, B], and the states before and after each token, [STEPS + 1, B]."""

    def __init__(
        self, rows: list[SamplingParams], logits: np.ndarray, order: Any, *, name: str, by_rows: bool = False
    ) -> None:
        inputs, history = start(rows, order)
        self.tokens, self.kept, self.logprobs, self.states = [], [], [], []
        for now in logits:
            token, statistics, history = one_step(now, inputs, history, order=order, by_rows=by_rows)
            self.tokens.append(np.asarray(token))
            self.kept.append(np.asarray(statistics.kept))
            self.logprobs.append(np.asarray(statistics.sampling_logprob))
            self.states.append(np.asarray(history.states[name]))


@cache
def sampled(name: str, by_rows: bool = False) -> Sequence:
    rows, logits = cases(name)
    return Sequence(rows, logits, order_of(placed("llmlab", rows)), name=name, by_rows=by_rows)


def softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max())
    return p / p.sum()


def before_stage(logits: np.ndarray, row: SamplingParams) -> np.ndarray:
    """Float64 logits after bias, temperature and top_p, in our order."""
    x = logits.astype(np.float64)
    for token, bias in row.logit_bias.items():
        x[token] += bias
    if row.temperature < 1e-5:
        return np.where(np.arange(V) == x.argmax(), x, -np.inf)
    x = x / row.temperature
    if row.top_p < 1:
        p = softmax(x)
        ranked = np.argsort(-p, kind="stable")
        mass = np.cumsum(p[ranked]) - p[ranked]
        if np.abs(mass - row.top_p).min() < 1e-5:
            raise TooCloseError
        x[ranked[mass >= row.top_p]] = -np.inf
    return x


class TooCloseError(Exception):
    """Two numbers lie closer together than float32 can tell."""


def mirostat(x: np.ndarray, state: dict[str, float], row: Mapping[str, float]) -> np.ndarray:
    limit = state.setdefault("limit", 2 * row["mirostat_tau"])
    with np.errstate(divide="ignore"):
        surprise = -np.log2(softmax(x))
    if np.abs(surprise - limit).min() < 1e-4:
        raise TooCloseError
    kept = surprise <= limit
    kept[np.argmax(x)] = True
    return np.where(kept, x, -np.inf)


def mirostat_after(
    x: np.ndarray, left: np.ndarray, token: int, state: dict[str, float], row: Mapping[str, float]
) -> float:
    state["limit"] -= row["mirostat_eta"] * (-np.log2(softmax(left)[token]) - row["mirostat_tau"])
    return state["limit"]


def adaptive_p(x: np.ndarray, state: dict[str, float], row: Mapping[str, float]) -> np.ndarray:
    target, decay = row["adaptive_target"], row["adaptive_decay"]
    total = state.setdefault("weighted", target / (1 - decay)) / state.setdefault("weight", 1 / (1 - decay))
    wanted = min(max(2 * target - total, 0.0), 1.0)
    d = np.abs(softmax(x) - wanted) / 0.3
    return np.where(np.isneginf(x), x, 5 - 10 * d * d / (1 + d))


def adaptive_p_after(
    x: np.ndarray, left: np.ndarray, token: int, state: dict[str, float], row: Mapping[str, float]
) -> float:
    decay = row["adaptive_decay"]
    state["weighted"] = softmax(x)[token] + decay * state["weighted"]
    state["weight"] = 1 + decay * state["weight"]
    return state["weighted"] / state["weight"]


ORACLES = {"mirostat": (mirostat, mirostat_after), "adaptive_p": (adaptive_p, adaptive_p_after)}


@pytest.mark.parametrize("name", NAMES)
def test_whole_sequences_are_those_of_the_oracle(name: str) -> None:
    rows, logits = cases(name)
    found, (apply, after) = sampled(name), ORACLES[name]
    words = jnp.array([seed_words(row.seed) for row in rows], jnp.uint32)
    choices = jnp.array([row.choice for row in rows], jnp.int32)
    values = [np.asarray(gumbel(words, choices, jnp.full(CASES, i)), np.float64) for i in range(STEPS)]
    whole, kept = 0, set()
    for at, row in enumerate(rows):
        state: dict[str, float] = {}
        try:
            for i in range(STEPS):
                x = before_stage(logits[i, at], row)
                left, token = apply(x, state, row.extra), int(found.tokens[i][at])
                perturbed = left + values[i][at]
                assert perturbed[token] >= perturbed.max() - 1e-3, f"row {at}, step {i}"
                assert found.kept[i][at] == np.isfinite(left).sum(), f"row {at}, step {i}"
                np.testing.assert_allclose(np.exp(found.logprobs[i][at]), softmax(left)[token], atol=2e-5)
                expected = after(x, left, token, state, row.extra)
                np.testing.assert_allclose(found.states[i][at], expected, rtol=2e-5, atol=2e-5)
                kept.add(int(found.kept[i][at]))
        except TooCloseError:
            continue
        whole += 1
    assert whole >= 500 and len(kept) > 10, "too few cases were decided"


@pytest.mark.parametrize("name", NAMES)
def test_rows_in_a_mixed_batch_are_those_alone(name: str) -> None:
    rows, logits = cases(name)
    together, order = sampled(name), order_of(placed("llmlab", rows))
    plain = [SamplingParams(seed=1), SamplingParams(seed=2, temperature=0.5)]
    for at in range(5):
        for by_rows in (False, True):
            alone = Sequence([rows[at], *plain], logits[:, [at, 3, 4]], order, name=name, by_rows=by_rows)
            for i in range(STEPS):
                if not by_rows:  # one that does not ask for it is left alone, beside one that does
                    token, statistics = unasked(logits[i, [3, 4]], *start(plain, ORDERS["llmlab"]))
                    if i == 0:
                        assert alone.tokens[i][1:].tolist() == token.tolist()
                    assert alone.kept[i][1:].tolist() == statistics.kept.tolist()
                assert alone.tokens[i][0] == together.tokens[i][at]
                assert alone.kept[i][0] == together.kept[i][at]
                np.testing.assert_allclose(alone.states[i][0], together.states[i][at], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_row_after_the_other_gives_what_whole_batches_give(name: str) -> None:
    wide, rowwise = sampled(name), sampled(name, True)
    same = np.array(wide.tokens) == np.array(rowwise.tokens)
    assert same.mean() > 0.999  # two tokens can tie within the rounding of a sum
    agree = same.all(axis=0)
    np.testing.assert_allclose(
        np.array(wide.states)[:, agree], np.array(rowwise.states)[:, agree], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_neutral_values_change_no_bit(name: str) -> None:
    rows, logits = cases(name)
    off = [row.changed(mirostat=0, adaptive_target=-0.5) for row in rows]
    order = order_of(placed("llmlab", rows))
    assert name in [stage.name for stage in order]
    inputs, history = start(off, order)
    plain_inputs, plain_history = start(off, ORDERS["llmlab"])
    for by_rows in (False, True):
        token, statistics, _ = one_step(logits[0], inputs, history, order=order, by_rows=by_rows)
        expected = jax.jit(partial(run, order=ORDERS["llmlab"], by_rows=by_rows))(
            logits[0], plain_inputs, plain_history
        )
        assert np.array_equal(token, expected[0])
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), statistics, expected[1])
    assert placed("llmlab", off) == "llmlab"  # and nobody pays for it


@pytest.mark.parametrize("name", NAMES)
def test_replaying_the_tokens_gives_the_state_and_the_distributions(name: str) -> None:
    rows, logits = cases(name)
    order, drawn = order_of(placed("llmlab", rows)), sampled(name)
    compiled = jax.jit(partial(replay, order=order))
    for at in range(6):
        inputs, history = start([rows[at]], order)
        tokens = np.array(drawn.tokens)[:, at]
        # In two pieces, the second with padding after its tokens.
        cut = 4
        first, left = compiled(logits[:cut, at], tokens[:cut], np.ones(cut, bool), inputs, history)
        more = np.concatenate([logits[cut:, at], np.zeros((1, V), np.float32)])
        counts = np.arange(cut) < STEPS - cut
        second, last = compiled(more, np.append(tokens[cut:], 0), counts, inputs, first)
        np.testing.assert_allclose(first.states[name][0], drawn.states[cut - 1][at], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(second.states[name][0], drawn.states[-1][at], rtol=1e-5, atol=1e-6)
        assert second.position.tolist() == [STEPS]
        finite = np.isfinite(np.concatenate([left, last])[:STEPS, 0]).sum(-1)
        assert finite.tolist() == [int(kept[at]) for kept in drawn.kept]


def test_a_given_token_that_mirostat_would_remove_leaves_a_state_that_is_a_number() -> None:
    row = SamplingParams(logit_bias={3: -100.0}, extra={"mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 0.5})
    order = order_of("llmlab + mirostat")
    inputs, history = start([row], order)
    logits = np.zeros((2, V), np.float32)
    logits[:, 0] = 20
    found, _ = jax.jit(partial(replay, order=order, keeps=False))(
        logits, np.array([3, 5], np.int32), np.ones(2, bool), inputs, history
    )
    # ln 2 of 120 and of 20 to the nat; the second limit is below 0, so that the most likely token alone is left.
    expected = 2 - 0.5 * (120 / np.log(2) - 1) - 0.5 * (20 / np.log(2) - 1)
    np.testing.assert_allclose(found.states["mirostat"], [expected], rtol=1e-5)


def test_what_has_no_state_has_no_place_for_one() -> None:
    for name, order in ORDERS.items():
        history = history_of(np.array([1]), np.array([2]), vocab_size=V, order=order)
        assert history.states is None and layout_of(name) == "llmlab"
    row = SamplingParams(extra={"mirostat": 2})
    with pytest.raises(RequestError, match="state of the stage mirostat after 1 tokens is not known"):
        history_of(np.array([1]), np.array([2]), vocab_size=V, order=order_of(placed("llmlab", [row])))


@pytest.mark.parametrize("order", ORDERS)
def test_they_come_last_in_every_order(order: str) -> None:
    row = SamplingParams(extra={"mirostat": 2, "adaptive_target": 0.5, "typical_p": 0.9, "xtc_probability": 0.5})
    stages = order_of(placed(order, [row]))
    known = {stage.name for stage in further_stages()}
    assert {stage.name for stage in stages} & known == {"mirostat", "adaptive_p", "typical_p", "xtc"}
    assert tuple(stage.name for stage in stages[-2:]) == NAMES
