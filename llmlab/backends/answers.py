"""What an endpoint said, read with care: choices and tokens from the API's JSON, whole or in chunks.

Nothing is made up. A figure that was not sent is unknown (NaN, or -1 for a count and for an id); bytes that were not
sent are taken from the tokens' own text only where these texts, joined, are the content to the letter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmlab.backends.protocol import CallDelta, Choice, Delta, TokenBytes, Tokens, ToolCall
from llmlab.backends.wire import NEVER

#: The lists of `logprobs`, and what their tokens belong to. Endpoints other than llmlab's send the first alone.
_LISTS = {"reasoning": "reasoning", "content": "content", "tool_calls": "tool_call"}

#: The names under which endpoints send the reasoning: DeepSeek's and llmlab's own, then vLLM's.
_REASONING = ("reasoning_content", "reasoning")


@dataclass
class Answer:
    """One choice as it comes; `take` for each chunk, or once for a whole message."""

    index: int
    finish: str | None = None
    text: str = ""
    reasoning: str = ""
    has_reasoning: bool = False
    calls: list[dict[str, str]] = field(default_factory=list)
    entries: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)  #: segment, token as it was sent

    def take(self, said: Mapping[str, Any], *, whole: bool = False) -> Delta:
        """Add what a choice of a chunk (or of a whole answer) holds; what was new in it."""
        message = said.get("message" if whole else "delta") or {}
        text = message.get("content") or ""
        reasoning = next((message[name] for name in _REASONING if isinstance(message.get(name), str)), None)
        self.text += text
        if reasoning is not None:
            self.has_reasoning = True
            self.reasoning += reasoning
        calls = tuple(self._call(each, at) for at, each in enumerate(message.get("tool_calls") or ()))
        before = len(self.entries)
        logprobs = said.get("logprobs") or {}
        for name, segment in _LISTS.items():
            self.entries += [(segment, entry) for entry in logprobs.get(name) or ()]
        self.finish = said.get("finish_reason") or self.finish
        return Delta(
            index=self.index,
            text=text,
            tokens=tokens_of(self.entries[before:], names={}, exact=False),
            finish_reason=said.get("finish_reason"),
            reasoning=reasoning or "",
            calls=calls,
        )

    def choice(self, names: dict[int, str]) -> Choice:
        """The whole. Tokens whose bytes are not known go by a negative id of their own, and `names` gets their text."""
        content = [entry for segment, entry in self.entries if segment == "content"]
        exact = "".join(str(entry.get("token", "")) for entry in content) == self.text
        return Choice(
            index=self.index,
            text=self.text,
            tokens=tokens_of(self.entries, names=names, exact=exact),
            finish_reason=_reason(self.finish),
            reasoning=self.reasoning if self.has_reasoning else None,
            tool_calls=tuple(ToolCall(id=c["id"], name=c["name"], arguments=c["arguments"]) for c in self.calls),
        )

    def _call(self, said: Mapping[str, Any], at: int) -> CallDelta:
        index = int(said.get("index", at))
        function = said.get("function") or {}
        while len(self.calls) <= index:
            self.calls.append({"id": "", "name": "", "arguments": ""})
        call = self.calls[index]
        first = not call["name"]
        call["id"] = said.get("id") or call["id"]
        call["name"] = function.get("name") or call["name"]
        arguments = function.get("arguments") or ""
        call["arguments"] += arguments
        return CallDelta(
            index=index, arguments=arguments, id=call["id"] if first else None, name=call["name"] if first else None
        )


def tokens_of(entries: Iterable[tuple[str, Mapping[str, Any]]], *, names: dict[int, str], exact: bool) -> Tokens:
    """The entries of `logprobs` as tokens; `exact` says whether their texts can stand for their bytes."""
    rows = list(entries)
    spelled = [_spelled(entry, names, exact=exact) for _, entry in rows]
    best = [list(entry.get("top_logprobs") or ()) for _, entry in rows]
    width = max(map(len, best), default=0)
    tops = [[_spelled(each, names, exact=exact) for each in row] for row in best]

    def numbers(name: str) -> np.ndarray:
        return np.array([_number(entry.get(name)) for _, entry in rows], np.float32)

    def counts(name: str, unknown: int) -> np.ndarray:
        found = [entry.get(name) for _, entry in rows]
        return np.array([unknown if value is None else int(value) for value in found], np.int32)

    def alternatives(name: str) -> np.ndarray:
        table = np.full((len(rows), width), np.nan, np.float32)
        for t, row in enumerate(best):
            table[t, : len(row)] = [_number(each.get(name)) for each in row]
        return table

    top_ids = np.full((len(rows), width), -1, np.int32)
    for t, row in enumerate(tops):
        top_ids[t, : len(row)] = [token for token, _ in row]
    return Tokens(
        ids=np.array([token for token, _ in spelled], np.int32),
        bytes=tuple(raw for _, raw in spelled),
        segment=tuple(segment for segment, _ in rows),
        lead=counts("lead", 0),
        overhang=counts("overhang", 0),
        logprob=numbers("logprob"),
        sampling_logprob=numbers("sampling_logprob"),
        rank=counts("rank", -1),
        entropy=numbers("entropy"),
        sampling_entropy=numbers("sampling_entropy"),
        margin=_margins(rows, best),
        kept=counts("kept", -1),
        top_ids=top_ids,
        top_bytes=tuple((*(raw for _, raw in row), *[None] * (width - len(row))) for row in tops),
        top_logprob=alternatives("logprob"),
        top_sampling_logprob=alternatives("sampling_logprob"),
    )


def _spelled(entry: Mapping[str, Any], names: dict[int, str], *, exact: bool) -> tuple[int, TokenBytes]:
    """A token's id and bytes, as far as they are known."""
    token, text = entry.get("token_id"), str(entry.get("token", ""))
    raw = entry.get("bytes")
    if raw is not None:
        return (-1 if token is None else int(token)), bytes(raw)
    if token is not None:  # llmlab's own: a control token has no bytes
        names[int(token)] = text
        return int(token), None
    if exact and "\ufffd" not in text:
        return -1, text.encode()
    known = {name: number for number, name in names.items() if number < -1}
    number = known.get(text, -2 - len(known))
    names[number] = text
    return number, None


def _margins(rows: list[tuple[str, Mapping[str, Any]]], best: list[list[Mapping[str, Any]]]) -> np.ndarray:
    """Each token's logprob less that of the best other one, where an alternative other than itself was sent."""
    found = []
    for (_, entry), row in zip(rows, best, strict=True):
        key = entry.get("token_id", entry.get("token"))
        others = [_number(each.get("logprob")) for each in row if each.get("token_id", each.get("token")) != key]
        found.append(_number(entry.get("logprob")) - max(others) if others else math.nan)
    return np.array(found, np.float32)


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    return -math.inf if value <= NEVER else float(value)


def _reason(said: str | None) -> str:
    if said in ("stop", "length", "tool_calls"):
        return said
    return "tool_calls" if said == "function_call" else "interrupted" if said is None else "stop"
