"""A stage that a user writes, through everything that a built-in one goes through."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import openai
import pytest

import llmlab
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.protocol.request import ChatRequest
from llmlab.sampling import ORDERS, Stage, define_stage, number
from llmlab.sampling.registry import forget
from llmlab.serve.responses.request import ResponsesRequest
from tests.engine.test_recompilation import compiled
from tests.serve.conftest import running

ASK = "Name an animal."


def written() -> Stage:
    """Top-n-sigma as a user would write it from the paper (Tang et al. 2024)."""

    @define_stage(number("n_sigma", 0, 10, default=0), kind="truncation")
    def sigma(logits, inputs, history):  # type: ignore[no-untyped-def]
        n = inputs.n_sigma[:, None]
        top = jnp.max(logits, axis=-1, keepdims=True)
        spread = jnp.std(logits, axis=-1, keepdims=True, where=logits > -jnp.inf)
        return jnp.where(logits >= top - n * spread, logits, -jnp.inf)

    return sigma


@pytest.fixture
def sigma() -> Iterator[Stage]:
    yield written()
    forget("sigma")


def allowed(lab: Lab, n: float, *, temperature: float = 1.0) -> set[int]:
    """The tokens that top-n-sigma keeps, in float64."""
    logits = lab.next_token(ASK).logits.astype(np.float64)
    return set(np.flatnonzero(logits / temperature >= logits.max() / temperature - n * logits.std() / temperature))


def test_it_goes_through_everything(demo: Lab, sigma: Stage, tmp_path: Path) -> None:
    order: Any = ["llmlab", sigma]
    fields = {"n_sigma": 0.5, "temperature": 1.2}
    kept = allowed(demo, 0.5)
    assert 1 < len(kept) < 12

    r = demo.chat(ASK, order=order, seed=7, n=8, max_tokens=3, **fields)
    assert r.order.startswith("llmlab > sigma") and {int(choice.tokens.ids[0]) for choice in r.choices} <= kept
    assert set(r.logprobs_frame().query("position == 0")["kept"]) == {len(kept)}
    with demo.stream(ASK, order=order, seed=7, n=8, max_tokens=3, **fields) as stream:
        list(stream)
    assert stream.result().texts == r.texts
    named = demo.chat(ASK, seed=7, n=8, max_tokens=3, **fields)
    assert named.order == "llmlab" and named.texts == r.texts, "a named order gains the stage at its end"
    library = demo.chat(ASK, seed=7, n=8, max_tokens=3, temperature=1.2, top_n_sigma=0.5)
    assert library.texts == r.texts

    step = demo.next_token(ASK, order=order, seed=7, **fields)
    stages = step.stages_frame(top=40)
    own = stages[stages["stage"] == "sigma"]
    assert own["active"].all() and (own["removed_by"].fillna("kept") == "sigma").any()
    assert set(own[own["removed_by"].isna()]["token_id"]) == kept
    assert len(step.sweep(n_sigma=[0.0, 0.5, 3.0]).summary_frame()["kept"].unique()) == 3
    assert [cut.name for cut in step.truncation().cuts] == ["sigma"]
    step.plot_truncation()
    token = int(step.ranking[len(kept) - 1])
    flips = step.flip_points_frame(token).query("event == 'kept'").set_index("parameter")
    least = (step.logits.max() - step.logits[token]) / step.logits.astype(np.float64).std()
    np.testing.assert_allclose(flips.loc["n_sigma", ["low", "high"]].astype(float), [least, 10.0], rtol=1e-5)
    assert flips.loc["n_sigma", "value"] == 0.5 and flips.loc["temperature", "high"] == 2.0
    shown = step.temperatures([0.5, 1.5], top=30)
    assert shown.removed["sigma"].tolist() == [len(step.logits) - len(kept)] * 2
    step.plot_temperatures()
    step.plot_stages(int(step.ranking[0]))

    assert demo.check_sampler(ASK, order=order, draws=2000, **fields).verdict
    orders = demo.compare_orders(ASK, orders=["vllm", order], seed=7, max_tokens=3, n_sigma=0.5)
    assert list(orders.results) == ["llmlab", "vllm", r.order] and len(orders.summary_frame()) == 2
    scored = demo.score(r)
    np.testing.assert_allclose(
        scored.logprobs_frame()["sampling_logprob"], r.logprobs_frame()["sampling_logprob"], atol=1e-4
    )
    assert r.rerun(n_sigma=3.0).diff().frame is not None

    playground = demo.playground(ASK, order=order, seed=7, **fields)
    assert playground.state.sides["A"].values["n_sigma"] == 0.5
    assert playground.state.request("A").n_sigma == 0.5 and playground.state.order("A") == r.order

    r.save(tmp_path / "r.parquet")
    back = llmlab.Result.load(tmp_path / "r.parquet", lab=demo)
    assert back.order == r.order and back.request.n_sigma == 0.5 and back.rerun().texts == r.texts


def test_a_second_sweep_compiles_nothing(demo: Lab, sigma: Stage) -> None:
    asked: dict[str, Any] = {"order": ["llmlab", sigma], "n": 2, "seed": 3, "max_tokens": 4}
    frame = demo.sweep(ASK, n_sigma=[0.1, 1.0, 4.0], **asked).frame()
    assert frame["n_sigma"].tolist() == [0.1, 0.1, 1.0, 1.0, 4.0, 4.0]
    before = len(compiled())
    demo.sweep(ASK, n_sigma=[0.2, 2.0, 5.0], **asked)
    demo.chat(ASK, seed=4, n=2, max_tokens=4, order=[*ORDERS["llmlab"], sigma], n_sigma=0.3)
    assert len(compiled()) == before


def test_defining_it_again_replaces_it(demo: Lab, sigma: Stage) -> None:
    first = demo.next_token(ASK, n_sigma=0.5, order=["llmlab", sigma])
    again = written()
    second = demo.next_token(ASK, n_sigma=0.5, order=["llmlab", "sigma"])
    assert first.order != second.order and second.order.startswith("llmlab > sigma#")
    assert again.name == "sigma"
    assert np.array_equal(first.sampling_logprobs(), second.sampling_logprobs())


def test_a_file_whose_stage_is_not_there_is_one_clear_error(demo: Lab, tmp_path: Path) -> None:
    stage = written()
    demo.chat(ASK, order=["llmlab", stage], n_sigma=0.5, max_tokens=2).save(tmp_path / "r.parquet")
    forget("sigma")
    from llmlab.sampling import registry

    for label in [label for label, one in registry._DEFINED.items() if one.name == "sigma"]:
        del registry._DEFINED[label]
    with pytest.raises(RequestError, match="sigma"):
        llmlab.Result.load(tmp_path / "r.parquet")


def test_over_http_it_is_a_field_of_the_request(sigma: Stage) -> None:
    schema = ChatRequest.model_json_schema()
    assert schema["properties"]["n_sigma"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 10}
    request = ChatRequest.build(ASK, n_sigma=0.5)
    assert "extra_body" in request.to_openai() and request.to_dict()["n_sigma"] == 0.5
    with pytest.raises(RequestError, match="n_sigma must be between 0 and 10, got 11"):
        ChatRequest.build(ASK, n_sigma=11)
    with pytest.raises(RequestError, match="did you mean 'n_sigma'"):
        ChatRequest.build(ASK, n_sigmo=1)


def test_the_client_sends_it(demo: Lab, sigma: Stage) -> None:
    answer = demo.client().chat.completions.create(
        model="demo", messages=[{"role": "user", "content": ASK}], seed=7, max_tokens=3, extra_body={"n_sigma": 0.5}
    )
    assert answer.choices[0].message.content == demo.chat(ASK, seed=7, max_tokens=3, n_sigma=0.5).text


def test_a_response_has_it_too(demo: Lab, sigma: Stage) -> None:
    schema = ResponsesRequest.model_json_schema()
    assert schema["properties"]["n_sigma"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 10}
    with running(demo.backend) as server:
        ask = partial(server.client().responses.create, model="demo", input=ASK, max_output_tokens=3)
        answer = ask(extra_body={"n_sigma": 0.5, "seed": 7})
        assert answer.output_text == demo.chat(ASK, seed=7, max_tokens=3, n_sigma=0.5).text
        *_, last = ask(extra_body={"n_sigma": 0.5, "seed": 7}, stream=True)
        assert last.response.output_text == answer.output_text
        for fields, words in (
            ({"n_sigma": 11}, "between 0 and 10, got 11"),
            ({"n_sigmo": 1}, "did you mean 'n_sigma'"),
        ):
            with pytest.raises(openai.BadRequestError, match=words) as error:
                ask(extra_body=fields)
            assert error.value.param == next(iter(fields))
    forget("sigma")
    with pytest.raises(RequestError, match="unknown field 'n_sigma'"):
        ResponsesRequest(input=ASK, n_sigma=0.5)


def test_an_order_that_would_drop_a_field_is_an_error(demo: Lab, sigma: Stage) -> None:
    with pytest.raises(RequestError, match="top_p would have no effect"):
        demo.chat(ASK, order=["temperature", sigma], top_p=0.9)
    with pytest.raises(RequestError, match="n_sigma would have no effect"):
        demo.chat(ASK, order=["temperature"], n_sigma=0.9)
    with pytest.raises(RequestError, match="there is no stage 'sigmo'"):
        demo.chat(ASK, order=["temperature", "sigmo"])
    with pytest.raises(RequestError, match="names the stage 'temperature' twice"):
        demo.chat(ASK, order=["llmlab", "temperature"])


WRONG: dict[str, tuple[Any, str]] = {
    "returned": (lambda logits, inputs, history: logits[:, :3], r"stage mine returned float32\[5, 3\]"),
    "other rows": (lambda logits, inputs, history: logits - jnp.max(logits), "other rows than alone"),
    "NaN": (lambda logits, inputs, history: jnp.where(logits > 9, jnp.nan, logits * 0), "NaN"),
    "brought back": (lambda logits, inputs, history: jnp.maximum(logits, -50.0), "brought back a removed token"),
    "every token": (lambda logits, inputs, history: jnp.full_like(logits, -jnp.inf), "removed every token"),
    "truncation": (lambda logits, inputs, history: logits / 2, "is a truncation and changed the logit"),
    "no attribute": (lambda logits, inputs, history: logits * inputs.absent, "failed on logits"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_found_at_the_definition(name: str) -> None:
    function, words = WRONG[name]
    with pytest.raises(RequestError, match=words):
        define_stage(number("mine_strength", 0, 1, default=0), kind="truncation", name="mine")(function)


def test_names_that_are_taken_are_refused() -> None:
    def same(logits: Any, inputs: Any, history: Any) -> Any:
        return logits

    with pytest.raises(RequestError, match="a stage 'top_k' already"):
        define_stage(name="top_k")(same)
    with pytest.raises(RequestError, match="the parameter top_p is that of the stage top_p"):
        define_stage(number("top_p", 0, 1, default=1), name="mine")(same)
    with pytest.raises(RequestError, match="'max_tokens' is a field of every request"):
        define_stage(number("max_tokens", 0, 1, default=1), name="mine")(same)
