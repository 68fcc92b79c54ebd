"""What is saved is what is loaded, to the bit; and what is not a file of ours is said to be none."""

from __future__ import annotations

import builtins
import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal
from pyarrow import parquet

import llmlab
from llmlab.errors import RequestError
from llmlab.frames import parquet as kept_files
from llmlab.protocol.completion import Choice, Completion, Tokens, ToolCall
from llmlab.protocol.request import ChatRequest, PromptRequest
from llmlab.results.result import Result
from llmlab.sweeps.sweep import Sweep


def assert_same(one: Any, other: Any) -> None:
    """Equal in every field, arrays to the bit and with their dtype."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == other.tobytes()
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for mine, yours in zip(one, other, strict=True):
            assert_same(mine, yours)
    else:
        assert one == other


def kept(completion: Completion, path: Any) -> Completion:
    result = Result(completion)
    assert result.save(path) == path
    return Result.load(path).data


def test_a_result_is_what_it_was(hard, tmp_path) -> None:
    assert_same(kept(hard, tmp_path / "a.parquet"), hard)


def test_a_result_of_the_engine_is_what_it_was(demo, tmp_path) -> None:
    result = demo.chat(
        "Name an animal.", n=3, seed=5, max_tokens=6, temperature=0.7, top_p=0.9, logit_bias={5: -2.5, 7: 1.0},
        stop=["x", "yz"], logprobs=True, top_logprobs=2, metadata={"a": [1, {"b": None}]},
    )  # fmt: skip
    again = Result.load(result.save(tmp_path / "a.parquet"), lab=demo)
    assert_same(again.data, result.data)
    assert again.request == result.request and again.texts == result.texts and again.lab is demo
    assert_frame_equal(again.logprobs_frame(), result.logprobs_frame(), check_exact=True)
    assert_frame_equal(again.top_logprobs_frame(), result.top_logprobs_frame(), check_exact=True)
    assert demo.chat(again.request).texts == result.texts, "the request can be asked again"


def test_everything_that_an_answer_may_have(make_tokens, make_completion, tmp_path) -> None:
    tokens = make_tokens((0, 1, 2), segment=("reasoning", "content", "tool_call"))
    nan = np.full(3, np.nan, np.float32)
    blind = dataclasses.replace(
        tokens, sampling_logprob=nan, rank=np.full(3, -1, np.int32), logprob=np.array([-np.inf, -0.0, -9], np.float32),
        lead=np.array([0, 1, 2], np.int32), overhang=np.array([3, 0, 0], np.int32),
    )  # fmt: skip
    few, none = make_tokens((4,), alternatives=0), make_tokens(())
    completion = make_completion(tokens, blind, few, none, stop=("a", "b"), max_tokens=9)
    call = ToolCall(id="call_1", name="look", arguments='{"at": "🦊')
    choices = list(completion.choices)
    choices[0] = dataclasses.replace(choices[0], reasoning="hm\n", tool_calls=(call, call), given=2)
    choices[1] = dataclasses.replace(choices[1], text="\0 \ud7ff é\r\n", reasoning="", finish_reason="interrupted")
    choices[2] = dataclasses.replace(choices[2], guessed=np.array([3], np.int32))
    changed: dict[str, Any] = {
        "choices": tuple(choices), "reported_usage": {"completion_tokens": 3}, "notes": ("one", "two"),
        "seed": -(2**63), "prompt_ids": np.zeros(0, np.int32), "control_tokens": {}, "order": "vllm",
    }  # fmt: skip
    completion = dataclasses.replace(completion, **changed)
    assert_same(kept(completion, tmp_path / "a.parquet"), completion)
    empty = dataclasses.replace(completion, choices=())
    assert_same(kept(empty, tmp_path / "b.parquet"), empty)


def test_what_a_result_was_made_from_is_kept(demo, tmp_path) -> None:
    first = demo.chat("Tell me a story.", n=2, seed=5, max_tokens=8, temperature=1.0)
    again = first.rerun(temperature=0.2)
    last = again.branch(2, " but", choice=1)
    path = last.save(tmp_path / "a.parquet")
    for lab in (demo, None):
        found = Result.load(path, lab=lab)
        for one, was in zip((found, found.parent, found.parent.parent), (last, again, first), strict=True):
            assert_same(one.data, was.data)
            assert one.lab is lab
        assert found.parent.parent.parent is None
        assert_frame_equal(found.diff().frame().drop(columns="cause"), last.diff().frame().drop(columns="cause"))
    with_lab = Result.load(again.save(tmp_path / "b.parquet"), lab=demo)
    assert_frame_equal(with_lab.diff().frame(), again.diff().frame())
    assert_frame_equal(with_lab.diff().why_frame(), again.diff().why_frame())
    frame = pd.read_parquet(path)
    assert frame["completion"].tolist() == [0, 1, 1, 2, 2]
    assert frame["text"].tolist() == last.texts + again.texts + first.texts


def test_no_field_is_forgotten() -> None:
    known = {*kept_files.TOKEN_COLUMNS, *kept_files.TOP_COLUMNS}
    assert known == {field.name for field in dataclasses.fields(Tokens)}
    # A new field of a choice needs a column, and a case above.
    assert {field.name for field in dataclasses.fields(Choice)} == {
        "index", "text", "tokens", "finish_reason", "reasoning", "tool_calls", "given", "guessed",
    }  # fmt: skip


@pytest.mark.parametrize("prompt", ["Once upon a time", (5, 6, 7)])
def test_a_raw_prompt(story, prompt, tmp_path) -> None:
    completion = dataclasses.replace(story, request=PromptRequest(prompt=prompt, top_k=3))
    assert_same(kept(completion, tmp_path / "a.parquet"), completion)


def test_the_metadata_say_where_it_is_from_and_others_can_read_it(demo, tmp_path) -> None:
    result = demo.chat("Name an animal.", n=2, seed=5, max_tokens=3)
    path = result.save(tmp_path / "a.parquet")
    told = json.loads(parquet.ParquetFile(path).metadata.metadata[b"llmlab"])
    assert told["kind"] == "result" and told["format"] == 1
    assert told["versions"]["llmlab"] == llmlab.__version__ and "jax" in told["versions"]
    header = told["completions"][0]
    assert (header["model"], header["seed"]) == ("demo", 5)
    assert header["system_fingerprint"] == result.data.system_fingerprint
    request = told["pool"][header["request"]]
    assert request["type"] == "ChatRequest" and request["fields"] == {"max_tokens": 3, "n": 2, "seed": 5}
    frame = pd.read_parquet(path)
    assert frame["text"].tolist() == result.texts and frame["choice"].tolist() == [0, 1]
    np.testing.assert_array_equal(frame["logprob"][1], result.choices[1].tokens.logprob)
    assert list(frame["bytes"][0]) == list(result.choices[0].tokens.bytes)


def test_a_sweep_is_what_it_was(demo, tmp_path) -> None:
    sweep = demo.sweep(
        ["Name an animal.", "Roll a die."], temperature=[0.5, 1.5], stop=[None, ["a", "b"]], n=2, seed=3, max_tokens=4,
        order=["llmlab", "sglang"], metrics={"mine": len},
    )  # fmt: skip
    path = sweep.save(tmp_path / "temperature=9.parquet")
    again = Sweep.load(path)
    assert again.grid == sweep.grid and again.seed == 3 and again.is_complete
    for one, other in zip(again.results, sweep.results, strict=True):
        assert_same(one.data, other.data)
    assert_frame_equal(again.frame(), sweep.frame(metrics={}), check_exact=True)
    assert_frame_equal(again.frame(metrics={"mine": len}), sweep.frame(), check_exact=True)
    outside = pd.read_parquet(path)
    assert list(outside.columns[:5]) == ["prompt", "temperature", "stop", "order", "seed"]
    assert outside["temperature"].tolist() == sweep.frame()["temperature"].tolist()
    assert outside["text"].tolist() == sweep.frame()["text"].tolist()


@pytest.mark.parametrize("done", [0, 3])
def test_a_sweep_that_is_not_done(demo, tmp_path, done) -> None:
    whole = demo.sweep("Name an animal.", top_k=[None, 1, 5, 9], n=1, seed=3, max_tokens=2)
    part = Sweep(whole.grid, {at: whole.completions[at] for at in range(done)})
    again = Sweep.load(part.save(tmp_path / "a.parquet"))
    assert again.grid == whole.grid and list(again.completions) == list(range(done)) and not again.is_complete
    assert_frame_equal(again.frame(), part.frame(), check_exact=True)


def test_csv(demo, hard, tmp_path) -> None:
    result = Result(hard)
    path = result.to_csv(tmp_path / "a.csv")
    back, frame = pd.read_csv(path, keep_default_na=False, na_values=[""]), result.logprobs_frame()
    assert list(back.columns) == list(frame.columns) and len(back) == len(frame)
    raw = [None if pd.isna(digits) else bytes.fromhex(digits) for digits in back["bytes"].astype(object)]
    assert [r or b"" for r in raw] == [b or b"" for b in frame["bytes"]]
    np.testing.assert_allclose(back["logprob"], frame["logprob"].astype(float))
    sweep = demo.sweep("Name an animal.", temperature=[0.5, 1.5], n=2, seed=3, max_tokens=4)
    sweep.frame().to_csv(tmp_path / "b.csv", index=False)
    back = pd.read_csv(tmp_path / "b.csv")
    assert_frame_equal(back, sweep.frame(), check_dtype=False)


def test_csv_of_tokens_that_look_like_something_else(make_tokens, make_completion, tmp_path) -> None:
    spelled = ("NA", "null", "007", "nan", "1e5", " ")
    tokens = dataclasses.replace(make_tokens(range(6)), bytes=tuple(text.encode() for text in spelled))
    path = Result(make_completion(tokens)).to_csv(tmp_path / "a.csv")
    # As the docstring of to_csv says.
    back = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"token": str, "bytes": str})
    assert tuple(back["token"]) == spelled
    assert [bytes.fromhex(digits).decode() for digits in back["bytes"]] == list(spelled)
    assert back["logprob"].dtype == float and back["rank"].dtype == int


def test_a_file_appears_whole_or_not_at_all(story, tmp_path, monkeypatch) -> None:
    path = Result(story).save(tmp_path / "a.parquet")
    before = path.read_bytes()

    def full(self: Any, table: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="no space left"):
        Result(story).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path], "what was there is there still"


def test_what_is_no_file_of_ours(story, demo, tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file .*gone.parquet"):
        Result.load(tmp_path / "gone.parquet")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} is a folder"):
        Sweep.load(tmp_path)
    other = tmp_path / "other.parquet"
    other.write_bytes(b"PAR1 but not really")
    with pytest.raises(
        RequestError, match="other.parquet holds neither a result nor a sweep: it is not a parquet file"
    ):
        Result.load(other)
    parquet.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(RequestError, match="holds neither a result nor a sweep: it was not written by llmlab"):
        Sweep.load(other)
    path = Result(story).save(tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=r"holds a result: llmlab.Result.load reads it"):
        Sweep.load(path)
    swept = demo.sweep("Name an animal.", n=1, max_tokens=1).save(tmp_path / "b.parquet")
    with pytest.raises(RequestError, match=r"holds a sweep: llmlab.Sweep.load reads it"):
        Result.load(swept)
    with pytest.raises(
        llmlab.ModelNotFoundError, match="no model: llmlab.Result.load reads a result .* llmlab.Sweep.l"
    ):
        llmlab.load(path)
    monkeypatch.setattr(kept_files, "FORMAT", 99)
    Result(story).save(path)
    monkeypatch.undo()
    with pytest.raises(RequestError, match=f"written by llmlab {llmlab.__version__}, in a later format; update llmlab"):
        Result.load(path)


def test_a_file_of_ours_that_is_damaged(story, demo, tmp_path) -> None:
    path = Result(story).save(tmp_path / "a.parquet")
    table = parquet.read_table(path)
    noted = dict(parquet.read_metadata(path).metadata)
    told = json.loads(noted[b"llmlab"])
    for damaged in ("{", "[]", json.dumps(told | {"pool": []}), json.dumps(told | {"completions": [{}]}), "{}"):
        parquet.write_table(table.replace_schema_metadata({b"llmlab": damaged}), path)
        with pytest.raises(RequestError, match=r"a.parquet was written by llmlab and is damaged: \w+Error: "):
            Result.load(path)
    swept = demo.sweep("Name an animal.", n=1, max_tokens=1).save(tmp_path / "b.parquet")
    noted = dict(parquet.read_metadata(swept).metadata)
    told = json.loads(noted[b"llmlab"]) | {"about": {}}
    parquet.write_table(parquet.read_table(swept).replace_schema_metadata({b"llmlab": json.dumps(told)}), swept)
    with pytest.raises(RequestError, match="b.parquet was written by llmlab and is damaged: KeyError"):
        Sweep.load(swept)


@pytest.mark.parametrize(("name", "said"), [("a.csv", "ends in .parquet"), ("no/a.parquet", "there is no folder")])
def test_a_target_that_cannot_be_written(story, tmp_path, name, said) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        Result(story).save(tmp_path / name)
    assert caught.value.param == "save"


def test_without_pyarrow_the_error_says_what_to_install(story, demo, tmp_path, monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match="need pyarrow, which cannot be imported .*: pip install pyarrow"):
        Result(story).save(tmp_path / "a.parquet")
    before = demo.backend.engine.prefills
    with pytest.raises(RequestError, match="pip install pyarrow"):
        demo.sweep("A question never asked.", n=1, max_tokens=1, save=tmp_path / "b.parquet")
    assert demo.backend.engine.prefills == before, "said before the work, not after it"


def test_requests_are_compared_by_value() -> None:
    pool = kept_files.Pool()
    one = pool.put_request(ChatRequest.build("hello", seed=1))
    assert pool.put_request(ChatRequest.build("hello", seed=1)) == one
    two = pool.put_request(ChatRequest.build("hello", seed=2))
    assert two != one and len(pool.values) == 3, "two requests about one thing"
    assert kept_files.Pool(pool.values).request(two) == ChatRequest.build("hello", seed=2)
