"""Parses one choice of an endpoint's answer, whole or in chunks: text, reasoning, tool calls and tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmlab.backends.remote.logprobs import Entry, TokenTexts, joined_text, parse_tokens
from llmlab.protocol.completion import CallDelta, Choice, Delta, ToolCall

#: The lists of `logprobs`, and the segment of their tokens. Endpoints other than llmlab's only send "content".
_LISTS = {"reasoning": "reasoning", "content": "content", "tool_calls": "tool_call"}
#: The fields in which endpoints send the reasoning: DeepSeek's and llmlab's own, then vLLM's.
_REASONING = ("reasoning_content", "reasoning")
#: Finish reasons as the API spells them and as other endpoints do -> as this package does.
FINISH_REASONS = {
    **{reason: reason for reason in ("stop", "length", "tool_calls")},
    "function_call": "tool_calls",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
}


@dataclass
class ChoiceParser:
    """One choice as it comes: `feed` takes each chunk, or the whole message, and `choice` returns the whole choice."""

    index: int
    finish: str | None = None  #: the finish reason, as the endpoint spells it
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    tokens: list[tuple[str, Entry]] = field(default_factory=list)  #: (segment, token as it was sent)
    _call_numbers: dict[Any, int] = field(default_factory=dict)  # the index that was sent -> the position in `calls`

    def feed(self, sent: Mapping[str, Any], *, texts: TokenTexts, whole: bool = False) -> Delta:
        """Add a choice of a chunk, or of a whole answer; returns what is new in it.

        Args:
            sent: the choice as it was sent.
            texts: receives the texts of tokens without bytes.
            whole: whether it is a choice of a whole answer.
        """
        message = sent.get("message" if whole else "delta") or {}
        text, thinking = _split_content(message.get("content"))
        reasoning = next((v for name in _REASONING if isinstance(v := message.get(name), str) and v), thinking)
        calls = tuple(map(self._call, message.get("tool_calls") or ()))
        self.text += text
        self.reasoning += reasoning
        self.refusal += message.get("refusal") or ""
        # Most endpoints have one list for the tokens of every segment. They belong to whatever else the chunk holds.
        only = "reasoning" if reasoning and not text else "tool_call" if calls and not text else "content"
        before, logprobs = len(self.tokens), sent.get("logprobs") or {}
        for name, segment in _LISTS.items():
            found = only if name == "content" and not whole and "reasoning" not in logprobs else segment
            self.tokens += [(found, entry) for entry in logprobs.get(name) or () if isinstance(entry, Mapping)]
        finish = sent.get("finish_reason") or None
        self.finish = finish or self.finish
        return Delta(
            index=self.index,
            text=text,
            tokens=parse_tokens(self.tokens[before:], texts=texts, exact=False),
            finish_reason=None if finish is None else FINISH_REASONS.get(finish, "stop"),
            reasoning=reasoning,
            calls=calls,
        )

    def choice(self, texts: TokenTexts) -> Choice:
        """Returns the whole choice; without a finish reason it is "interrupted".

        `texts` receives the texts of tokens without bytes.
        """
        finish = "interrupted" if self.finish is None else FINISH_REASONS.get(self.finish, "stop")
        return Choice(
            index=self.index,
            text=_join_surrogates(self.text),
            tokens=parse_tokens(self.tokens, texts=texts, exact=self.is_exact),
            finish_reason=finish,
            reasoning=_join_surrogates(self.reasoning) or None,
            tool_calls=tuple(ToolCall(**call) for call in self.calls),
        )

    @property
    def is_exact(self) -> bool:
        """Whether the tokens listed for the content, joined, equal the content."""
        return joined_text(self.tokens_in("content")) == self.text

    def tokens_in(self, *segments: str) -> Iterable[Entry]:
        """Returns the tokens of these segments as they were sent; without arguments those of all segments."""
        return [entry for segment, entry in self.tokens if not segments or segment in segments]

    def _call(self, sent: Mapping[str, Any]) -> CallDelta:
        function = sent.get("function") or {}
        index = self._call_number(sent)
        call = self.calls[index]
        before = call["name"]
        call["id"] = sent.get("id") or call["id"]
        call["name"] = function.get("name") or before
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):  # an object, where the API has a text
            arguments = json.dumps(arguments, ensure_ascii=False)
        call["arguments"] += arguments
        named = bool(call["name"]) and not before
        return CallDelta(
            index=index,
            arguments=arguments,
            id=call["id"] if named else None,
            name=call["name"] if named else None,
        )

    def _call_number(self, sent: Mapping[str, Any]) -> int:
        """The position in `calls` of the call that a piece belongs to.

        A piece with another id begins a new call, and so does one with a name and no index. Calls are numbered in the
        order in which they come, because the first index of some endpoints is 1.
        """
        index, own, name = sent.get("index"), sent.get("id"), (sent.get("function") or {}).get("name")
        if index is None:
            number = len(self.calls) - 1
            if number < 0 or (name and not (own and own == self.calls[number]["id"])):
                number += 1
        else:
            number = self._call_numbers.get(index, len(self.calls))
            if own and number < len(self.calls) and self.calls[number]["id"] not in ("", own):
                known = [at for at, call in enumerate(self.calls) if call["id"] == own]
                number = known[0] if known else len(self.calls)
            self._call_numbers[index] = number
        if number == len(self.calls):
            self.calls.append({"id": "", "name": "", "arguments": ""})
        return number


def _join_surrogates(text: str) -> str:
    """Joins the halves of a character that came in two chunks, each as a JSON escape."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _split_content(content: Any) -> tuple[str, str]:
    """Splits content into text and reasoning. It may be null, a text, or a list of parts, some of them reasoning."""
    if not isinstance(content, list):
        return content or "", ""
    text, thinking = "", ""
    for part in content:
        if isinstance(part, str):
            text += part
        elif part.get("type") == "thinking":
            inner = part.get("thinking")
            thinking += inner if isinstance(inner, str) else _split_content(inner or [])[0]
        else:
            text += part.get("text") or ""
    return text, thinking
