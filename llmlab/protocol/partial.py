"""The part of an answer that has been made so far, put together from a stream's deltas."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from llmlab.protocol.completion import Choice, Completion, Delta, Header, Timing, Tokens

#: The finish reason of a choice that is not finished yet.
UNFINISHED = "unfinished"


class PartialCompletion:
    """Collects deltas: `add` takes the next one, `completion` returns the answer so far.

    The tokens of tool calls are included, but no tool calls: those are parsed when the answer is whole.

    Args:
        header: the stream's header.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._began = time.perf_counter()
        self.clear()

    def clear(self) -> None:
        """Drop every delta: the answer begins anew."""
        n = self._header.request.n
        self._first: float | None = None
        self._tokens: list[list[Tokens]] = [[] for _ in range(n)]
        self._text = [""] * n
        self._reasoning = [""] * n
        self._finish = [UNFINISHED] * n

    def add(self, delta: Delta) -> None:
        """Add the next delta."""
        at = delta.index
        self._first = self._first or time.perf_counter() - self._began
        if len(delta.tokens):
            self._tokens[at].append(_with_bytes(delta))
        self._text[at] += delta.text
        self._reasoning[at] += delta.reasoning
        self._finish[at] = delta.finish_reason or self._finish[at]

    def completion(self) -> Completion:
        """Returns the answer so far; the finish reason of a choice that is not finished is "unfinished"."""
        self._tokens = [[concatenate(parts)] for parts in self._tokens]
        return Completion(
            **{field.name: getattr(self._header, field.name) for field in fields(Header)},
            choices=tuple(
                Choice(
                    index=at,
                    text=self._text[at],
                    tokens=self._tokens[at][0],
                    finish_reason=self._finish[at],
                    reasoning=self._reasoning[at] or None,
                )
                for at in range(self._header.request.n)
            ),
            timing=Timing(first_token=self._first or 0.0, total=time.perf_counter() - self._began),
        )


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """Returns the tokens of all parts, in order; tokens with fewer alternatives get unknown ones."""
    if len(parts) == 1:
        return parts[0]
    width = max((part.top_ids.shape[1] for part in parts), default=0)
    return Tokens(**{field.name: _concatenate(field.name, parts, width) for field in fields(Tokens)})


def _concatenate(name: str, parts: Sequence[Tokens], width: int) -> Any:
    columns = [getattr(part, name) for part in parts]
    if name == "top_bytes":
        return tuple((*row, *[None] * (width - len(row))) for column in columns for row in column)
    if name in ("bytes", "segment"):
        return tuple(entry for column in columns for entry in column)
    unknown: float = -1 if name == "top_ids" else np.nan
    if name.startswith("top_"):
        columns = [
            np.pad(column, ((0, 0), (0, width - column.shape[1])), constant_values=unknown) for column in columns
        ]
    empty = np.zeros((0, width) if name.startswith("top_") else 0)
    whole = name in ("ids", "lead", "overhang", "rank", "kept", "top_ids")
    return np.concatenate([empty, *columns]).astype(np.int32 if whole else np.float32)


def _with_bytes(delta: Delta) -> Tokens:
    """A delta's tokens. A single token that an endpoint sent without bytes gets those of the delta's text."""
    tokens = delta.tokens
    if len(tokens) == 1 and tokens.ids[0] < 0 and tokens.bytes[0] is None and delta.text:
        return replace(tokens, bytes=(delta.text.encode("utf-8", "replace"),))
    return tokens
