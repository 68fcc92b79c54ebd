"""Frames of a completion's tokens: one row per token, or one row per alternative.

Natural logarithms, entropies in nats. A value that the backend does not know (NaN, or -1 for a count) is NaN; the
logprob of a probability of zero is minus infinity. The columns are declared in `schema`; an empty frame has them all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from llmlab.errors import RequestError
from llmlab.frames.schema import KEPT_COLUMNS, LOGPROBS_COLUMNS, SURPRISAL_COLUMNS, TOP_LOGPROBS_COLUMNS, build
from llmlab.protocol.arguments import file_path, whole
from llmlab.protocol.completion import ALTERNATIVES, Choice, Completion, drawable, listed
from llmlab.text.spelling import token_text


def logprobs_frame(completion: Completion, *, names: Mapping[int, str] | None = None) -> pd.DataFrame:
    """The generated tokens, one row each, with the end token (where an endpoint lists none, a note says so).

    Columns: choice, position (from 0, over all generated tokens), segment (reasoning, content, tool_call, end), token
    (its bytes read as UTF-8; a control token's name), token_id, bytes (None for a control token), logprob (in the raw
    distribution), sampling_logprob (in the distribution that was sampled from), rank (by raw logprob, from 1), entropy,
    sampling_entropy, margin (the raw logprob minus that of the best other token), kept (the number of tokens that could
    have been sampled).

    Args:
        completion: the completion.
        names: names of control tokens by id, by default the completion's own; one that is missing is `<id 7>`.
    """
    choices = completion.choices
    lengths = [len(choice.tokens) for choice in choices]
    ids = _joined([choice.tokens.ids for choice in choices], np.int64)
    raw = [piece for choice in choices for piece in choice.tokens.bytes]
    columns: dict[str, object] = {
        "choice": _repeat(choices, lengths),
        "position": _joined([np.arange(length) for length in lengths], np.int64),
        "segment": [name for choice in choices for name in choice.tokens.segment],
        "token": _texts(completion, raw, ids, names),
        "token_id": ids,
        "bytes": raw,
    }
    for name in ("logprob", "sampling_logprob", "rank", "entropy", "sampling_entropy", "margin", "kept"):
        columns[name] = _joined([getattr(choice.tokens, name) for choice in choices], np.float64)
    return build(columns, LOGPROBS_COLUMNS)


def kept_frame(completion: Completion, choice: Choice) -> pd.DataFrame:
    """The tokens that could be drawn at each position of a choice, from what was recorded with its tokens.

    Columns: as `llmlab.frames.distribution.kept_frame`.

    Raises:
        RequestError: they are not known at some position.
    """
    found = [drawable(choice.tokens, t) for t in range(len(choice.tokens))]
    unknown = [t for t, some in enumerate(found) if some is None]
    if unknown:
        raise RequestError(
            f"the tokens that could be drawn are not known at {len(unknown)} of {len(found)} positions, the first at "
            f"{unknown[0]}: ask for kept_logprobs=True, with logprobs=True and a truncation that leaves at most 20 "
            "tokens (the endpoint has to know the field)",
            param="kept_logprobs",
        )
    rows = [(t, each) for t, some in enumerate(found) for each in some or ()]
    ids, raw = [each.token_id for _, each in rows], [each.data for _, each in rows]
    columns: dict[str, object] = {
        "position": [t for t, _ in rows],
        "token": _texts(completion, raw, np.array(ids, np.int64), None),
        "token_id": ids,
        "bytes": raw,
        "logprob": [each.logprob for _, each in rows],
        "sampling_logprob": [each.sampling_logprob for _, each in rows],
        "drawn": [each.token_id == int(choice.tokens.ids[t]) for t, each in rows],
    }
    return build(columns, KEPT_COLUMNS)


def top_logprobs_frame(
    completion: Completion, *, alternatives: int | None = None, names: Mapping[int, str] | None = None
) -> pd.DataFrame:
    """The alternatives at each position, one row each, by falling raw logprob, then by id.

    Columns: choice, position, alternative (from 0), token, token_id, bytes, logprob, sampling_logprob, sampled (whether
    it is the sampled token; a sampled token that is not among the best is not added).

    Args:
        completion: the completion.
        alternatives: the number of alternatives per token, at most those that the backend recorded; by default the
            request's `top_logprobs`, or five where it asks for none. Tokens of its `logprob_token_ids` come after them.
        names: as in `logprobs_frame`.

    Raises:
        RequestError: `alternatives` is no integer of at least 0.
    """
    if alternatives is None:
        asked = completion.request.top_logprobs if completion.request.logprobs else None
        alternatives = ALTERNATIVES if asked is None else asked
    alternatives = whole("alternatives", alternatives, least=0)
    named = completion.request.logprob_token_ids or ()
    parts = [_alternatives(choice, alternatives, named) for choice in completion.choices]
    raw = [piece for part in parts for piece in part.bytes]
    ids = _joined([part.token_id for part in parts], np.int64)
    columns: dict[str, object] = {
        "choice": _repeat(completion.choices, [len(part.bytes) for part in parts]),
        "position": _joined([part.position for part in parts], np.int64),
        "alternative": _joined([part.alternative for part in parts], np.int64),
        "token": _texts(completion, raw, ids, names),
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


def _alternatives(choice: Choice, most: int, named: Sequence[int]) -> _Alternatives:
    """The recorded alternatives of one choice, at most `most` per position, and those of tokens asked for by id."""
    tokens = choice.tokens
    ids = tokens.top_ids.astype(np.int64)
    nameless = [[piece is None for piece in row] for row in tokens.top_bytes]
    wanted = np.zeros(ids.shape, bool)
    for t in range(len(ids)):
        wanted[t, listed(tokens, t, most=most, named=named)] = True
    # An endpoint may give fewer alternatives: the rest of the row has neither ids nor bytes.
    there = wanted & ~((ids == -1) & np.array(nameless, bool).reshape(ids.shape))
    position, alternative = np.nonzero(there)
    raw = [tokens.top_bytes[t][a] for t, a in zip(position, alternative, strict=True)]
    # Where an endpoint gives no ids, bytes tell whether two tokens are the same.
    same_bytes = np.array([piece == tokens.bytes[t] for t, piece in zip(position, raw, strict=True)], bool)
    sampled_id = tokens.ids[position]
    return _Alternatives(
        position=position,
        alternative=alternative,
        token_id=ids[there],
        bytes=raw,
        logprob=tokens.top_logprob[there],
        sampling_logprob=tokens.top_sampling_logprob[there],
        sampled=np.where(sampled_id != -1, ids[there] == sampled_id, same_bytes),
    )


def _texts(
    completion: Completion, raw: Sequence[bytes | None], ids: np.ndarray, names: Mapping[int, str] | None
) -> list[str]:
    known = completion.control_tokens if names is None else names
    return [token_text(piece, token_id=int(i), names=known) for piece, i in zip(raw, ids, strict=True)]


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(array, dtype) for array in arrays)])


def _repeat(choices: Sequence[Choice], lengths: Sequence[int]) -> np.ndarray:
    return np.repeat(np.array([choice.index for choice in choices], np.int64), np.array(lengths, np.int64))


def to_csv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write a frame with a column `bytes` as CSV and return its path.

    Bytes are written as hexadecimal digits, a missing value as nothing.
    """
    path = file_path(path)
    digits = [None if raw is None else raw.hex() for raw in frame["bytes"]]
    frame.assign(bytes=digits).to_csv(path, index=False)
    return path


def surprisal_frame(completion: Completion, *, names: Mapping[int, str] | None = None) -> pd.DataFrame:
    """The surprisal of each generated token, one row each.

    Columns: choice, position, segment, token, token_id, bytes, surprisal (minus the raw logprob, in nats), bits (the
    same in bits), total_bits (the sum over the choice up to this token), expected_bits (the raw distribution's entropy
    in bits: the mean surprisal of a token sampled from it).

    Args:
        completion: the completion.
        names: as in `logprobs_frame`.

    Sources: Shannon 1948, "A mathematical theory of communication"; as a measure of reading difficulty Hale 2001, "A
    probabilistic Earley parser as a psycholinguistic model".
    """
    frame = logprobs_frame(completion, names=names)
    surprisal = 0.0 - frame["logprob"]  # no -0
    frame["surprisal"] = surprisal
    frame["bits"] = surprisal / np.log(2)
    # After a token whose surprisal is not known, the sum is not known either.
    frame["total_bits"] = frame.groupby("choice")["bits"].cumsum(skipna=False)
    frame["expected_bits"] = frame["entropy"] / np.log(2)
    return frame[list(SURPRISAL_COLUMNS)]
