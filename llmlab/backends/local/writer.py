"""One choice as it is written: from tokens as they leave the engine to text, reasoning, tool calls, finish reason.

Everything is decided on the bytes and in their order, so that it does not depend on the pieces in which they came: the
deltas put together are the whole by construction.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from llmlab.backends.local.text_buffer import Calls, Channel
from llmlab.backends.local.token_record import Record
from llmlab.engine.scheduler import Piece
from llmlab.protocol.completion import Choice, Delta, TokenBytes
from llmlab.text.segments import Segmenter, Span
from llmlab.text.stops import StopMatcher

__all__ = ["Writer", "call_id"]


def call_id(number: int, *, seed: int, choice: int, prompt: np.ndarray, length: int = 0) -> str:
    """The id of a choice's tool call: the same for the same request, whether it is streamed or not.

    Args:
        number: which of the choice's calls, from 0.
        seed: the request's, or the one drawn for it.
        choice: the choice's index.
        prompt: the prompt's token ids.
        length: how long it must be (`CallSyntax.id_length`); 0 for the API's usual form.
    """
    said = f"{seed} {choice} {number} ".encode() + np.asarray(prompt, np.int32).tobytes()
    digest = hashlib.sha256(said).hexdigest()
    return digest[:length] if length else f"call_{digest[:24]}"


class Writer:
    """Takes a choice's pieces in order; gives deltas, and the whole choice at the end.

    A token is counted, listed and kept whole; a border may cut its bytes, which `lead` and `overhang` then say. Stops
    are looked for in the content alone. What comes after a stop was drawn in vain and is dropped. A delta's tokens are
    those that became final: what they belong to is known, and all of their text is out.

    Args:
        index: the choice's.
        token_bytes: the bytes of every token id, None for control tokens.
        segmenter: fresh, for this choice.
        stops: likewise.
        end_ids: the tokens that end the generation (none where the request ignores them).
        controls: the spellings of the control tokens that are delimiters (`Format.controls`).
        separate_reasoning: whether the reasoning is kept out of the text.
        parallel_tool_calls: whether the choice goes on after its first complete call.
        min_tokens: a stop that is completed before so many tokens does not count.
        name_call: the id of a call, from its number.
    """

    def __init__(
        self,
        index: int,
        *,
        token_bytes: Sequence[TokenBytes],
        segmenter: Segmenter,
        stops: StopMatcher,
        end_ids: Collection[int] = (),
        controls: Mapping[int, bytes] | None = None,
        separate_reasoning: bool = False,
        parallel_tool_calls: bool = True,
        min_tokens: int = 0,
        name_call: Callable[[int], str] = "call_{}".format,
    ) -> None:
        self.index = index
        self.finish: str | None = None
        self.given = 0  #: how many of the first tokens were not drawn
        self._record = Record(token_bytes)
        self._segmenter = segmenter
        self._stops = stops
        self._ends = frozenset(end_ids)
        self._controls = controls or {}
        self._parallel = parallel_tool_calls
        self._early = max(0, min_tokens - 1)  # of how many more tokens none may complete a stop
        self._listed = ("content",) if separate_reasoning else ("content", "reasoning")
        self._text = Channel()  # what `message.content` holds
        self._reasoning = Channel()  # what `reasoning_content` holds; unused where that is part of the text
        self._before = 0  # how many characters of the text are reasoning; they all come before the content
        self._reasoned = 0  # how many bytes of reasoning there are
        self._calls = Calls(name_call)
        self._thought: list[bytes] | None = [] if segmenter.reasoning else None
        self._last = "reasoning" if segmenter.reasoning else "content"  # what the last byte belonged to
        self._queue: deque[tuple[int, bool]] = deque()  # of each undecided token: how many bytes, whether it has text
        self._used = 0  # how many bytes of the first of them are decided,
        self._parts: list[tuple[str, int]] = []  # and as what
        self._marks: list[tuple[int, int]] = []  # of each decided token: bytes of text and of reasoning up to its end
        self._out = 0  # how many tokens the deltas have brought

    def feed(self, piece: Piece) -> Delta:
        """Take what the engine made; the text that it makes final, and the tokens that became final with it."""
        ids: list[int] = piece.tokens.tolist()
        found = self._record.add(ids, piece.figures)
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
            text=self._text.fresh(),
            tokens=self._record.tokens(first, self._out),
            finish_reason=self.finish,
            reasoning=self._reasoning.fresh(),
            calls=self._calls.fresh(),
        )

    def interrupt(self) -> None:
        """The run was stopped by hand: what is there is the choice."""
        self._end("interrupted", ended=False)

    def choice(self) -> Choice:
        """The whole."""
        return Choice(
            index=self.index,
            text=self._text.whole(),
            tokens=self._record.tokens(0, len(self._record)),
            finish_reason=self.finish or "interrupted",
            reasoning=None if self._thought is None else b"".join(self._thought).decode("utf-8", "replace"),
            tool_calls=self._calls.whole(),
            given=min(self.given, len(self._record)),
        )

    def _take(self, ids: list[int], found: list[TokenBytes]) -> None:
        data = []
        for token, known in zip(ids, found, strict=True):
            spelled = self._controls.get(token, b"") if known is None else known
            self._queue.append((len(spelled), known is not None))
            data.append(spelled)
        self._write(self._segmenter.feed(b"".join(data)))
        # A control token without text belongs to what it follows, once that is known.
        while self._queue and not self._queue[0][0] and self.finish is None:
            self._next()

    def _end(self, reason: str, *, ended: bool) -> None:
        """Nothing more comes: what was held back is what it is."""
        if self.finish is None:
            self._write(self._segmenter.flush())
        if self.finish is not None:
            return
        while self._queue:
            self._next()
        if ended:
            self._decide("end")
        self._leave("tool_calls" if reason == "stop" and self._calls.complete else reason)

    def _write(self, spans: list[Span]) -> None:
        for span in spans:
            data = self._assign(span.segment, span.data)
            if span.segment == "content":
                fed = self._stops.feed(self._text.decode(data))
                self._text.write(fed.text)
                if fed.done:
                    self._leave("stop")
                    return
            elif span.segment == "reasoning":
                self._think(data, tag=span.tag)
            else:
                self._reasoning.flush()
                self._calls.take(span)
                if span.complete and not self._parallel:
                    self._leave("tool_calls")
                    return

    def _think(self, data: bytes, *, tag: bool) -> None:
        self._reasoned += len(data)
        if self._thought is None:
            self._thought = []
        if not tag:
            self._thought.append(data)
        if "reasoning" in self._listed:
            text = self._text.decode(data)
            self._before += len(text)
            self._text.write(text)
        elif tag:
            self._reasoning.flush()
        else:
            self._reasoning.write(self._reasoning.decode(data))

    def _assign(self, segment: str, data: bytes) -> bytes:
        """The next bytes belong to this segment; those of them that are text."""
        count, at, texts = len(data), 0, []
        while at < count:
            size, visible = self._queue[0]
            step = min(size - self._used, count - at)
            if visible and self._controls:
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
            self._last = segment if step else self._last
        return b"".join(texts) if self._controls else data

    def _next(self, segment: str | None = None) -> None:
        """Decide the first token in line: it belongs to one segment, or to that of its most telling part."""
        size, visible = self._queue.popleft()
        if not self._parts:
            self._decide(segment or self._last, size=size if visible else 0)
            return
        parts, self._parts, self._used = self._parts, [], 0
        kinds = {kind for kind, _ in parts}
        found = next(kind for kind in ("content", "reasoning", "tool_call") if kind in kinds)
        inside = self._listed if found in self._listed else (found,)
        lead, overhang = (_outside(side, inside) if visible else 0 for side in (parts, parts[::-1]))
        self._decide(found, size=size if visible else 0, lead=lead, overhang=overhang)

    def _decide(self, segment: str, *, size: int = 0, lead: int = 0, overhang: int = 0) -> None:
        text, reasoning = self._marks[-1] if self._marks else (0, 0)
        own = size - lead - overhang
        if segment in self._listed:
            text += own
        elif segment == "reasoning":
            reasoning += own
        self._marks.append((text, reasoning))
        self._record.decide(segment, lead=lead, overhang=overhang)

    def _leave(self, reason: str) -> None:
        """The choice ends inside what came: what is left of the token that was being decided lies outside."""
        if self._parts:
            self._parts.append(("", self._queue[0][0] - self._used))
            self._next()
        self._queue.clear()
        if self._stops.matched is None:
            self._text.write(self._stops.feed(self._text.last()).text + self._stops.flush())
        self._reasoning.flush()
        self._calls.flush()
        self.finish = reason
        if self._stops.matched is not None:
            self.finish = "stop"
            self._trim()

    def _trim(self) -> None:
        """A stop was reached: the token that ends it is the last, and what lies beyond the text is marked.

        A stop that is left out may reach back over several tokens.
        """
        end = self._text.byte_length(self._before + self._stops.end)
        edge = self._text.byte_length(self._before + self._stops.emitted)
        count = len(self._marks)
        while count > 1 and self._marks[count - 2][0] >= end:
            count -= 1
        self._record.cut(count)
        del self._marks[count:]
        for at in range(count - 1, -1, -1):
            begin = self._marks[at - 1][0] if at else 0
            if self._marks[at][0] <= edge:
                break
            self._record.hide(at, self._marks[at][0] - max(edge, begin))

    def _final(self) -> int:
        """How many tokens are final."""
        if self.finish is not None:
            return len(self._record)
        text = self._text.byte_length(self._before + self._stops.emitted)
        reasoning = self._reasoned - self._reasoning.pending
        count = self._out
        while count < len(self._marks) and self._marks[count][0] <= text and self._marks[count][1] <= reasoning:
            count += 1
        return count


def _outside(parts: list[tuple[str, int]], inside: tuple[str, ...]) -> int:
    """How many bytes come before the first part that is inside."""
    size = 0
    for kind, own in parts:
        if kind in inside:
            break
        size += own
    return size
