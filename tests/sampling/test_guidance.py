"""The stages that compare with a negative prompt, against oracles in float64 written from the papers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.errors import RequestError
from llmlab.protocol.request import ChatRequest, PromptRequest
from llmlab.sampling import FIRST, ORDERS, Stage, define_stage, number
from llmlab.sampling.history import history_of, in_sequence
from llmlab.sampling.library import LIBRARY
from llmlab.sampling.orders import GUIDED, compares_prompts, layout_of, order_of, placed
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from llmlab.sampling.pipeline import process
from llmlab.sampling.registry import forget
from llmlab.sampling.stage import reads_negative

V, CASES = 53, 560
STAGES = {stage.name: stage for stage in LIBRARY if stage.reads_negative}


def test_these_are_the_stages_that_compare() -> None:
    assert list(STAGES) == ["guidance", "contrast"] and all(in_sequence((stage,)) for stage in STAGES.values())


def cases(name: str) -> tuple[list[SamplingParams], np.ndarray, np.ndarray]:
    """Settings, and logits [CASES, V] after both prompts: flat and steep, some with ties, some with removed tokens."""
    rng = np.random.default_rng(7)
    own, other = rng.normal(0, rng.choice([0.3, 1.5, 6.0], (2, CASES, 1)), (2, CASES, V)).astype(np.float32)
    own[::4], other[::4] = np.round(own[::4]), np.round(other[::4])
    own[1::5, :20] = -np.inf
    other[2::5, 10:30] = -np.inf
    own[::40, 1:] = -np.inf
    rows = []
    for i in range(CASES):
        extra = {"guidance_scale": [0.0, 0.5, 1.5, 3.0, 20.0][i % 5] + rng.uniform(0, 0.1)}
        if name == "contrast":
            extra = {
                "contrastive_strength": rng.uniform(0.05, 1.5),
                "contrastive_alpha": [0.0, 0.1, 0.5, 1.0, rng.uniform()][i % 5],
            }
        rows.append(SamplingParams(extra=extra))
    return rows, own, other


def arguments(rows: list[SamplingParams], other: np.ndarray, order: Any) -> tuple[SamplerInputs, History]:
    one = history_of(np.array([1, 2]), np.array([3]), vocab_size=V)
    history = jax.tree.map(lambda x: np.repeat(x, len(rows), axis=0), one)
    return stack(rows, vocab_size=V, order=order)._replace(negative=other), history


def normed(x: np.ndarray) -> np.ndarray:
    left = np.isfinite(x)
    return np.where(left, x - np.logaddexp.reduce(x[left]), -np.inf)


def guidance(own: np.ndarray, other: np.ndarray, extra: dict[str, float]) -> np.ndarray:
    """Sanchez et al. 2023, equation 6. Where one of the two is never said, the prompt's own counts."""
    both = np.isfinite(own) & np.isfinite(other)
    l, n = np.where(both, own, 0.0), np.where(both, other, 0.0)  # noqa: E741
    return np.where(both, n + extra["guidance_scale"] * (l - n), own)


def contrast(own: np.ndarray, other: np.ndarray, extra: dict[str, float]) -> np.ndarray:
    """Li et al. 2022, equations 2 and 3, with a strength."""
    known = np.isfinite(other) & np.isfinite(own)
    moved = np.where(known, own - extra["contrastive_strength"] * np.where(known, other, 0.0), own)
    return np.where(np.exp(own - own.max()) >= extra["contrastive_alpha"], moved, -np.inf)


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize(("name", "oracle"), [("guidance", guidance), ("contrast", contrast)])
def test_the_oracle(name: str, oracle: Any, by_rows: bool) -> None:
    rows, own, other = cases(name)
    order = (STAGES[name],)
    compiled = jax.jit(lambda x, y, z: process(x, y, z, order=order, by_rows=by_rows))
    found = np.asarray(compiled(own, *arguments(rows, other, order)), np.float64)
    close = 0
    for at, params in enumerate(rows):
        l, n = normed(own[at].astype(np.float64)), normed(other[at].astype(np.float64))  # noqa: E741
        expected = oracle(l, n, params.extra)
        # A token within rounding of the cut may go either way.
        border = np.abs(np.exp(l - l.max()) / max(params.extra.get("contrastive_alpha", 1), 1e-9) - 1) < 1e-5
        border &= name == "contrast"
        close += int(border.sum())
        np.testing.assert_array_equal(np.isfinite(found[at])[~border], np.isfinite(expected)[~border])
        there = np.isfinite(expected) & np.isfinite(found[at])
        np.testing.assert_allclose(found[at][there], expected[there], rtol=2e-5, atol=2e-4)
        assert there.any()
    assert close < 5 * CASES


def test_rows_in_a_mixed_batch_equal_rows_alone_and_neutral_ones_keep_every_bit() -> None:
    order = tuple(STAGES.values())
    some = [
        {"guidance_scale": 2.0},
        {"contrastive_strength": 1.0},
        {},
        {"guidance_scale": 1.0, "contrastive_alpha": 0.9},
    ]
    rows = [SamplingParams(extra=each) for each in some]
    _, own, other = cases("guidance")
    own, other = own[:4], other[:4]
    for by_rows in (False, True):
        compiled = jax.jit(lambda x, y, z, by_rows=by_rows: process(x, y, z, order=order, by_rows=by_rows))
        inputs, history = arguments(rows, other, order)
        together = np.asarray(compiled(own, inputs, history))
        for at in range(4):
            one = jax.tree.map(lambda x, at=at: np.asarray(x)[at : at + 1], (own, inputs, history))
            np.testing.assert_allclose(np.asarray(compiled(*one))[0], together[at], atol=1e-5)
        np.testing.assert_array_equal(together[2:], own[2:])


def test_where_they_stand_in_the_orders() -> None:
    rows = [SamplingParams(extra={"guidance_scale": 2.0, "contrastive_strength": 1.0, "no_repeat_ngram_size": 2})]
    for name, order in ORDERS.items():
        found = [stage.name for stage in order_of(placed(name, rows))]
        assert found[0] == "guidance"
        first = next(at for at, stage in enumerate(order) if stage.kind in ("temperature", "truncation"))
        assert found[found.index("contrast") + 1] == order[first].name and found.index("mask") < found.index("contrast")
        assert found.index("no_repeat_ngram") < found.index("contrast")
    assert layout_of(GUIDED) == GUIDED and reads_negative(order_of(GUIDED))
    assert compares_prompts("vllm", rows[0]) and not compares_prompts("vllm", SamplingParams())
    assert placed("llmlab", [SamplingParams(extra={"contrastive_alpha": 0.5})]) == "llmlab", "off without a strength"
    with pytest.raises(RequestError, match="guidance_scale would have no effect: order lacks its stage"):
        placed("mask > temperature", rows)


def test_context_aware_decoding_is_guidance() -> None:
    """Shi et al. 2023, equation 3: softmax((1 + a) * logits with the context - a * logits without it)."""
    rng = np.random.default_rng(3)
    own, other = rng.normal(0, 2, (2, 1, V)).astype(np.float32)
    order = (STAGES["guidance"],)
    rows = [SamplingParams(extra={"guidance_scale": 1.5})]
    found = np.asarray(process(jnp.asarray(own), *arguments(rows, other, order), order=order), np.float64)[0]
    np.testing.assert_allclose(normed(found), normed((1.5 * own - 0.5 * other)[0].astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_another_form_of_contrastive_decoding_is_a_strength_at_a_temperature(temperature: float) -> None:
    """O'Brien and Lewis 2023: (1 + beta) * l - beta * n, as the module's first lines say."""
    rng = np.random.default_rng(4)
    own, other = rng.normal(0, 2, (2, 1, V)).astype(np.float32)
    l, n = normed(own[0].astype(np.float64)), normed(other[0].astype(np.float64))  # noqa: E741
    beta = 0.5
    expected = np.where(np.exp(l - l.max()) >= 0.1, (1 + beta) * l - beta * n, -np.inf) / temperature
    order = order_of(placed("llmlab", [SamplingParams(extra={"contrastive_strength": 1.0})]))
    row = SamplingParams(temperature=temperature / (1 + beta), extra={"contrastive_strength": beta / (1 + beta)})
    found = np.asarray(process(jnp.asarray(own), *arguments([row], other, order), order=order), np.float64)[0]
    np.testing.assert_allclose(np.exp(normed(found)), np.exp(normed(expected)), atol=1e-6)


def test_a_negative_prompt_stands_beside_a_stage_that_reads_it() -> None:
    for fields in ({}, {"temperature": 0.5}):
        with pytest.raises(RequestError, match="negative_prompt would have no effect") as error:
            ChatRequest.build("x", negative_prompt="y", **fields)
        assert error.value.param == "negative_prompt"
    for fields in ({"guidance_scale": 1.0}, {"contrastive_strength": 0.0}, {"contrastive_alpha": 0.2}):
        assert ChatRequest.build("x", negative_prompt="", **fields).negative_prompt == ""
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}]
    asked = ChatRequest.build("x", negative_prompt=chat, guidance_scale=2)
    assert asked.negative_prompt[0] == chat[0] and asked.to_dict()["negative_prompt"] == chat
    assert ChatRequest(**asked.to_dict()) == asked
    assert PromptRequest.build("x", negative_prompt=np.array([1, 2]), guidance_scale=2).negative_prompt == (1, 2)
    with pytest.raises(RequestError, match="messages belong to a chat"):
        PromptRequest.build("x", negative_prompt=chat, guidance_scale=2)
    for bad in (5, [], [1, -1], [{"role": "robot", "content": "x"}], {"role": "user"}):
        with pytest.raises(RequestError, match="negative_prompt"):
            ChatRequest.build("x", negative_prompt=bad, guidance_scale=2)


@pytest.fixture
def own_stage() -> Any:
    @define_stage(number("against", 0, 4, default=0.0), reads_negative=True, after=FIRST)
    def against(logits: Any, inputs: Any, history: Any) -> Any:
        return logits - inputs.against[:, None] * inputs.negative

    yield against
    forget("against")


def test_a_stage_of_ones_own_may_compare_too(own_stage: Stage) -> None:
    assert own_stage.reads_negative
    asked = ChatRequest.build("x", negative_prompt="y", against=0.5)
    assert compares_prompts("llmlab", SamplingParams.of(asked, seed=0))
    assert order_of(placed("sglang", [SamplingParams.of(asked, seed=0)]))[0] == own_stage
