"""Turns the tokens of one choice into text, reasoning, tool calls and a finish reason, as they leave the engine.

Every decision depends on the bytes and their order alone, not on the pieces in which they arrive. So the deltas, put
together, equal the whole choice by construction.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from llmlab.backends.local.text_buffer import TextBuffer, ToolCallBuffer
from llmlab.backends.local.token_record import TokenRecord
from llmlab.engine.scheduler import Piece
from llmlab.protocol.completion import Choice, Delta, TokenBytes
from llmlab.text.segments import Segmenter, Span
from llmlab.text.stops import StopMatcher

__all__ = ["ChoiceWriter", "call_id"]

#: The segment of the content, and what bytes of it count as that are no text: the header of a message.
_CONTENT, _HEADER = "content", "header"


def call_id(number: int, *, seed: int, choice: int, prompt: np.ndarray, length: int = 0) -> str:
    """Returns the id of a tool call: the same for the same request, whether it is streamed or not.

    Args:
        number: the number of the call within its choice, from 0.
        seed: the request's seed, or the one drawn for it.
        choice: the choice's index.
        prompt: the prompt's token ids.
        length: the length that the chat format prescribes (`CallSyntax.id_length`); 0 for the API's usual form.
    """
    key = f"{seed} {choice} {number} ".encode() + np.asarray(prompt, np.int32).tobytes()
    digest = hashlib.sha256(key).hexdigest()
    return digest[:length] if length else f"call_{digest[:24]}"


class ChoiceWriter:
    """Takes a choice's pieces in order: `feed` returns deltas, `choice` the whole choice at the end.

    A token is counted, listed and kept as a whole, even where a segment or the text ends inside its bytes; then its
    `lead` and `overhang` say how many of them lie outside. Stop sequences are looked for in the content only. Tokens
    after a stop sequence were generated in vain and are dropped. A delta holds the tokens that became final: their
    segment is known, and all of their text has been returned.

    Args:
        index: the choice's index.
        token_bytes: the bytes of every token id, None for control tokens.
        segmenter: a new one, for this choice.
        stops: a new matcher, for this choice.
        end_ids: the tokens that end the choice; none where the request ignores them.
        delimiters: the spellings of the control tokens that are delimiters (`Format.controls`).
        separate_reasoning: whether the reasoning is kept out of the text.
        parallel_tool_calls: whether the choice continues after its first complete call.
        min_tokens: a stop sequence that is completed before so many tokens does not count.
        watched: tokens that are listed as alternatives of every token (`logprob_token_ids`).
        name_call: returns the id of a call, given its number.

    Attributes:
        finish: the finish reason; None while the choice goes on.
        given: how many of the first tokens were supplied, not sampled.
    """

    def __init__(
        self,
        index: int,
        *,
        token_bytes: Sequence[TokenBytes],
        segmenter: Segmenter,
        stops: StopMatcher,
        end_ids: Collection[int] = (),
        delimiters: Mapping[int, bytes] | None = None,
        separate_reasoning: bool = False,
        parallel_tool_calls: bool = True,
        min_tokens: int = 0,
        watched: Sequence[int] = (),
        name_call: Callable[[int], str] = "call_{}".format,
    ) -> None:
        self.index = index
        self.finish: str | None = None
        self.given = 0
        self._record = TokenRecord(token_bytes, watched=watched)
        self._segmenter = segmenter
        self._stops = stops
        self._ends = frozenset(end_ids)
        self._delimiters = delimiters or {}
        self._parallel = parallel_tool_calls
        self._early = max(0, min_tokens - 1)  # how many of the next tokens must not complete a stop sequence
        self._listed = ("content",) if separate_reasoning else ("content", "reasoning")
        self._text = TextBuffer()  # `message.content`
        self._reasoning = TextBuffer()  # `reasoning_content`; unused where the reasoning is part of the text
        self._reasoning_chars = 0  # how many characters of the text so far are reasoning
        self._reasoning_bytes = 0  # how many bytes of reasoning there are, the tags included
        self._calls = ToolCallBuffer(name_call)
        self._untagged: list[bytes] | None = [] if segmenter.reasoning else None  # the reasoning without its tags
        self._last = "reasoning" if segmenter.reasoning else "content"  # the segment of the last byte
        self._queue: deque[tuple[int, bool]] = deque()  # per unassigned token: its number of bytes, whether it is text
        self._used = 0  # how many bytes of the first token in the queue have a segment,
        self._parts: list[tuple[str, int]] = []  # and which: (segment, number of bytes)
        self._marks: list[tuple[int, int]] = []  # per assigned token: bytes of text and of reasoning up to its end
        self._out = 0  # how many tokens the deltas have contained
        self._guessed: list[np.ndarray] = []  # of each piece, as in `Choice.guessed`
        self._guesses = False

    def feed(self, piece: Piece) -> Delta:
        """Take the next piece from the engine; returns the text and the tokens that became final with it."""
        ids: list[int] = piece.tokens.tolist()
        found = self._record.add(ids, piece.figures)
        self._note_guesses(piece)
        ended = piece.finish == "stop" and bool(ids) and ids[-1] in self._ends
        count = len(ids) - ended
        early = min(self._early, count)
        if early:
            armed, self._stops.armed = self._stops.armed, False
            self._take(ids[:early], found[:early])
            self._early, self._stops.armed = self._early - early, armed
        if self.finish is None:
            self._take(ids[early:count], found[early:count])
        if piece.finish is not None:
            self._end(piece.finish, ended=ended)
        first, self._out = self._out, self._final()
        return Delta(
            index=self.index,
            text=self._text.take_new(),
            tokens=self._record.tokens(first, self._out),
            finish_reason=self.finish,
            reasoning=self._reasoning.take_new(),
            calls=self._calls.take_new(),
        )

    def interrupt(self) -> None:
        """End the choice with what there is; its finish reason is "interrupted" unless it had ended already."""
        self._end("interrupted", ended=False)

    def choice(self) -> Choice:
        """Returns the whole choice."""
        return Choice(
            index=self.index,
            text=self._text.whole(),
            tokens=self._record.tokens(0, len(self._record)),
            finish_reason=self.finish or "interrupted",
            reasoning=None if self._untagged is None else b"".join(self._untagged).decode("utf-8", "replace"),
            tool_calls=self._calls.whole(),
            given=min(self.given, len(self._record)),
            guessed=np.concatenate(self._guessed)[: len(self._record)] if self._guesses else None,
        )

    def _note_guesses(self, piece: Piece) -> None:
        if piece.guessed is None:
            self._guessed.append(np.zeros(len(piece.tokens), np.int32))
        else:
            self._guesses = True
            self._guessed.append(np.where(piece.guessed.accepted, -1, piece.guessed.offered).astype(np.int32))

    def _take(self, ids: list[int], found: list[TokenBytes]) -> None:
        data = []
        for token, known in zip(ids, found, strict=True):
            spelling = self._delimiters.get(token, b"") if known is None else known
            self._queue.append((len(spelling), known is not None))
            data.append(spelling)
        self._write(self._segmenter.feed(b"".join(data)))
        # A control token without a spelling belongs to the segment before it, once that is known.
        while self._queue and not self._queue[0][0] and self.finish is None:
            self._next()

    def _end(self, reason: str, *, ended: bool) -> None:
        """No token follows: bytes that were held back are no delimiter. `ended`: the last token is an end token."""
        if self.finish is None:
            self._write(self._segmenter.flush())
        if self.finish is not None:
            return
        while self._queue:
            self._next()
        if ended:
            self._assign("end")
        self._finish("tool_calls" if reason == "stop" and self._calls.complete else reason)

    def _write(self, spans: list[Span]) -> None:
        for span in spans:
            data = self._consume(_HEADER if span.tag and span.segment == "content" else span.segment, span.data)
            if span.segment == "content" and span.tag:
                continue
            if span.segment == "content":
                fed = self._stops.feed(self._text.decode(data))
                self._text.write(fed.text)
                if fed.done:
                    self._finish("stop")
                    return
            elif span.segment == "reasoning":
                self._write_reasoning(data, tag=span.tag)
            else:
                self._reasoning.flush()
                self._calls.add(span)
                if span.complete and (not self._parallel or (self._segmenter.done and span is spans[-1])):
                    self._finish("tool_calls")
                    return

    def _write_reasoning(self, data: bytes, *, tag: bool) -> None:
        self._reasoning_bytes += len(data)
        if self._untagged is None:
            self._untagged = []
        if not tag:
            self._untagged.append(data)
        if "reasoning" in self._listed:
            self._text.write(self._stops.flush())  # a stop sequence does not go on after the reasoning
            text = self._text.decode(data)
            self._reasoning_chars += len(text)
            self._text.write(text)
        elif tag:
            self._reasoning.flush()
        else:
            self._reasoning.write(self._reasoning.decode(data))

    def _consume(self, segment: str, data: bytes) -> bytes:
        """Give the next bytes of the queue to a segment; returns those that are text (a control token's are not)."""
        count, at, texts = len(data), 0, []
        while at < count:
            size, visible = self._queue[0]
            step = min(size - self._used, count - at)
            if visible and self._delimiters:
                texts.append(data[at : at + step])
            at += step
            if step == size:
                self._next(segment if step else None)
            elif self._used + step == size:
                self._parts.append((segment, step))
                self._next()
            elif step:
                self._parts.append((segment, step))
                self._used += step
            self._last = (_CONTENT if segment == _HEADER else segment) if step else self._last
        return b"".join(texts) if self._delimiters else data

    def _next(self, segment: str | None = None) -> None:
        """Assign the first token of the queue: to its only segment, or, of several, to content, then to reasoning."""
        size, visible = self._queue.popleft()
        if not self._parts and segment != _HEADER:
            self._assign(segment or self._last, size=size if visible else 0)
            return
        parts, self._parts, self._used = self._parts, [], 0
        kinds = {kind for kind, _ in parts}
        found = next((kind for kind in (_CONTENT, "reasoning", "tool_call") if kind in kinds), None)
        if found is None:  # a token of a header, all of which lies outside the text
            self._assign(_CONTENT, size=size if visible else 0, lead=size if visible else 0)
            return
        inside = self._listed if found in self._listed else (found,)
        lead, overhang = (_outside(side, inside) if visible else 0 for side in (parts, parts[::-1]))
        self._assign(found, size=size if visible else 0, lead=lead, overhang=overhang)

    def _assign(self, segment: str, *, size: int = 0, lead: int = 0, overhang: int = 0) -> None:
        text, reasoning = self._marks[-1] if self._marks else (0, 0)
        own = size - lead - overhang
        if segment in self._listed:
            text += own
        elif segment == "reasoning":
            reasoning += own
        self._marks.append((text, reasoning))
        self._record.assign(segment, lead=lead, overhang=overhang)

    def _finish(self, reason: str) -> None:
        """End the choice. The rest of a token that is only partly used lies outside the text."""
        if self._parts:
            self._parts.append(("", self._queue[0][0] - self._used))
            self._next()
        self._queue.clear()
        if self._stops.matched is None:
            self._text.write(self._stops.feed(self._text.decode_rest()).text + self._stops.flush())
        self._reasoning.flush()
        self._calls.flush()
        self.finish = reason
        if self._stops.matched is not None:
            self.finish = "stop"
            self._trim()

    def _trim(self) -> None:
        """Cut the tokens after a stop sequence: the token that completes it is the last.

        The bytes outside the text count as overhang. A stop sequence that is left out of the text may cover several
        tokens.
        """
        end = self._text.byte_length(self._reasoning_chars + self._stops.end)
        edge = self._text.byte_length(self._reasoning_chars + self._stops.emitted)
        count = len(self._marks)
        while count > 1 and self._marks[count - 2][0] >= end:
            count -= 1
        self._record.truncate(count)
        del self._marks[count:]
        for at in range(count - 1, -1, -1):
            begin = self._marks[at - 1][0] if at else 0
            if self._marks[at][0] <= edge:
                break
            self._record.add_overhang(at, self._marks[at][0] - max(edge, begin))

    def _final(self) -> int:
        """Returns how many tokens are final: all of their text has been returned, or is about to be."""
        if self.finish is not None:
            return len(self._record)
        text = self._text.byte_length(self._reasoning_chars + self._stops.emitted)
        reasoning = self._reasoning_bytes - self._reasoning.pending
        count = self._out
        while count < len(self._marks) and self._marks[count][0] <= text and self._marks[count][1] <= reasoning:
            count += 1
        return count


def _outside(parts: list[tuple[str, int]], inside: tuple[str, ...]) -> int:
    """Returns how many bytes come before the first part whose segment is one of `inside`."""
    size = 0
    for kind, own in parts:
        if kind in inside:
            break
        size += own
    return size
