from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmlab.distributions.blocks import BUCKETS, block_size
from llmlab.errors import RequestError
from llmlab.protocol.request import ChatRequest
from llmlab.results import next_token_grid
from llmlab.results.next_token import NextToken
from llmlab.results.next_token_at import first_token
from llmlab.sampling.pipeline import ORDERS
from tests.results.test_next_token import FakeBackend, V

TEMPERATURES, TOP_PS, MIN_PS = np.linspace(0.0, 2.0, 10), np.linspace(0.1, 1.0, 10), np.linspace(0.0, 0.45, 10)


@pytest.fixture(scope="module")
def next_token() -> NextToken:
    return first_token(FakeBackend(), ChatRequest.build("hello", repetition_penalty=1.1))


@pytest.mark.slow
def test_a_grid_of_a_thousand_is_a_thousand_evaluations_and_one_pass(demo) -> None:
    before = demo.backend.engine.prefills
    next_token = demo.next_token("Tell me a story about a cat.")
    grid = next_token.sweep(temperature=TEMPERATURES, top_p=TOP_PS, min_p=MIN_PS)
    frame = grid.frame(top=20)
    assert demo.backend.engine.prefills == before + 1
    assert grid.shape == (10, 10, 10) and len(frame) == 20_000
    found = frame["sampling_logprob"].to_numpy(dtype=float).reshape(1000, 20)
    for row, (t, p, m) in enumerate(itertools.product(TEMPERATURES, TOP_PS, MIN_PS)):
        want = next_token.sampling_logprobs(temperature=t, top_p=p, min_p=m)
        kept = np.isfinite(want)
        assert grid.kept.ravel()[row] == kept.sum()
        np.testing.assert_allclose(found[row], want[next_token.ranking[:20]], atol=2e-6)
        some = want[kept]
        assert grid.entropy.ravel()[row] == pytest.approx(-(np.exp(some) * some).sum(), abs=2e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_its_frame_is_that_of_each_cell(next_token: NextToken, order: str) -> None:
    grid = next_token.sweep(top_k=[0, 5], temperature=(0.5, 1.5), top_p=0.9, order=order)
    frame = grid.frame(top=7)
    assert list(frame.columns) == [
        "top_k", "temperature", "token", "token_id", "bytes", "logprob", "sampling_logprob", "rank", "kept",
    ]  # fmt: skip
    kinds = ["int64", "float64", "category", "int64", "object", "float64", "float64", "int64", "bool"]
    assert [str(kind) for kind in frame.dtypes] == kinds
    for (k, t), rows in frame.groupby(["top_k", "temperature"]):
        alone = next_token.frame(top=7, top_k=k, temperature=t, top_p=0.9, order=order)
        same = rows.drop(columns=["top_k", "temperature"]).reset_index(drop=True)
        np.testing.assert_allclose(same["sampling_logprob"], alone["sampling_logprob"], atol=1e-6)
        assert same.drop(columns="sampling_logprob").equals(alone.drop(columns="sampling_logprob"))
    summary = grid.summary_frame()
    assert list(summary.columns) == ["top_k", "temperature", "kept", "sampling_entropy"] and len(summary) == 4
    assert summary["kept"].tolist() == grid.kept.ravel().tolist()
    assert repr(grid) == "<next-token distributions: 2 top_k x 2 temperature>"


def test_its_columns_are_those_that_a_sweep_would_have(next_token: NextToken) -> None:
    summary = next_token.sweep(top_k=[None, -1, 3], seed=[2**60 + 1, None]).summary_frame()
    assert summary["top_k"].tolist() == [0, 0, 0, 0, 3, 3]
    assert summary["seed"].tolist()[:2] == [2**60 + 1, None], "to the last digit, which no float64 has"
    assert next_token.sweep(seed=[5, None]).summary_frame()["seed"].dtype == "float64"
    biased = next_token.sweep(logit_bias=[{}, {5: 1.0}], ignore_eos=[True]).summary_frame()
    assert biased["logit_bias"].tolist() == ["{}", '{"5": 1.0}'] and biased["ignore_eos"].dtype == "bool"


def test_a_grid_without_axes_is_one_distribution(next_token: NextToken) -> None:
    grid = next_token.sweep(top_k=3)
    assert grid.shape == () and len(grid) == 1 and len(grid.summary_frame()) == 1
    assert grid.kept == 3 and grid.frame(top=5)["kept"].sum() == 3
    assert grid.logprobs(next_token.ranking[:3]).shape == (3,)


def test_a_grid_of_other_fields(next_token: NextToken) -> None:
    grid = next_token.sweep(logit_bias=[{}, {7: 50.0}], response_format=[None, {"type": "json_object"}])
    best = [frame["token_id"].iloc[frame["sampling_logprob"].argmax()] for _, frame in grid.frame(top=None).groupby(
        ["logit_bias", "response_format"], dropna=False, sort=False)]  # fmt: skip
    assert best[2] == 7 and best[1] % 2 == 0 == best[3] % 2
    assert grid.kept.tolist() == [[V, V // 2]] * 2


@pytest.mark.parametrize("cells", [1, 2, 8, 9, 64, 65, 130])
def test_blocks_come_in_few_shapes(next_token: NextToken, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, compiled = [], next_token_grid.row_statistics

    def noted(logits, inputs, *rest, **more):
        shapes.append(len(inputs.top_k))
        return compiled(logits, inputs, *rest, **more)

    monkeypatch.setattr(next_token_grid, "row_statistics", noted)
    values = np.linspace(0.1, 2.0, cells)
    grid = next_token.sweep(temperature=values)
    assert grid.kept.shape == (cells,)
    assert set(shapes) <= set(BUCKETS) and sum(shapes) < cells + 64
    alone = next_token.frame(top=None, temperature=float(values[-1]))["sampling_logprob"]
    np.testing.assert_allclose(grid.logprobs(next_token.ranking)[-1], alone, atol=1e-6)


def test_a_large_vocabulary_goes_in_small_blocks() -> None:
    assert block_size(2_000) == 64 and block_size(151_936) == 8 and block_size(10**8) == 1


def test_nothing_compiles_for_another_grid(next_token: NextToken) -> None:
    next_token.sweep(temperature=[0.5, 1.0, 1.2], top_p=[0.5, 0.9]).summary_frame()
    before = next_token_grid.row_statistics._cache_size()
    next_token.sweep(min_p=[0.1, 0.2], top_k=[1, 2, 3, 4]).summary_frame()
    next_token.sweep(presence_penalty=np.linspace(-1, 1, 6), logit_bias={3: 1.0}).summary_frame()
    assert next_token_grid.row_statistics._cache_size() == before


def test_what_cannot_be_varied(next_token: NextToken) -> None:
    with pytest.raises(RequestError, match="temperature must be between 0 and 2") as caught:
        next_token.sweep(temperature=[0.5, 9.0]).summary_frame()
    assert caught.value.param == "temperature"
    with pytest.raises(RequestError, match="top_p is varied over no value"):
        next_token.sweep(top_p=[])
    with pytest.raises(RequestError, match="unknown field 'temperatur'"):
        next_token.sweep(temperatur=[0.5]).summary_frame()
    with pytest.raises(RequestError, match="order"):
        next_token.sweep(order="mine")
    monster = next_token.sweep(temperature=np.linspace(0, 2, 400), top_p=np.linspace(0.1, 1, 400))
    with pytest.raises(ValueError, match="160,000 cells of 48 tokens"):
        monster.frame(top=None)
