"""What an endpoint said in one choice, read with care: text, reasoning, calls and tokens, whole or in chunks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmlab.backends.remote.logprobs import Entry, Names, text_of, tokens_of
from llmlab.protocol.completion import CallDelta, Choice, Delta, ToolCall

#: The lists of `logprobs`, and what their tokens belong to. Endpoints other than llmlab's send the second alone.
_LISTS = {"reasoning": "reasoning", "content": "content", "tool_calls": "tool_call"}
#: The names under which endpoints send the reasoning: DeepSeek's and llmlab's own, then vLLM's.
_REASONING = ("reasoning_content", "reasoning")
#: What ends a choice, as the API spells it; and as others do.
FINISH_REASONS = {
    **{reason: reason for reason in ("stop", "length", "tool_calls")},
    "function_call": "tool_calls",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
}


@dataclass
class Answer:
    """One choice as it comes; `take` for each chunk, or once for a whole message."""

    index: int
    finish: str | None = None  #: as the endpoint spells it
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    entries: list[tuple[str, Entry]] = field(default_factory=list)  #: segment, token as it was sent
    _places: dict[Any, int] = field(default_factory=dict)  # of the calls, by the index that was sent

    def take(self, said: Mapping[str, Any], *, names: Names, whole: bool = False) -> Delta:
        """Add what a choice of a chunk (or of a whole answer) holds; what was new in it."""
        message = said.get("message" if whole else "delta") or {}
        text, thought = _parts(message.get("content"))
        reasoning = next((v for name in _REASONING if isinstance(v := message.get(name), str) and v), thought)
        calls = tuple(map(self._call, message.get("tool_calls") or ()))
        self.text += text
        self.reasoning += reasoning
        self.refusal += message.get("refusal") or ""
        # One list for all tokens, whatever they belong to: where a chunk holds nothing else, they are that.
        alone = "reasoning" if reasoning and not text else "tool_call" if calls and not text else "content"
        before, logprobs = len(self.entries), said.get("logprobs") or {}
        for name, segment in _LISTS.items():
            where = alone if name == "content" and not whole and "reasoning" not in logprobs else segment
            self.entries += [(where, entry) for entry in logprobs.get(name) or () if isinstance(entry, Mapping)]
        finish = said.get("finish_reason") or None
        self.finish = finish or self.finish
        return Delta(
            index=self.index,
            text=text,
            tokens=tokens_of(self.entries[before:], names=names, exact=False),
            finish_reason=None if finish is None else FINISH_REASONS.get(finish, "stop"),
            reasoning=reasoning,
            calls=calls,
        )

    def choice(self, names: Names) -> Choice:
        """The whole; `names` gets the texts of tokens without bytes. Without an end it is `interrupted`."""
        finish = "interrupted" if self.finish is None else FINISH_REASONS.get(self.finish, "stop")
        return Choice(
            index=self.index,
            text=_paired(self.text),
            tokens=tokens_of(self.entries, names=names, exact=self.joins),
            finish_reason=finish,
            reasoning=_paired(self.reasoning) or None,
            tool_calls=tuple(ToolCall(**call) for call in self.calls),
        )

    @property
    def joins(self) -> bool:
        """Whether the tokens that are listed for the content make it up to the letter."""
        return text_of(self.listed("content")) == self.text

    def listed(self, *segments: str) -> Iterable[Entry]:
        """The tokens of these segments as they were sent; of all where none is named."""
        return [entry for segment, entry in self.entries if not segments or segment in segments]

    def _call(self, said: Mapping[str, Any]) -> CallDelta:
        function = said.get("function") or {}
        index = self._place(said)
        call = self.calls[index]
        before = call["name"]
        call["id"] = said.get("id") or call["id"]
        call["name"] = function.get("name") or before
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):  # an object instead of the text that the API has there
            arguments = json.dumps(arguments, ensure_ascii=False)
        call["arguments"] += arguments
        named = bool(call["name"]) and not before
        return CallDelta(
            index=index,
            arguments=arguments,
            id=call["id"] if named else None,
            name=call["name"] if named else None,
        )

    def _place(self, said: Mapping[str, Any]) -> int:
        """Which of the calls a piece belongs to; a new one where it brings another id, or a name without an index.

        Calls are numbered as they come: there are endpoints whose first index is 1.
        """
        index, own, name = said.get("index"), said.get("id"), (said.get("function") or {}).get("name")
        if index is None:
            place = len(self.calls) - 1
            if place < 0 or (name and not (own and own == self.calls[place]["id"])):
                place += 1
        else:
            place = self._places.get(index, len(self.calls))
            if own and place < len(self.calls) and self.calls[place]["id"] not in ("", own):
                known = [number for number, call in enumerate(self.calls) if call["id"] == own]
                place = known[0] if known else len(self.calls)
            self._places[index] = place
        if place == len(self.calls):
            self.calls.append({"id": "", "name": "", "arguments": ""})
        return place


def _paired(text: str) -> str:
    """Halves of a character that came in two chunks, each as JSON's escape, are one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parts(content: Any) -> tuple[str, str]:
    """Content as text and reasoning: it may be null, a text, or a list of parts, some of which are thoughts."""
    if not isinstance(content, list):
        return content or "", ""
    text, thought = "", ""
    for part in content:
        if isinstance(part, str):
            text += part
        elif part.get("type") == "thinking":
            inner = part.get("thinking")
            thought += inner if isinstance(inner, str) else _parts(inner or [])[0]
        else:
            text += part.get("text") or ""
    return text, thought
