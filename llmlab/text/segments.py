"""What each generated token belongs to: the reasoning, the content, or the end."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["Segmenter"]

#: What templates write between the reasoning and the content: up to this much of it belongs to the reasoning.
SEPARATOR = b"\n\n"


class Segmenter:
    """Assigns the generated tokens of one choice, in order, to "reasoning", "content" or "end".

    A delimiter belongs to the segment that it opens or closes, and so do the newlines that chat templates write after
    the reasoning; nothing is stripped. Works where the delimiters are single tokens of the vocabulary.

    Args:
        token_bytes: the bytes of every token id, None for control tokens (`Tokenizer.token_bytes`).
        open_id: the token that opens the reasoning ("<think>"); None where the vocabulary has none, and all is content.
        close_id: the token that closes it ("</think>").
        prompt_ids: the rendered prompt, whose tail says whether the reasoning is open already.
        end_ids: the tokens that end a generation.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        *,
        open_id: int | None,
        close_id: int | None,
        prompt_ids: Sequence[int],
        end_ids: Collection[int] = (),
    ) -> None:
        self._bytes = token_bytes
        self._open_id = open_id
        self._close_id = close_id
        self._end_ids = frozenset(end_ids)
        self._separator = b""  # what may still come of the separator
        self.reasoning: bool = self._left_open(prompt_ids)  #: whether the reasoning is open now

    def feed(self, token_id: int) -> str:
        """The segment of the next token."""
        if token_id in self._end_ids:
            return "end"
        if token_id == self._open_id and not self.reasoning:
            self.reasoning, self._separator = True, b""
            return "reasoning"
        if self.reasoning:
            if token_id == self._close_id:
                self.reasoning, self._separator = False, SEPARATOR
            return "reasoning"
        return "reasoning" if self._is_separator(token_id) else "content"

    def _is_separator(self, token_id: int) -> bool:
        text = self._text(token_id)
        if text and self._separator.startswith(text):
            self._separator = self._separator[len(text) :]
            return True
        self._separator = b""
        return False

    def _left_open(self, prompt_ids: Sequence[int]) -> bool:
        if self._open_id is None or self._close_id is None:
            return False
        for token_id in reversed(prompt_ids):
            if token_id == self._open_id:
                return True
            # A control token is the border of the assistant's turn: an opened tag beyond it is somebody else's text.
            if token_id == self._close_id or self._text(token_id) is None:
                return False
        return False

    def _text(self, token_id: int) -> bytes | None:
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else None
