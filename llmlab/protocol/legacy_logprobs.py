"""Logprobs in the shape of the API's oldest path: four parallel lists, and the place of each token in the text."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from llmlab.protocol.completion import Header, TokenBytes, Tokens, listed
from llmlab.protocol.wire import number_json, spelling

__all__ = ["Echo", "Logprobs", "echo_of", "joined"]

#: `tokens`, `token_logprobs`, `top_logprobs` and `text_offset`, one entry per token.
Logprobs = dict[str, list[Any]]


class Echo(NamedTuple):
    """A prompt as an answer repeats it."""

    text: str
    tokens: list[str]  #: of each of its tokens
    offsets: list[int]  #: the character at which each of them begins


def echo_of(
    prompt: str | Sequence[int], ids: Sequence[int], table: Sequence[TokenBytes], names: Mapping[int, str]
) -> Echo:
    """Returns the text of a prompt and its tokens.

    The text is the given one, or else that of the token ids, in which a control token is spelled as its name. What a
    tokenizer puts before a given text, such as a begin-of-sequence token or a space, lies at its start.

    Args:
        prompt: as the request has it.
        ids: its token ids.
        table: the bytes of every token id.
        names: the names of the tokens without bytes.
    """
    spelled = [table[token] for token in ids]
    tokens = [_spelled(data, token, names) for data, token in zip(spelled, ids, strict=True)]
    pieces = [name.encode() if data is None else data for data, name in zip(spelled, tokens, strict=True)]
    read = codecs.getincrementaldecoder("utf-8")("replace")
    offsets = [0, *accumulate(len(read.decode(piece)) for piece in pieces)][:-1]
    text = b"".join(pieces).decode("utf-8", "replace")
    if not isinstance(prompt, str):
        return Echo(text, tokens, offsets)
    before = len(text) - len(prompt) if text.endswith(prompt) else 0
    return Echo(prompt, tokens, [min(max(offset - before, 0), len(prompt)) for offset in offsets])


def of_prompt(echo: Echo, header: Header, *, alternatives: int) -> Logprobs:
    """Returns the logprobs of a prompt's tokens; those of the first are null, because nothing comes before it."""
    tokens = header.prompt_tokens
    assert tokens is not None
    return {
        "tokens": echo.tokens,
        "token_logprobs": [None, *map(number_json, tokens.logprob)],
        "top_logprobs": [None, *(_top(tokens, t, header, alternatives) for t in range(len(tokens)))],
        "text_offset": echo.offsets,
    }


class Writer:
    """Writes the logprobs of one answer's tokens, as they come.

    All of its tokens are listed, also the end token and control tokens, which have no text: a reader that counts the
    tokens of the answer finds as many.

    Args:
        header: of the answer.
        alternatives: how many of the likeliest tokens to list; the token itself is always there.
        start: the character at which the answer begins.
    """

    def __init__(self, header: Header, *, alternatives: int, start: int = 0) -> None:
        self._header = header
        self._alternatives = alternatives
        self._read = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = start
        self._silent = {"end", "tool_call", *(("reasoning",) if header.request.separate_reasoning else ())}

    def write(self, tokens: Tokens) -> Logprobs:
        """Returns the logprobs of the next tokens."""
        header, offsets = self._header, []
        for t, data in enumerate(tokens.bytes):
            offsets.append(self._at)
            if data is not None and tokens.segment[t] not in self._silent:
                inside = data[int(tokens.lead[t]) : len(data) - int(tokens.overhang[t])]
                self._at += len(self._read.decode(inside))
        ids = tokens.ids.tolist()
        return {
            "tokens": [_spelled(tokens.bytes[t], ids[t], header.control_tokens) for t in range(len(ids))],
            "token_logprobs": [number_json(value) for value in tokens.logprob],
            "top_logprobs": [_top(tokens, t, header, self._alternatives) for t in range(len(ids))],
            "text_offset": offsets,
        }


def joined(first: Logprobs, second: Logprobs) -> Logprobs:
    """Returns the logprobs of two parts of a text as those of the whole."""
    return {name: [*first[name], *second[name]] for name in first}


def _spelled(data: TokenBytes, token: int, names: Mapping[int, str]) -> str:
    """A token's text. A piece of a character is `bytes:` and its bytes, as OpenAI has it, so that no two are alike."""
    if data is not None:
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
    return str(spelling(data, token, names)["token"])


def _top(tokens: Tokens, t: int, header: Header, alternatives: int) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    ids = tokens.top_ids[t].tolist()
    columns = listed(tokens, t, most=alternatives, named=header.request.logprob_token_ids or ())
    for a in columns:
        name = _spelled(tokens.top_bytes[t][a], ids[a], header.control_tokens)
        found.setdefault(name, number_json(tokens.top_logprob[t, a]))  # of two that look alike, the likelier one
    if int(tokens.ids[t]) not in [ids[a] for a in columns] and not np.isnan(tokens.logprob[t]):
        own = _spelled(tokens.bytes[t], int(tokens.ids[t]), header.control_tokens)
        found.setdefault(own, number_json(tokens.logprob[t]))
    return found
