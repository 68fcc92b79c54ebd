"""What a completion's tokens are, as dataframes: one row a token, or one row an alternative.

Natural logs, entropies in nats. A figure that the backend cannot know (NaN, or -1 for a count) is NA here; a
probability of zero is -inf. The columns, their order and their dtypes are declared once, and an empty result has them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from llmlab.frames.schema import build
from llmlab.protocol.arguments import file_path, whole
from llmlab.protocol.completion import ALTERNATIVES, Choice, Completion
from llmlab.results.answer import Answer
from llmlab.text.spelling import token_text

#: Column -> kind, in order. The kinds are those of `build`.
LOGPROBS_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "segment": "segment",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "sampling_logprob": "number",
    "rank": "count",
    "entropy": "number",
    "sampling_entropy": "number",
    "margin": "number",
    "kept": "count",
}
TOP_LOGPROBS_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "alternative": "index",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "sampling_logprob": "number",
    "sampled": "flag",
}


def logprobs_frame(completion: Completion, *, names: Mapping[int, str] | None = None) -> pd.DataFrame:
    """One row a generated token, the end token included (which an endpoint does not list).

    Columns: choice, position (from 0, over all generated tokens), segment (reasoning, content, tool_call, end), token
    (the UTF-8 reading of its bytes; a control token's name), token_id, bytes (None for a control token), logprob (the
    raw law's), sampling_logprob (of the law that was drawn from), rank (1-based, raw), entropy, sampling_entropy,
    margin (to the best other token), kept (how many tokens could have been drawn).

    Args:
        completion: what a backend answered.
        names: names of control tokens by id; one that is missing is shown as `<id 7>`.
    """
    choices = completion.choices
    lengths = [len(choice.tokens) for choice in choices]
    ids = _joined([choice.tokens.ids for choice in choices], np.int64)
    raw = [piece for choice in choices for piece in choice.tokens.bytes]
    columns: dict[str, object] = {
        "choice": _repeat(choices, lengths),
        "position": _joined([np.arange(length) for length in lengths], np.int64),
        "segment": [name for choice in choices for name in choice.tokens.segment],
        "token": _texts(raw, ids, names),
        "token_id": ids,
        "bytes": raw,
    }
    for name in ("logprob", "sampling_logprob", "rank", "entropy", "sampling_entropy", "margin", "kept"):
        columns[name] = _joined([getattr(choice.tokens, name) for choice in choices], np.float64)
    return build(columns, LOGPROBS_COLUMNS)


def top_logprobs_frame(
    completion: Completion, *, alternatives: int | None = None, names: Mapping[int, str] | None = None
) -> pd.DataFrame:
    """One row an alternative, best first by raw logprob, then id.

    Columns: choice, position, alternative (from 0), token, token_id, bytes, logprob, sampling_logprob, sampled (whether
    it is the token that was drawn; that token is not forced in).

    Args:
        completion: what a backend answered.
        alternatives: how many a token; by default the request's `top_logprobs` where it has one, else five. Never more
            than the backend recorded.
        names: as in `logprobs_frame`.
    """
    if alternatives is None:
        asked = completion.request.top_logprobs if completion.request.logprobs else None
        alternatives = ALTERNATIVES if asked is None else asked
    alternatives = whole("alternatives", alternatives, least=0)
    parts = [_alternatives(choice, alternatives) for choice in completion.choices]
    raw = [piece for part in parts for piece in part.bytes]
    ids = _joined([part.token_id for part in parts], np.int64)
    columns: dict[str, object] = {
        "choice": _repeat(completion.choices, [len(part.bytes) for part in parts]),
        "position": _joined([part.position for part in parts], np.int64),
        "alternative": _joined([part.alternative for part in parts], np.int64),
        "token": _texts(raw, ids, names),
        "token_id": ids,
        "bytes": raw,
        "logprob": _joined([part.logprob for part in parts], np.float64),
        "sampling_logprob": _joined([part.sampling_logprob for part in parts], np.float64),
        "sampled": _joined([part.sampled for part in parts], bool),
    }
    return build(columns, TOP_LOGPROBS_COLUMNS)


class _Alternatives(NamedTuple):
    position: np.ndarray
    alternative: np.ndarray
    token_id: np.ndarray
    bytes: list[bytes | None]
    logprob: np.ndarray
    sampling_logprob: np.ndarray
    sampled: np.ndarray


def _alternatives(choice: Choice, most: int) -> _Alternatives:
    """The alternatives of one choice that are there, position by position."""
    tokens = choice.tokens
    ids = tokens.top_ids[:, :most].astype(np.int64)
    nameless = [[piece is None for piece in row[:most]] for row in tokens.top_bytes]
    # An endpoint may leave a row short: such a place has neither an id nor bytes.
    there = ~((ids == -1) & np.array(nameless, bool).reshape(ids.shape))
    position, alternative = np.nonzero(there)
    raw = [tokens.top_bytes[t][a] for t, a in zip(position, alternative, strict=True)]
    # An endpoint that gives no ids is compared by bytes.
    same_bytes = np.array([piece == tokens.bytes[t] for t, piece in zip(position, raw, strict=True)], bool)
    sampled_id = tokens.ids[position]
    return _Alternatives(
        position=position,
        alternative=alternative,
        token_id=ids[there],
        bytes=raw,
        logprob=tokens.top_logprob[:, :most][there],
        sampling_logprob=tokens.top_sampling_logprob[:, :most][there],
        sampled=np.where(sampled_id != -1, ids[there] == sampled_id, same_bytes),
    )


def _texts(raw: Sequence[bytes | None], ids: np.ndarray, names: Mapping[int, str] | None) -> list[str]:
    return [token_text(piece, token_id=int(i), names=names or {}) for piece, i in zip(raw, ids, strict=True)]


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(array, dtype) for array in arrays)])


def _repeat(choices: Sequence[Choice], lengths: Sequence[int]) -> np.ndarray:
    return np.repeat(np.array([choice.index for choice in choices], np.int64), np.array(lengths, np.int64))


def to_csv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write a frame of tokens as CSV: bytes as hexadecimal digits, NA and no bytes as nothing."""
    path = file_path(path)
    digits = [None if raw is None else raw.hex() for raw in frame["bytes"]]
    frame.assign(bytes=digits).to_csv(path, index=False)
    return path


PROMPT_COLUMNS: dict[str, str] = {
    "position": "index",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "rank": "count",
    "entropy": "number",
    "margin": "number",
}


SURPRISAL_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "segment": "segment",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "surprisal": "number",
    "bits": "number",
    "total_bits": "number",
    "expected_bits": "number",
}


def surprisal_frame(result: Answer) -> pd.DataFrame:
    """See `Answer.surprisal_frame`."""
    frame = result.logprobs_frame()
    surprisal = 0.0 - frame["logprob"]  # no -0
    frame["surprisal"] = surprisal
    frame["bits"] = surprisal / np.log(2)
    # Behind a token whose figure is not known, neither is the sum.
    frame["total_bits"] = frame.groupby("choice")["bits"].cumsum(skipna=False)
    frame["expected_bits"] = frame["entropy"] / np.log(2)
    return frame[list(SURPRISAL_COLUMNS)]
