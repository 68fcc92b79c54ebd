"""One choice as it is written: from tokens as they leave the engine to text, segments and a finish reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import jax
import numpy as np

from llmlab.backends.protocol import Choice, Delta, TokenBytes, Tokens
from llmlab.engine.scheduler import Piece
from llmlab.sampling.logprobs import Figures
from llmlab.text.segments import Segmenter
from llmlab.text.stops import StopMatcher
from llmlab.text.utf8 import TextAssembler


class Writer:
    """Takes a choice's pieces in order; gives deltas, and the whole choice at the end.

    A token is counted, listed and kept whole; a stop may cut its text, which `overhang` then says. Stops are looked
    for in the content alone, after the reasoning. What comes after a stop was drawn in vain and is dropped.
    """

    def __init__(
        self,
        index: int,
        *,
        token_bytes: Sequence[TokenBytes],
        segmenter: Segmenter,
        stops: StopMatcher,
        end_ids: Collection[int],
    ):
        self.index = index
        self.finish: str | None = None
        self._bytes = token_bytes
        self._segmenter = segmenter
        self._stops = stops
        self._ends = frozenset(end_ids)
        self._reasoning = TextAssembler()
        self._content = TextAssembler()
        self._content_bytes = 0
        self._text: list[str] = []
        self._ids: list[int] = []
        self._segments: list[str] = []
        self._overhang: list[int] = []
        self._figures: list[Figures] = []

    def feed(self, piece: Piece) -> Delta:
        """Take what the engine made; the text that it makes final, and the tokens that came with it."""
        text: list[str] = []
        taken = 0
        for token in piece.tokens.tolist():
            taken += 1
            text.append(self._take(token))
            if self.finish:
                break
        if self.finish is None and piece.finish is not None:
            self.finish = piece.finish
        if self.finish:
            text.append(self._flush())
        self._figures.append(jax.tree.map(lambda x: x[:taken], piece.figures))
        new = "".join(text)
        self._text.append(new)
        return Delta(index=self.index, text=new, tokens=self._tokens(last=taken), finish_reason=self.finish)

    def interrupt(self) -> None:
        """The run was stopped by hand: what is there is the choice."""
        if self.finish is None:
            self._text.append(self._flush())
            self.finish = "interrupted"

    def choice(self) -> Choice:
        """The whole."""
        return Choice(
            index=self.index,
            text="".join(self._text),
            tokens=self._tokens(last=len(self._ids)),
            finish_reason=self.finish or "interrupted",
        )

    def _take(self, token: int) -> str:
        segment = self._segmenter.feed(token)
        data = self._bytes_of(token)
        self._ids.append(token)
        self._segments.append(segment)
        self._overhang.append(0)
        if segment == "reasoning":
            return self._reasoning.feed(data)
        if segment == "end":
            return ""
        # What is unfinished when the reasoning ends stays unfinished: the content begins with a character of its own.
        before = self._reasoning.flush()
        decoded = self._content.feed(data)
        self._content_bytes += len(data or b"")
        fed = self._stops.feed(decoded)
        if fed.done:
            self.finish = "stop"
            self._overhang[-1] = self._cut(len(data or b""))
        return before + fed.text

    def _cut(self, size: int) -> int:
        """How many bytes of the last token lie beyond the stop; where the stop is left out, beyond its beginning.

        A stop that is left out may reach back over several tokens: those before the last are marked here.
        """
        beyond = self._content_bytes - self._content.byte_length(self._stops.emitted)
        at = len(self._ids) - 2
        left = beyond - size
        while left > 0 and at >= 0:
            if self._segments[at] == "content":
                own = len(self._bytes_of(self._ids[at]) or b"")
                self._overhang[at] = min(own, left)
                left -= own
            at -= 1
        return min(beyond, size)

    def _flush(self) -> str:
        """The text ends: an unfinished character becomes U+FFFD, and what might have become a stop did not."""
        if self._stops.matched is not None:
            return ""
        tail = self._reasoning.flush()
        last = self._content.flush()
        return tail + (self._stops.feed(last).text if last else "") + self._stops.flush()

    def _tokens(self, *, last: int) -> Tokens:
        first = len(self._ids) - last
        figures = self._joined(last)
        ids = self._ids[first:]
        top_bytes = tuple(tuple(self._bytes_of(token) for token in row) for row in figures.top_ids.tolist())
        return Tokens(
            ids=np.array(ids, np.int32),
            bytes=tuple(self._bytes_of(token) for token in ids),
            segment=tuple(self._segments[first:]),
            lead=np.zeros(last, np.int32),
            overhang=np.array(self._overhang[first:], np.int32),
            logprob=figures.logprob,
            sampling_logprob=figures.sampling_logprob,
            rank=figures.rank,
            entropy=figures.entropy,
            sampling_entropy=figures.sampling_entropy,
            margin=figures.margin,
            kept=figures.kept,
            top_ids=figures.top_ids,
            top_bytes=top_bytes,
            top_logprob=figures.top_logprobs,
            top_sampling_logprob=figures.top_sampling_logprobs,
        )

    def _joined(self, last: int) -> Figures:
        """The figures of the last so many tokens."""
        if not self._figures:
            empty, wide = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
            count = np.zeros(0, np.int32)
            return Figures(empty, empty, count, empty, empty, empty, count, wide.astype(np.int32), wide, wide)
        if len(self._figures) > 1 and last == len(self._ids):
            self._figures = [jax.tree.map(lambda *x: np.concatenate(x), *self._figures)]
        return jax.tree.map(lambda x: x[len(x) - last :], self._figures[-1])

    def _bytes_of(self, token: int) -> TokenBytes:
        return self._bytes[token] if token < len(self._bytes) else None
