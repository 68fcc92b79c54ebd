"""Sweeps: what is asked, with which noise, in how many passes; what their frames hold; breaking off and going on."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy import stats

import llmlab
from llmlab import metrics
from llmlab.errors import RequestError
from llmlab.frames.tokens import logprobs_frame
from llmlab.lab.lab import Lab
from llmlab.protocol.backend import Backend
from llmlab.protocol.completion import Completion, ToolCall
from llmlab.protocol.request import ChatRequest
from llmlab.sweeps import gather as gather_module
from llmlab.sweeps.grid import Cell, Grid
from llmlab.sweeps.sweep import Sweep
from llmlab.testing import tiny_checkpoint
from tests.backends.endpoint import Endpoint, entry, whole

DTYPES = {
    "choice": "int64", "seed": "int64", "text": "str", "finish_reason": "str", "tokens": "int64",
    "mean_logprob": "float64", "perplexity": "float64", "mean_entropy": "float64", "distinct_1": "float64",
    "distinct_2": "float64", "lacks_end": "bool",
}  # fmt: skip
QUESTION = "Name an animal."


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in frame.dtypes.items()}


def same_to_the_bit(one: Sweep, other: Sweep) -> None:
    """Grid, seeds, texts and every figure of every token."""
    assert [cell.key for cell in one.cells] == [cell.key for cell in other.cells]
    assert_frame_equal(one.frame(metrics={}), other.frame(metrics={}), check_exact=True)
    for a, b in zip(one.results, other.results, strict=True):
        for mine, yours in zip(a.choices, b.choices, strict=True):
            for field in dataclasses.fields(mine.tokens):
                np.testing.assert_array_equal(getattr(mine.tokens, field.name), getattr(yours.tokens, field.name))


@pytest.fixture(scope="module")
def swept(demo) -> Sweep:
    """Two prompts, two temperatures, two orders, four completions each."""
    return demo.sweep(
        [QUESTION, "Roll a die."], temperature=[0.5, 1.5], order=["llmlab", "vllm"], n=4, seed=7, max_tokens=6,
        metrics={"rare": lambda tokens: (tokens["logprob"] < -2).mean()},
    )  # fmt: skip


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_the_grid_has_the_last_axis_fastest(swept) -> None:
    assert dict(swept.axes) == {
        "prompt": (QUESTION, "Roll a die."),
        "temperature": (0.5, 1.5),
        "order": ("llmlab", "vllm"),
    }
    assert list(swept.axes) == ["prompt", "temperature", "order"]
    points = [tuple(cell.point.values()) for cell in swept.cells]
    assert points == [(p, t, o) for p in (QUESTION, "Roll a die.") for t in (0.5, 1.5) for o in ("llmlab", "vllm")]
    assert swept.is_complete and len(swept) == 32 and len(swept.results) == 8
    assert all(result.request.max_tokens == 6 and result.request.n == 4 for result in swept.results)
    assert "8 cells · 32 completions · seed 7" in repr(swept) and "temperature (2)" in repr(swept)
    assert "<table" in swept._repr_html_()


def test_cells_share_their_noise_and_prompts_do_not(demo, swept) -> None:
    seeds = {(cell.point["prompt"], result.seed) for cell, result in zip(swept.cells, swept.results, strict=True)}
    assert len(seeds) == 2 and (QUESTION, 7) in seeds, "one a prompt, and the first one's is the sweep's own"
    assert all(0 <= seed < 2**31 for _, seed in seeds), "an endpoint may take signed 32 bits and no more"
    drawn = demo.sweep([QUESTION] * 8, n=1, max_tokens=1)
    assert len({result.seed for result in drawn.results}) == 8 and drawn.results[0].seed == drawn.seed
    assert all(0 <= result.seed < 2**31 for result in drawn.results), "the one that nobody gave as well"
    again = demo.chat("Roll a die.", temperature=1.5, n=4, seed=dict(seeds)["Roll a die."], max_tokens=6)
    assert again.texts == swept.at(prompt=1, temperature=1.5, order="llmlab").texts
    alone = demo.sweep(QUESTION, temperature=[1.5], n=2, seed=7, max_tokens=6)
    assert "prompt" not in alone.axes
    assert alone.results[0].texts == swept.at(prompt=0, temperature=1.5, order="llmlab").texts[:2], "n changes nothing"
    other = demo.sweep([QUESTION] * 2, n=8, seed=7, max_tokens=6)
    assert other.at(prompt=0).texts != other.at(prompt=1).texts, "the same question with other noise"


def test_independent_cells_have_noise_of_their_own(demo) -> None:
    grid = {"temperature": [1.0, 1.5], "seed": 7, "n": 4, "max_tokens": 6, "independent": True}
    sweep = demo.sweep(QUESTION, **grid)
    seeds = [result.seed for result in sweep.results]
    assert len({*seeds, 7}) == 3 and all(0 <= seed < 2**31 for seed in seeds)
    wider = demo.sweep(QUESTION, **grid | {"temperature": [1.5, 0.2, 1.0]})
    assert [wider.at(temperature=t).seed for t in (1.0, 1.5)] == seeds, "a cell's noise does not depend on the others"
    assert wider.at(temperature=1.0).texts == sweep.at(temperature=1.0).texts


def test_requests_prompts_and_defaults(demo) -> None:
    request = demo.request(QUESTION, n=3, seed=5, max_tokens=2)
    sweep = demo.sweep(request, top_k=np.array([1, 5]))
    assert sweep.seed == 5 and [len(result) for result in sweep.results] == [3, 3]
    assert [cell.point for cell in sweep.cells] == [{"top_k": 1}, {"top_k": 5}]
    raw = demo.sweep(prompt=["Once", [5, 6]], max_tokens=1)
    assert [result.request.prompt for result in raw.results] == ["Once", (5, 6)]
    assert len(raw) == 32, "16 completions unless somebody says otherwise"
    single = demo.sweep(prompt=[5, 6], n=1, max_tokens=1)
    assert single.axes == {} and len(single) == 1 and "a single cell" in repr(single)
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    assert len(demo.sweep(talk, n=1, max_tokens=1).results) == 1
    assert [len(r.request.messages) for r in demo.sweep([talk, talk[1:]], n=1, max_tokens=1).results] == [2, 1]


def test_lists_that_are_a_value_are_not_swept(demo) -> None:
    one = demo.sweep(QUESTION, stop=["a", "e"], n=1, max_tokens=2)
    assert one.axes == {} and one.results[0].request.stops == ("a", "e")
    two = demo.sweep(QUESTION, stop=[None, ["a", "e"]], logit_bias=[{}, {5: 1.0}], n=1, max_tokens=2)
    assert dict(two.axes) == {"stop": (None, '["a", "e"]'), "logit_bias": ("{}", '{"5": 1.0}')}
    frame = two.frame()
    assert dtypes(frame)["stop"] == "str" and frame["stop"].isna().tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": [0.5, 3]}, "temperature must be between 0 and 2, got 3"),
        ({"temperature": []}, "temperature is an empty list"),
        ({"temperature": [1, 1.0]}, "temperature has a value twice"),
        ({"top_k": [0, -1]}, "top_k has a value twice"),
        ({"temperatur": [1]}, "unknown field 'temperatur'; did you mean 'temperature'"),
        ({"model": ["a", "b"]}, "model cannot be swept"),
        ({"n": 129}, "n must be between 1 and 128"),
        ({"stream": True}, "stream: a sweep waits for its answers"),
        ({"order": ["vllm", "mine"]}, "order must be one of llmlab, vllm"),
        ({"prompt": "x"}, "give messages or a prompt, not both"),
        ({"messages": []}, "messages must not be empty"),
        ({"messages": None}, "messages is missing"),
        ({"messages": ["a", {"role": "user", "content": "b"}]}, "mixes prompts and single messages"),
        ({"metrics": {"text": len}}, "metric 'text' has the name of a column"),
        ({"metrics": {"temperature": len}, "temperature": [1]}, "metric 'temperature' has the name of a column"),
        ({"metrics": {"mine": 3}}, "metric 'mine' must be a function"),
        ({"save": "sweep.csv"}, "ends in .parquet, got 'sweep.csv'"),
        ({"save": "nowhere/at/all.parquet"}, "there is no folder .*nowhere/at to save all.parquet in"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(demo, wrong, said) -> None:
    before = demo.backend.engine.prefills
    with pytest.raises(RequestError, match=said) as caught:
        demo.sweep(**{"messages": "A question that was never asked.", "n": 1, "max_tokens": 1} | wrong)
    assert caught.value.param in (*wrong, "messages")
    assert demo.backend.engine.prefills == before


def test_one_cell_is_found_by_its_values(swept) -> None:
    assert swept.at(prompt=1, temperature=0.5, order="vllm") is swept.results[5]
    with pytest.raises(RequestError, match="4 of the finished cells are at"):
        swept.at(prompt=1)
    with pytest.raises(RequestError, match="top_p is not swept here; the axes are prompt, temperature, order"):
        swept.at(top_p=1)


# --- one batch -------------------------------------------------------------------------------------------------------

_COMPILED: list[str] = []


@pytest.fixture(scope="module")
def compiled() -> list[str]:
    """Every compilation of this process from now on."""
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: _COMPILED.append(event) if "backend_compile" in event else None
    )
    jax.jit(lambda x: x * 3 + len(_COMPILED))(np.float32(1))
    assert _COMPILED, "the events are heard"
    return _COMPILED


FIVE_HUNDRED: dict[str, Any] = {
    "messages": ["w" * 20, "x" * 24], "temperature": [0, 0.4, 0.8, 1.2, 1.6], "top_p": [0.5, 0.7, 0.8, 0.9, 1.0],
    "n": 10, "seed": 1, "max_tokens": 5, "frequency_penalty": 0.5,
}  # fmt: skip


@pytest.mark.slow
def test_five_hundred_completions_cost_one_prefill_a_prompt_and_compile_nothing_new(tmp_path, compiled) -> None:
    lab = llmlab.load(tiny_checkpoint(tmp_path / "tiny"), slots=4, quiet=True)
    programs, after_each = lab.backend.engine.programs, []
    run = programs.chunk

    def chunk(*args: Any, **kwargs: Any) -> Any:
        out = run(*args, **kwargs)
        after_each.append(len(compiled))
        return out

    programs.chunk = chunk
    sweep = lab.sweep(**FIVE_HUNDRED)
    assert len(sweep) == 500 and sweep.is_complete
    assert lab.backend.engine.prefills == 2
    assert len(after_each) > 100 and compiled[after_each[0] :] == []
    lab.close()


@pytest.mark.slow
def test_a_batch_that_follows_the_load_reads_each_prompt_once_as_well(tmp_path) -> None:
    lab = llmlab.load(tiny_checkpoint(tmp_path / "tiny"), quiet=True)
    assert len(lab.sweep(**FIVE_HUNDRED)) == 500
    assert lab.backend.engine.prefills == 2
    lab.close()


def test_all_cells_of_a_prompt_are_open_before_the_first_is_answered(script) -> None:
    backend = script(gate=100)
    Lab(backend).sweep(["a", "b"], temperature=[i / 50 for i in range(100)], n=4, max_tokens=1)
    # The first prompt's 400 completions are more than may be open; they are opened all the same, and no other's.
    assert backend.opened_at_first == 100 and backend.prompts == ["a"] * 100 + ["b"] * 100


def test_an_endpoint_is_asked_so_many_at_a_time_as_it_takes(script) -> None:
    backend = script(gate=3)
    backend.concurrency = 3
    Lab(backend).sweep("a", temperature=[i / 10 for i in range(12)], n=1, max_tokens=1)
    assert backend.most_open == 3 and len(backend.prompts) == 12


# --- the frame -------------------------------------------------------------------------------------------------------


def test_the_frame_has_the_columns_of_the_design(swept) -> None:
    frame = swept.frame()
    axes = {"prompt": "str", "temperature": "float64", "order": "str"}
    assert dtypes(frame) == {**axes, **DTYPES, "rare": "float64"}
    assert list(frame.columns) == [*axes, *DTYPES, "rare"]
    assert frame.index.equals(pd.RangeIndex(32)) and frame.notna().all(axis=None)
    assert frame["choice"].tolist() == [0, 1, 2, 3] * 8
    row = 0
    for cell, result in zip(swept.cells, swept.results, strict=True):
        for choice in result.choices:
            own = logprobs_frame(dataclasses.replace(result.data, choices=(choice,)))
            found = frame.iloc[row]
            assert {name: found[name] for name in cell.point} == dict(cell.point)
            assert (found["seed"], found["text"]) == (result.seed, choice.text)
            assert (found["finish_reason"], found["tokens"]) == (choice.finish_reason, len(own))
            for name, metric in {
                "mean_logprob": metrics.mean_logprob, "perplexity": metrics.perplexity,
                "mean_entropy": metrics.mean_entropy, "rare": lambda tokens: (tokens["logprob"] < -2).mean(),
                "distinct_1": lambda tokens: metrics.distinct_n(tokens, n=1), "distinct_2": metrics.distinct_n,
            }.items():  # fmt: skip
                assert found[name] == pytest.approx(metric(own), rel=1e-6), name
            row += 1
    assert row == 32


def test_the_end_token_counts(demo) -> None:
    sweep = demo.sweep(QUESTION, n=1, temperature=[0], seed=1)
    tokens = sweep.results[0].logprobs_frame()
    assert tokens["segment"].iloc[-1] == "end" and sweep.frame()["tokens"].tolist() == [len(tokens)]


def test_a_frame_is_the_callers_to_change(swept) -> None:
    frame = swept.frame()
    frame["tokens"] = 0
    assert swept.frame()["tokens"].gt(0).all()
    other = swept.frame(metrics={"longest": lambda tokens: tokens["token"].astype(str).str.len().max()})
    assert list(other.columns[-2:]) == ["lacks_end", "longest"] and other["longest"].ge(3).any()


def test_columns_of_every_kind_of_axis(demo) -> None:
    sweep = demo.sweep(
        QUESTION, n=1, temperature=0, max_tokens=[2, None], top_k=[None, 5], include_stop=[True, False], min_p=(0, 0.1)
    )
    frame = sweep.frame()
    kinds = {"max_tokens": "float64", "top_k": "int64", "include_stop": "bool", "min_p": "float64"}
    assert {name: dtypes(frame)[name] for name in kinds} == kinds and len(frame) == 16
    assert frame["max_tokens"].isna().sum() == 8 and set(frame["top_k"]) == {0, 5}
    groups = sweep.summary_frame("tokens", by=["max_tokens", "include_stop"])
    assert groups["max_tokens"].isna().tolist() == [False, False, True, True]
    assert groups["completions"].tolist() == [4] * 4 and groups["include_stop"].tolist() == [True, False] * 2


def test_what_an_endpoint_does_not_say_is_na(make_tokens, make_completion) -> None:
    tokens = make_tokens((0, 1, 2, 1, 2))
    nan, one = np.full(5, np.nan, np.float32), np.full(5, -1, np.int32)
    blind = dataclasses.replace(tokens, ids=one, logprob=nan, entropy=nan)
    silent = make_tokens(())
    completion = make_completion(tokens, blind, dataclasses.replace(blind, bytes=(None,) * 5), silent, silent)
    choices = list(completion.choices)
    choices[3] = dataclasses.replace(choices[3], text="said, but not in tokens")
    frame = sweep_of(dataclasses.replace(completion, choices=tuple(choices))).frame()
    assert dtypes(frame) == {**DTYPES, "tokens": "float64"}
    np.testing.assert_array_equal(frame["tokens"], [5, 5, 5, np.nan, 0])
    assert frame["mean_logprob"].isna().tolist() == [False, True, True, True, True]
    for name in ("perplexity", "mean_entropy"):
        assert frame[name].isna().tolist() == [False, True, True, True, True]
    assert frame["distinct_1"].isna().tolist() == [False, False, True, True, True]
    assert frame["distinct_2"].tolist()[:2] == [3 / 4] * 2
    summary = sweep_of(completion).summary_frame(["mean_logprob", "mean_entropy"])
    assert summary["completions"].tolist() == [1, 1] and summary["low"].isna().all()
    lone = dataclasses.replace(completion, choices=(choices[3],), reported_usage={"completion_tokens": 9})
    assert sweep_of(lone).frame()["tokens"].tolist() == [9], "the endpoint's own count, where it is this choice's"


def test_somebody_elses_endpoint_gives_the_same_columns(swept) -> None:
    said = whole(
        *[
            {
                "index": at,
                "message": {"role": "assistant", "content": "Cat."},
                "finish_reason": "stop",
                "logprobs": {"content": [entry("Cat", -1.0), entry(".", -0.5)]},
            }
            for at in range(4)
        ]
    )
    lab = Lab(Endpoint(lambda body: said).backend(concurrency=3))
    sweep = lab.sweep(["a", "b"], temperature=[0.5, 1.5], order=["llmlab"], n=4, seed=7, metrics={"rare": len})
    frame = sweep.frame()
    assert dtypes(frame) == dtypes(swept.frame()) and len(frame) == 16
    assert frame["mean_entropy"].isna().all() and frame.drop(columns="mean_entropy").notna().all(axis=None)
    assert frame["mean_logprob"].tolist() == [-0.75] * 16 and frame["distinct_2"].tolist() == [1.0] * 16
    assert dtypes(sweep.summary_frame()) == dtypes(swept.summary_frame())


def test_an_empty_sweep_has_the_columns_all_the_same(swept) -> None:
    empty = Sweep(swept.grid, {}, metrics={"mine": len})
    frame = empty.frame()
    assert dtypes(frame) == {"prompt": "str", "temperature": "float64", "order": "str", **DTYPES, "mine": "float64"}
    assert len(frame) == 0 and not empty.is_complete
    summary = empty.summary_frame()
    assert dtypes(summary) == {
        "prompt": "str", "temperature": "float64", "order": "str", "metric": "str", "completions": "int64",
        "value": "float64", "low": "float64", "high": "float64",
    }  # fmt: skip
    assert len(summary) == 0 and len(empty.summary_frame(by=[])) == 0
    assert "0 of 8 cells: resume() runs the rest" in repr(empty)


def test_a_metric_that_fails_is_named_and_the_sweep_is_still_there(demo) -> None:
    sweep = demo.sweep(QUESTION, n=1, max_tokens=1, metrics={"mine": lambda tokens: tokens["nothing"].mean()})
    with pytest.raises(RequestError, match="metric 'mine' failed: KeyError: 'nothing'"):
        sweep.frame()
    assert len(sweep.frame(metrics={"mine": len})) == 1


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_summary_has_a_row_a_group_and_metric(swept) -> None:
    summary = swept.summary_frame()
    figures = ["tokens", "mean_logprob", "perplexity", "mean_entropy", "distinct_1", "distinct_2", "rare"]
    assert summary["metric"].tolist() == figures * 8 and summary["completions"].eq(4).all()
    frame = swept.frame()
    means = frame.groupby(["prompt", "temperature", "order"], sort=False)["mean_logprob"].mean()
    part = summary[summary["metric"] == "mean_logprob"]
    np.testing.assert_allclose(part["value"], means)
    assert (part["low"] <= part["value"]).all() and (part["value"] <= part["high"]).all()
    assert_frame_equal(swept.summary_frame(), summary, check_exact=True)
    over = swept.summary_frame("tokens", over="prompts")
    assert list(over.columns[:3]) == ["temperature", "order", "metric"] and len(over) == 4
    assert over["low"].notna().all()  # a group of one prompt would have no interval
    assert len(swept.summary_frame("tokens", by="temperature", over="prompts")) == 2
    assert len(swept.summary_frame("tokens", by="prompt", over="prompts")) == 2


def test_a_metric_of_zeros_and_ones_has_wilsons_interval(demo) -> None:
    found = demo.sweep(
        QUESTION, temperature=[0.2, 1.0], n=6, seed=3, max_tokens=1,
        metrics={"dog": lambda tokens: tokens["token"].iloc[0] == "Dog", "half": lambda tokens: 0.5},
    )  # fmt: skip
    frame, summary = found.frame(), found.summary_frame(confidence=0.9)
    assert 0 < frame["dog"].mean() < 1
    for temperature, rows in frame.groupby("temperature"):
        own = summary[(summary["temperature"] == temperature)].set_index("metric")
        want = stats.binomtest(int(rows["dog"].sum()), 6).proportion_ci(0.9, method="wilson")
        np.testing.assert_allclose(own.loc["dog", ["low", "high"]].astype(float), (want.low, want.high), atol=1e-12)
        # Each completion has one token: its own columns are measurements, and do not turn into shares.
        assert own.loc["tokens", ["value", "low", "high"]].tolist() == [1, 1, 1]
        assert own.loc["distinct_1", ["value", "low", "high"]].tolist() == [1, 1, 1]
        assert own.loc["half", ["low", "high"]].tolist() == [0.5, 0.5]
    # The same as a function of a cell's rows: by itself, over both cells with their shared noise, and over prompts.
    dog = {"dog": lambda rows: (rows["text"].str.strip() == "Dog").mean()}
    columns = ["value", "low", "high"]
    for by in ("temperature", []):
        cells = found.summary_frame("dog", by=by)[columns]
        assert_frame_equal(found.summary_frame([], by=by, metrics=dog)[columns], cells)
    prompts = found.summary_frame([], by="temperature", over="prompts", metrics=dog)
    assert prompts["low"].ge(0).all() and prompts["high"].le(1).all()


def test_answers_that_are_tool_calls_are_told_apart(make_tokens, make_completion) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    completion = make_completion(*[make_tokens((0, 1))] * 3, tools=[tool])
    choices = [
        dataclasses.replace(choice, text="", tool_calls=(ToolCall(f"call_{at}", "weather", f'{{"city": "{city}"}}'),))
        for at, (choice, city) in enumerate(zip(completion.choices, ["Rome", "Oslo", "Rome"], strict=True))
    ]
    choices[2] = dataclasses.replace(choices[2], tool_calls=())
    sweep = sweep_of(dataclasses.replace(completion, choices=tuple(choices)))
    frame = sweep.frame()
    kinds = list(DTYPES.items())
    assert dtypes(frame) == dict([*kinds[:3], ("tool_calls", "str"), *kinds[3:]])
    assert json.loads(frame["tool_calls"][0]) == [{"name": "weather", "arguments": '{"city": "Rome"}'}]
    assert frame["tool_calls"].isna().tolist() == [False, False, True]
    found = sweep.summary_frame([], metrics={"entropy": metrics.sample_entropy, "bleu": metrics.pairwise_bleu})
    assert found["value"][0] == pytest.approx(math.log(3)) and 0 < found["value"][1] < 1
    assert "tool_calls" not in sweep_of(make_completion(make_tokens((0, 1)))).frame()
    with pytest.raises(RequestError, match="'tool_calls' has the name of a column"):
        sweep.frame(metrics={"tool_calls": len})


def test_metrics_of_many_completions_are_means_over_cells(swept) -> None:
    found = swept.summary_frame(by="temperature", metrics={"share": metrics.majority_share, "bleu": metrics.self_bleu})
    assert found["metric"].tolist() == ["share", "bleu"] * 2 and found["completions"].eq(16).all()
    frame = swept.frame()
    for temperature in (0.5, 1.5):
        cells = frame[frame["temperature"] == temperature].groupby(["prompt", "order"])
        want = cells[["text"]].apply(metrics.majority_share).mean()
        mine = found[(found["temperature"] == temperature) & (found["metric"] == "share")]
        assert mine["value"].tolist() == [pytest.approx(want)]
    both = swept.summary_frame("tokens", metrics={"share": metrics.majority_share}, by=[])
    assert both["metric"].tolist() == ["tokens", "share"] and list(both.columns)[0] == "metric"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"columns": "text"}, "columns: there is no 'text'; there are tokens, mean_logprob"),
        ({"by": "top_p"}, "by: there is no 'top_p'; there are prompt, temperature, order"),
        ({"confidence": 95}, "confidence must be between 0 and 1, got 95"),
        ({"resamples": 0}, "resamples must be between 1 and 1000000, got 0"),
        ({"metrics": {"bad": lambda rows: "x"}}, "metric 'bad' must return a number"),
    ],
)
def test_a_summary_that_makes_no_sense(swept, wrong, said) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        swept.summary_frame(**wrong)
    assert caught.value.param in wrong


# --- breaking off and going on ---------------------------------------------------------------------------------------

GRID: dict[str, Any] = {
    "messages": [QUESTION, "Roll a die."], "temperature": [0.7, 1.0, 1.3], "n": 4, "seed": 3, "max_tokens": 8,
}  # fmt: skip


@pytest.fixture
def interrupted(monkeypatch) -> Iterator[Any]:
    """Makes the next sweep break off, as by Ctrl-C, once so many cells are whole."""

    def arm(cells: int) -> None:
        wait, seen = gather_module.wait, []

        def broken(*args: Any, **kwargs: Any) -> Any:
            done, rest = wait(*args, **kwargs)
            seen.extend(done)
            if len(seen) >= cells:
                monkeypatch.setattr(gather_module, "wait", wait)
                raise KeyboardInterrupt
            return done, rest

        monkeypatch.setattr(gather_module, "wait", broken)

    yield arm


def test_an_interrupted_and_resumed_sweep_equals_an_uninterrupted_one(demo, interrupted, tmp_path) -> None:
    whole = demo.sweep(**GRID)
    interrupted(2)
    with pytest.raises(KeyboardInterrupt) as caught:
        demo.sweep(**GRID)
    assert "of 6 cells are in `lab.last_sweep`; its resume() runs the rest" in caught.value.__notes__[0]
    part = demo.last_sweep
    assert 2 <= len(part.results) < 6 and not part.is_complete
    assert f"{len(part.results)} of 6 cells" in repr(part) and len(part.frame()) == 4 * len(part.results)
    asked = count_requests(demo)
    same_to_the_bit(part.resume(), whole)
    assert len(asked) == 6 - len(part.results), "nothing is asked twice"
    assert not part.is_complete, "a sweep does not change"
    same_to_the_bit(demo.sweep(**GRID, resume=part), whole)


def test_a_sweep_that_is_saved_goes_on_where_it_was(demo, interrupted, tmp_path) -> None:
    path = tmp_path / "sweep.parquet"
    interrupted(3)
    with pytest.raises(KeyboardInterrupt) as caught:
        demo.sweep(**GRID, save=path)
    assert str(path) in caught.value.__notes__[0]
    kept = Sweep.load(path)
    assert 3 <= len(kept.results) < 6
    asked = count_requests(demo)
    whole = demo.sweep(**{**GRID, "seed": None}, save=path)
    assert whole.seed == 3 and len(asked) == 6 - len(kept.results), "the saved seed goes on"
    same_to_the_bit(whole, demo.sweep(**GRID))
    asked.clear()
    same_to_the_bit(demo.sweep(**GRID, save=path), whole)
    assert asked == [], "all of it was there"
    wider = demo.sweep(**{**GRID, "temperature": [0.1, 0.7, 1.0, 1.3]}, save=path)
    assert len(asked) == 2 and len(wider.results) == 8, "a grid that grew asks its new cells"


def test_a_file_with_another_sweep_is_not_written_over(demo, tmp_path) -> None:
    path = tmp_path / "sweep.parquet"
    demo.sweep(QUESTION, temperature=[0.5], n=1, seed=1, max_tokens=1, save=path)
    for other in ({"temperature": [0.7]}, {"temperature": [0.5], "seed": 2}, {"temperature": [0.5], "order": "vllm"}):
        with pytest.raises(
            RequestError, match=r"sweep.parquet holds 1 cells that this sweep does not ask for"
        ) as caught:
            demo.sweep(QUESTION, n=1, max_tokens=1, save=path, **{"seed": 1, **other})
        assert caught.value.param == "resume"
    anew = demo.sweep(QUESTION, temperature=[0.7], n=1, seed=1, max_tokens=1, save=path, resume=False)
    same_to_the_bit(Sweep.load(path), anew)


def test_another_model_does_not_go_on_with_it(demo, swept) -> None:
    part = Sweep(dataclasses.replace(swept.grid, model="gpt-0"), swept.completions, lab=demo)
    with pytest.raises(RequestError, match="made with gpt-0 on llmlab-.*/slots8, and this lab has demo on llmlab-"):
        part.resume()
    strange = {at: dataclasses.replace(done, system_fingerprint="other") for at, done in swept.completions.items()}
    with pytest.raises(RequestError, match="demo on other, and this lab has demo on llmlab-.*; resume=False"):
        Sweep(swept.grid, strange, lab=demo).resume()
    with pytest.raises(RequestError, match="no lab to resume it with"):
        Sweep(swept.grid, {}).resume()


def test_an_error_keeps_what_was_whole(script) -> None:
    backend = script(fails_at=5)
    lab = Lab(backend)
    with pytest.raises(RequestError, match="there is no more") as caught:
        lab.sweep("a", temperature=[i / 10 for i in range(10)], n=1, max_tokens=1)
    assert "5 of 10 cells are in `lab.last_sweep`" in caught.value.__notes__[0]
    assert len(lab.last_sweep.results) == 5 and backend.open == 0
    backend.fails_at = None
    assert lab.last_sweep.resume().is_complete


# --- doubles ---------------------------------------------------------------------------------------------------------


def sweep_of(completion: Completion) -> Sweep:
    """A sweep of one cell with this answer."""
    cell = Cell(point={}, request=completion.request, order="llmlab")
    return Sweep(Grid({}, (cell,), completion.seed, False, completion.model), {0: completion})


def count_requests(lab: Lab) -> list[Any]:
    """The requests that a lab's backend is sent from now on."""
    sent: list[Any] = []
    backend = lab.backend
    if not hasattr(backend, "stream_uncounted"):
        backend.stream_uncounted = backend.stream
    backend.stream = lambda request, **options: (sent.append(request), backend.stream_uncounted(request, **options))[1]
    return sent


class Script(Backend):
    """A backend whose answers are one token each; none comes before `gate` requests are open."""

    name = "script"
    concurrency: int | None = None

    def __init__(self, answer: Any, *, gate: int = 0, fails_at: int | None = None) -> None:
        self.answer = answer
        self.gate, self.fails_at = gate, fails_at
        self.open = self.most_open = 0
        self.prompts: list[str] = []
        self.opened_at_first: int | None = None
        self.changed = threading.Condition()

    def describe(self) -> dict[str, Any]:
        return {"model": self.name}

    def complete(self, request: Any, *, order: str = "llmlab") -> Any: ...

    def stream(self, request: ChatRequest, *, order: str = "llmlab") -> Any:
        with self.changed:
            if len(self.prompts) == self.fails_at:
                raise RequestError("there is no more")
            self.prompts.append(request.messages[0]["content"])
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            self.changed.notify_all()
        return _Answer(self, self.answer(request))


class _Answer:
    def __init__(self, backend: Script, made: Completion) -> None:
        self.header, self._backend = made, backend

    def __iter__(self) -> Iterator[Any]:
        with self._backend.changed:
            assert self._backend.changed.wait_for(lambda: len(self._backend.prompts) >= self._backend.gate, timeout=20)
        return iter(())

    def on_wait(self, tell: Any) -> None: ...

    def on_restart(self, tell: Any) -> None: ...

    def result(self) -> Completion:
        with self._backend.changed:
            self._backend.open -= 1
            self._backend.opened_at_first = self._backend.opened_at_first or len(self._backend.prompts)
        return self.header

    def close(self) -> None: ...


@pytest.fixture
def script(make_tokens, make_completion) -> Any:
    def make(**options: Any) -> Script:
        return Script(
            lambda request: dataclasses.replace(
                make_completion(*[make_tokens([0])] * request.n), request=request, model="script"
            ),
            **options,
        )

    return make
