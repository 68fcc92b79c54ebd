"""Stages with a state, a user's own and the library's, through the lab: generated, served, looked at and continued."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import openai
import pytest

import llmlab
from llmlab.cli.sampling import define_named
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.results.result import Result
from llmlab.sampling import LAST, Stage, State, define_stage, integer, number
from llmlab.sampling.registry import forget
from tests.engine.test_recompilation import compiled
from tests.serve.conftest import running

ASK = "Tell me a short story."
WRITTEN = '''
import jax.numpy as jnp
from llmlab.sampling import State, define_stage, number


def begin(inputs):
    return jnp.stack([inputs.goal, jnp.ones_like(inputs.goal)], axis=-1)


def advance(state, before, after, token, inputs):
    """The sum of the drawn tokens' surprise, in nats, and how many they are."""
    shifted = before - jnp.max(before, axis=-1, keepdims=True)
    own = jnp.take_along_axis(shifted, token[:, None], axis=-1)[:, 0]
    surprise = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) - jnp.maximum(own, -20.0)
    return state + jnp.stack([surprise, jnp.ones_like(surprise)], axis=-1)


@define_stage(number("goal", 0, 5, default=0), kind="temperature", state=State(begin, advance, size=2))
def steady(logits, inputs, history, state):
    """Hotter where the drawn tokens were less surprising than they should be, on average."""
    heat = jnp.clip(1.0 + inputs.goal - state[:, 0] / state[:, 1], 0.2, 3.0)
    return logits / heat[:, None]
'''
FIELDS = {"goal": 0.8, "temperature": 0.9, "top_p": 0.95}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage in a file, as `llmlab serve --stages steady_stage:steady` finds it."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "steady_stage.py").write_text(WRITTEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        define_named(["steady_stage:steady"])
        yield importlib.import_module("steady_stage").steady
    sys.modules.pop("steady_stage")
    forget("steady")


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.logaddexp.reduce(x)


def expected(r: Result, choice: int) -> tuple[list[float], list[float]]:
    """The temperature that `steady` has before each token, and each token's logprob under it, in float64."""
    total, count, heats, logprobs = FIELDS["goal"], 1, [], []
    for logits, token in zip(
        r.next_tokens(choice=choice).logits.astype(np.float64), r.choices[choice].tokens.ids, strict=True
    ):
        heats.append(float(np.clip(1 + FIELDS["goal"] - total / count, 0.2, 3.0)))
        x = logits / heats[-1] / FIELDS["temperature"]
        ranked = np.argsort(-x, kind="stable")
        p = np.exp(log_softmax(x))[ranked]
        x[ranked[np.cumsum(p) - p >= FIELDS["top_p"]]] = -np.inf
        logprobs.append(log_softmax(x)[token])
        total, count = (
            total - max(log_softmax(logits)[token], -20 - logits.max() + np.logaddexp.reduce(logits)),
            count + 1,
        )
    return heats, logprobs


def test_a_users_own_goes_through_everything(demo: Lab, steady: Stage, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"seed": 7, "n": 3, "max_tokens": 12, "ignore_eos": True, **FIELDS}
    r = demo.chat(ASK, **asked)
    for choice in range(3):
        heats, logprobs = expected(r, choice)
        np.testing.assert_allclose(r.choices[choice].tokens.sampling_logprob, logprobs, atol=2e-3)
        assert max(heats) - min(heats) > 0.1
    with demo.stream(ASK, **asked) as stream:
        list(stream)
    assert stream.result().texts == r.texts
    alone = demo.chat(ASK, **{**asked, "n": 1})
    assert alone.texts == r.texts[:1]
    listed = demo.chat(ASK, **asked, order=["llmlab", steady])
    assert listed.order == "llmlab > steady" and listed.data.choices[0].tokens.kept.any()

    heats, _ = expected(r, 1)
    at = r.next_token(8, choice=1)
    frame = at.stages_frame(tokens=int(at.ranking[0])).set_index("stage")
    before, after = (float(frame.loc[name, "logit"]) for name in ("mask", "steady"))
    assert frame.loc["steady", "active"] and before / after == pytest.approx(heats[8], rel=1e-4)
    tokens = r.choices[1].tokens
    assert at.sampling_logprobs()[tokens.ids[8]] == pytest.approx(tokens.sampling_logprob[8], abs=1e-4)
    assert int(at.sample([7], choice=1)[0]) == tokens.ids[8]
    flips = at.flip_points_frame(int(tokens.ids[8])).query("event == 'drawn' and parameter == 'goal'")
    assert ((flips["low"] <= 0.8) & (flips["high"] >= 0.8)).any()
    kept = [int(np.isfinite(step.sampling_logprobs()).sum()) for step in r.next_tokens(choice=1)]
    assert kept == tokens.kept.tolist()
    under = at.sweep(goal=[0.0, 0.8, 4.0]).summary_frame()["sampling_entropy"]
    assert under.is_monotonic_increasing and under.nunique() > 1

    scored = demo.score(r)
    for one, other in zip(scored.choices, r.choices, strict=True):
        np.testing.assert_allclose(one.tokens.sampling_logprob, other.tokens.sampling_logprob, atol=1e-4)
    assert r.branch(5, choice=1).choices[0].tokens.ids.tolist() == tokens.ids.tolist()
    assert r.rerun().texts == r.texts
    assert demo.check_sampler(ASK, draws=2000, **FIELDS).fits
    r.save(tmp_path / "r.parquet")
    assert llmlab.Result.load(tmp_path / "r.parquet", lab=demo).rerun().texts == r.texts
    playground = demo.playground(ASK, seed=7, **FIELDS)
    assert playground.state.request("A").goal == 0.8


def test_a_second_sweep_compiles_nothing(demo: Lab, steady: Stage) -> None:
    asked: dict[str, Any] = {"n": 2, "seed": 3, "max_tokens": 4}
    assert len(demo.sweep(ASK, goal=[0.5, 1.0], **asked).frame()) == 4
    before = len(compiled())
    demo.sweep(ASK, goal=[0.2, 2.0, 3.0], **asked)
    demo.chat(ASK, goal=4.0, **asked)
    assert len(compiled()) == before


def test_over_http(demo: Lab, steady: Stage) -> None:
    here = demo.chat(ASK, seed=7, max_tokens=8, **FIELDS)
    asked: Any = {"model": "demo", "messages": [{"role": "user", "content": ASK}], "seed": 7, "max_tokens": 8}
    with running(demo.backend) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="-") as client:
        ask = client.chat.completions.create
        assert ask(**asked, extra_body=FIELDS).choices[0].message.content == here.text
        chunks = list(ask(**asked, stream=True, extra_body=FIELDS))
        assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == here.text
        with pytest.raises(openai.BadRequestError) as refused:
            ask(**asked, extra_body={**FIELDS, "goal": 9})
        assert refused.value.param == "goal"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"initial": lambda inputs: 1.0}, r"initial state of the stage mine is float32\[\] for 5 rows"),
    "size": ({"size": 2}, r"return float32\[5, 2\] \(size=2\)"),
    "field": ({"initial": lambda inputs: inputs.absent}, "initial state of the stage mine failed"),
    "whole": ({"advance": lambda state, before, after, token, inputs: token}, "advanced state .* is int32"),
    "number": (
        {"advance": lambda state, before, after, token, inputs: state + jnp.min(before, axis=-1)},
        "not a finite number",
    ),
    "rows": ({"advance": lambda state, before, after, token, inputs: state + before.max()}, "beside other rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_a_state_is_found_at_the_definition(name: str) -> None:
    changed, words = WRONG[name]
    right = {"initial": lambda inputs: inputs.mine_begin, "advance": lambda state, *_: state}
    state = State(**{**right, **changed})
    with pytest.raises(RequestError, match=words):
        define_stage(number("mine_begin", 0, 1, default=0), name="mine", state=state)(lambda x, i, h, s: x)


def test_a_stage_without_fields_may_have_one_and_come_last(demo: Lab) -> None:
    counted = State(
        lambda inputs: jnp.zeros_like(inputs.temperature), lambda state, before, after, token, inputs: state + 1.0
    )

    @define_stage(integer("patience", 0, 100, default=0), kind="truncation", after=LAST, state=counted)
    def impatient(logits, inputs, history, state):  # type: ignore[no-untyped-def]
        best = logits >= jnp.max(logits, axis=-1, keepdims=True)
        return jnp.where(best | (state < inputs.patience.astype(jnp.float32))[:, None], logits, -jnp.inf)

    try:
        r = demo.chat(ASK, seed=1, patience=4, temperature=1.5, max_tokens=10, ignore_eos=True)
        assert [count == 1 for count in r.choices[0].tokens.kept] == [False] * 4 + [True] * 6
    finally:
        forget("impatient")


LIBRARY: list[dict[str, Any]] = [
    {"mirostat": 2, "mirostat_tau": 1.5, "mirostat_eta": 0.4},
    {"adaptive_target": 0.5, "adaptive_decay": 0.6, "min_p": 0.02},
]


@pytest.mark.parametrize(
    "fields",
    [pytest.param(LIBRARY[0], id="mirostat"), pytest.param(LIBRARY[1], id="adaptive_p", marks=pytest.mark.slow)],
)
def test_those_of_the_library_look_the_same_from_everywhere(demo: Lab, fields: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"seed": 5, "n": 2, "max_tokens": 40, "temperature": 1.3, "ignore_eos": True, **fields}
    r = demo.chat(ASK, **asked)
    own = r.choices[1].tokens
    for step, kept, token, logprob in zip(
        r.next_tokens(choice=1), own.kept, own.ids, own.sampling_logprob, strict=True
    ):
        found = step.sampling_logprobs()
        assert np.isfinite(found).sum() == kept and found[token] == pytest.approx(logprob, abs=1e-3)
    assert r.next_token(35, choice=1).sampling_logprobs()[own.ids[35]] == pytest.approx(
        own.sampling_logprob[35], abs=1e-3
    )
    scored = demo.score(r).choices[1].tokens
    assert scored.kept.tolist() == own.kept.tolist()
    branched = r.branch(20, choice=1).choices[0].tokens
    assert branched.ids.tolist() == own.ids.tolist() and branched.kept.tolist() == own.kept.tolist()

    orders = demo.compare_orders(ASK, orders=["llama.cpp", "vllm"], **asked)
    frame = orders.frame().query("order == 'llmlab' and choice == 1")
    np.testing.assert_allclose(frame["sampling_logprob"], own.sampling_logprob, atol=1e-3)
    assert frame["kept"].tolist() == own.kept.tolist() and frame["drawn_id"].tolist() == own.ids.tolist()

    # The cause of a difference that a field of the state makes after many tokens.
    name, value = ("mirostat_eta", 0.1) if "mirostat" in fields else ("adaptive_decay", 0.9)
    other = r.rerun(**{name: value})
    reasons = other.diff(r).frame()
    assert reasons["position"].max() > 0 and other.texts != r.texts
    assert f"{name} alone" in repr(other.diff(r))


def test_a_grammar_is_followed_and_its_masks_count(demo: Lab) -> None:
    asked: dict[str, Any] = {**LIBRARY[0], "seed": 2, "max_tokens": 30, "temperature": 1.4}
    r = demo.chat(ASK, structured_outputs={"regex": "[a-z ]{60}"}, **asked)
    own = r.choices[0].tokens
    assert len(own.ids) > 12 and len(set(own.kept.tolist())) > 2
    assert demo.score(r).choices[0].tokens.kept.tolist() == own.kept.tolist()
    assert int(np.isfinite(r.next_token(10).sampling_logprobs()).sum()) == own.kept[10]
    branched = r.branch(6).choices[0].tokens
    assert branched.ids.tolist() == own.ids.tolist()
    tree = r.next_token(10).sweep(mirostat_tau=[0.5, 1.5, 6.0]).summary_frame()["kept"].tolist()
    assert tree == sorted(tree) and tree[1] == own.kept[10]


def test_version_one_is_refused(demo: Lab) -> None:
    with pytest.raises(RequestError, match="mirostat must not be 1: only version 2 is offered") as caught:
        demo.chat(ASK, mirostat=1)
    assert caught.value.param == "mirostat"
