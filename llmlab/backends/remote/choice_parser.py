"""Parses one choice of an endpoint's answer, whole or in chunks: text, reasoning, tool calls and tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmlab.backends.remote.entries import Entry, entries_of
from llmlab.backends.remote.logprobs import TokenTexts, joined_text, parse_tokens
from llmlab.protocol.completion import CallDelta, Choice, Delta, ToolCall

#: The lists of `logprobs`, and the segment of their tokens. Most endpoints only send "content".
_LISTS = {"reasoning": "reasoning", "content": "content", "tool_calls": "tool_call", "end": "end"}
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
    "abort": "interrupted",
    "error": "interrupted",
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
    lists_end: bool = False  #: whether the endpoint has a list for end tokens, which may be empty
    _call_numbers: dict[Any, int] = field(default_factory=dict)  # the index that was sent -> the position in `calls`

    def feed(self, sent: Mapping[str, Any], *, texts: TokenTexts, whole: bool = False) -> Delta:
        """Add a choice of a chunk, or of a whole answer; returns what is new in it.

        Args:
            sent: the choice as it was sent.
            texts: receives the texts of tokens without bytes.
            whole: whether it is a choice of a whole answer.
        """
        message = _message_of(sent, whole=whole)
        text, thinking = _split_content(message.get("content"))
        reasoning = next((v for name in _REASONING if isinstance(v := message.get(name), str) and v), thinking)
        calls = tuple(self._call(each, whole=whole) for each in _calls_of(message))
        self.text += text
        self.reasoning += reasoning
        self.refusal += _split_content(message.get("refusal"))[0]
        # Most endpoints have one list for the tokens of every segment. They belong to whatever else the chunk holds.
        only = "reasoning" if reasoning and not text else "tool_call" if calls and not text else "content"
        before, lists = len(self.tokens), entries_of(sent.get("logprobs"))
        self.lists_end |= "end" in lists
        for name, segment in _LISTS.items():
            found = only if name == "content" and not whole and "reasoning" not in lists else segment
            self.tokens += [(found, entry) for entry in lists.get(name, ())]
        finish = _finish_of(sent)
        self.finish = finish or self.finish
        return Delta(
            index=self.index,
            text=text,
            tokens=parse_tokens(self.tokens[before:], texts=texts, exact=False),
            finish_reason=None if finish is None else self.shown_finish,
            reasoning=reasoning,
            calls=calls,
        )

    def choice(self, texts: TokenTexts) -> Choice:
        """Returns the whole choice; without a finish reason it is "interrupted".

        `texts` receives the texts of tokens without bytes.
        """
        return Choice(
            index=self.index,
            text=_join_surrogates(self.text),
            tokens=parse_tokens(self.tokens, texts=texts, exact=self.is_exact),
            finish_reason=self.shown_finish or "interrupted",
            reasoning=_join_surrogates(self.reasoning) or None,
            tool_calls=tuple(ToolCall(**call) for call in self.calls),
        )

    @property
    def is_exact(self) -> bool:
        """Whether the tokens listed for the content, joined, equal the content."""
        return joined_text(self.tokens_in("content")) == self.text

    @property
    def shown_finish(self) -> str | None:
        """The finish reason as this package spells it."""
        return None if self.finish is None else FINISH_REASONS.get(self.finish, "stop")

    def tokens_in(self, *segments: str) -> Iterable[Entry]:
        """Returns the tokens of these segments as they were sent; without arguments those of all segments."""
        return [entry for segment, entry in self.tokens if not segments or segment in segments]

    def _call(self, sent: Mapping[str, Any], *, whole: bool) -> CallDelta:
        function = _mapping(sent.get("function"))
        index = self._add_call() if whole else self._call_number(sent)
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

        A piece with another id begins a new call. So does one with a name that has no index, or where the call has
        another name, or arguments that are whole. Calls are numbered in the order in which they come, because the first
        index of some endpoints is 1, and others have one index for all.
        """
        index, own, name = sent.get("index"), sent.get("id"), _mapping(sent.get("function")).get("name")
        number = len(self.calls) - 1 if index is None else self._call_numbers.get(index, len(self.calls))
        if not 0 <= number < len(self.calls):
            number = self._add_call()
        elif own and self.calls[number]["id"] == own:
            pass
        elif own and self.calls[number]["id"]:
            known = [at for at, call in enumerate(self.calls) if call["id"] == own]
            number = known[0] if known else self._add_call()
        elif name and (index is None or (not own and self._is_whole(number, name))):
            number = self._add_call()
        if index is not None:
            self._call_numbers[index] = number
        return number

    def _add_call(self) -> int:
        self.calls.append({"id": "", "name": "", "arguments": ""})
        return len(self.calls) - 1

    def _is_whole(self, number: int, name: str) -> bool:
        """Whether a call is complete, so that a piece with a name and no id begins another one."""
        call = self.calls[number]
        if call["name"] and call["name"] != name:
            return True
        try:
            return isinstance(json.loads(call["arguments"]), dict)
        except ValueError:
            return False


def has_content(sent: Mapping[str, Any]) -> bool:
    """Whether a choice of a chunk says anything: not only the role, also if it is only the end."""
    message = _message_of(sent, whole=False)
    said = any(value for name, value in message.items() if name != "role")
    return said or any(entries_of(sent.get("logprobs")).values()) or _finish_of(sent) is not None


def _message_of(sent: Mapping[str, Any], *, whole: bool) -> Mapping[str, Any]:
    """The message of a choice; some endpoints send `message` in a chunk, `delta` in a whole answer, or only `text`."""
    names = ("message", "delta") if whole else ("delta", "message")
    found = next((sent[name] for name in names if isinstance(sent.get(name), Mapping) and sent[name]), None)
    return {"content": sent.get("text")} if found is None else found


def _calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tool calls of a message, or pieces of them; one call where the legacy `function_call` is sent."""
    calls, legacy = message.get("tool_calls"), message.get("function_call")
    rows = calls if isinstance(calls, list) else [calls]
    if isinstance(legacy, Mapping):
        rows = [*rows, {"index": "function_call", "function": legacy}]
    return [row for row in rows if isinstance(row, Mapping)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _finish_of(sent: Mapping[str, Any]) -> str | None:
    reason = sent.get("finish_reason")
    return str(reason) if reason else None


def _join_surrogates(text: str) -> str:
    """Joins the halves of a character that came in two chunks, each as a JSON escape."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _split_content(content: Any) -> tuple[str, str]:
    """Splits content into text and reasoning. It may be null, a text, or a list of parts, some of them reasoning."""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        return "" if content is None else str(content), ""
    text, thinking = "", ""
    for part in content:
        inner, thought = _split_part(part)
        text, thinking = text + inner, thinking + thought
    return text, thinking


def _split_part(part: Any) -> tuple[str, str]:
    if not isinstance(part, Mapping):
        return "" if part is None else str(part), ""
    if part.get("type") == "thinking":
        return "", _split_content(part.get("thinking"))[0]
    return _split_content(part.get("text"))[0], ""
