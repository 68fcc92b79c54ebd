from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from llmlab.frames.schema import LOGPROBS_COLUMNS, TOP_LOGPROBS_COLUMNS
from llmlab.frames.tokens import logprobs_frame, top_logprobs_frame
from tests.columns import assert_declared

COLUMNS = [
    "choice", "position", "segment", "token", "token_id", "bytes", "logprob", "sampling_logprob", "rank", "entropy",
    "sampling_entropy", "margin", "kept",
]  # fmt: skip
TOP_COLUMNS = [
    "choice", "position", "alternative", "token", "token_id", "bytes", "logprob", "sampling_logprob", "sampled",
]  # fmt: skip
NAMES = {37: "<|im_end|>"}


def assert_tokens(frame: pd.DataFrame) -> None:
    assert_declared(frame, LOGPROBS_COLUMNS)
    assert list(frame.columns) == COLUMNS
    assert list(frame["segment"].cat.categories) == ["reasoning", "content", "tool_call", "end"]


def assert_alternatives(frame: pd.DataFrame) -> None:
    assert_declared(frame, TOP_LOGPROBS_COLUMNS)
    assert list(frame.columns) == TOP_COLUMNS


def test_a_row_a_token_with_exactly_the_backend_figures(make_tokens, make_completion) -> None:
    tokens = make_tokens((0, 10, 20, 37), segment=("reasoning", "content", "tool_call", "end"))
    frame = logprobs_frame(make_completion(tokens, tokens), names=NAMES)
    assert_tokens(frame)
    twice = {name: np.tile(getattr(tokens, name).astype(float), 2) for name in COLUMNS[6:]}
    want = pd.DataFrame(
        {
            "choice": [0] * 4 + [1] * 4,
            "position": [0, 1, 2, 3] * 2,
            "segment": pd.Categorical(list(tokens.segment) * 2, ["reasoning", "content", "tool_call", "end"]),
            "token": ["Once", "\n", "\ufffd", "<|im_end|>"] * 2,
            "token_id": [0, 10, 20, 37] * 2,
            "bytes": pd.Series([b"Once", b"\n", b"\xf0\x9f", None] * 2, dtype=object),
            **{n: v.astype("int64" if n in ("rank", "kept") else "float64") for n, v in twice.items()},
        }
    )
    assert_frame_equal(frame.astype({"token": str}), want.astype({"token": str}), rtol=0, atol=0)


def test_alternatives_are_the_backends_best_first(make_tokens, make_completion) -> None:
    tokens = make_tokens((0, 37, 3), top_k=2)
    frame = top_logprobs_frame(make_completion(tokens), alternatives=3, names=NAMES)
    assert_alternatives(frame)
    assert frame["position"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert frame["alternative"].tolist() == [0, 1, 2] * 3
    assert frame["token_id"].tolist() == tokens.top_ids[:, :3].ravel().tolist()
    assert frame["bytes"].tolist() == [raw for row in tokens.top_bytes for raw in row[:3]]
    np.testing.assert_array_equal(frame["logprob"].to_numpy(), tokens.top_logprob[:, :3].ravel().astype(float))
    np.testing.assert_array_equal(
        frame["sampling_logprob"].to_numpy(), tokens.top_sampling_logprob[:, :3].ravel().astype(float)
    )
    assert frame["sampled"].tolist() == (tokens.top_ids[:, :3] == tokens.ids[:, None]).ravel().tolist()
    assert frame["sampled"].any()
    assert (frame["sampling_logprob"] == -np.inf).any(), "a cut token is minus infinity, not NA"


def test_five_alternatives_unless_the_request_says_otherwise(make_tokens, make_completion) -> None:
    tokens = make_tokens((0, 1))

    def most(**fields: object) -> int:
        return int(top_logprobs_frame(make_completion(tokens, **fields))["alternative"].max()) + 1

    assert most() == 5
    assert most(logprobs=True) == 5
    assert most(logprobs=True, top_logprobs=9) == 9
    none = top_logprobs_frame(make_completion(tokens, logprobs=True, top_logprobs=0))
    assert len(none) == 0
    assert_alternatives(none)
    assert top_logprobs_frame(make_completion(tokens), alternatives=99)["alternative"].max() == 19, "what was recorded"
    with pytest.raises(ValueError, match="alternatives"):
        top_logprobs_frame(make_completion(tokens), alternatives=-1)


@pytest.mark.parametrize("choices", [0, 1, 2])
def test_an_empty_result_has_the_columns_all_the_same(make_tokens, make_completion, choices: int) -> None:
    completion = make_completion(*[make_tokens(()) for _ in range(choices)])
    assert_tokens(logprobs_frame(completion))
    assert_alternatives(top_logprobs_frame(completion))
    assert not len(logprobs_frame(completion)) and not len(top_logprobs_frame(completion))


def test_what_an_endpoint_cannot_say_is_nan(make_tokens, make_completion) -> None:
    tokens = make_tokens((0, 1, 2))
    nothing, unknown = np.full(3, np.nan, np.float32), np.full(3, -1, np.int32)
    remote = replace(
        tokens, ids=unknown, entropy=nothing, sampling_entropy=nothing, sampling_logprob=nothing, rank=unknown,
        kept=unknown, margin=nothing, top_ids=np.full((3, 20), -1, np.int32),
        top_sampling_logprob=np.full((3, 20), np.nan, np.float32),
    )  # fmt: skip
    completion = make_completion(remote)
    frame, top = logprobs_frame(completion), top_logprobs_frame(completion, alternatives=20)
    assert_tokens(frame)
    assert_alternatives(top)
    gone = ["token_id", "sampling_logprob", "rank", "entropy", "sampling_entropy", "margin", "kept"]
    assert frame[gone].isna().all(axis=None)
    assert frame.drop(columns=gone).notna().all(axis=None)
    assert top[["token_id", "sampling_logprob"]].isna().all(axis=None)
    assert (~top["bytes"].isna()).all(), "a place with neither an id nor bytes is not an alternative"
    assert top.loc[top["sampled"], "bytes"].tolist() == [b"Once", b" upon", b" a"], "compared by bytes without ids"


def test_a_nameless_control_token_shows_its_id(make_tokens, make_completion) -> None:
    frame = logprobs_frame(make_completion(make_tokens((38, 27))), names={})
    assert frame["token"].tolist() == ["<id 38>", "\ufffd"]
    assert frame["bytes"].tolist() == [None, b"\xff"]


def test_bytes_that_end_in_zero_stay_whole(make_tokens, make_completion) -> None:
    tokens = replace(make_tokens((0, 1)), bytes=(b"a\x00", b"\x00\x00"))
    assert logprobs_frame(make_completion(tokens))["bytes"].tolist() == [b"a\x00", b"\x00\x00"]
