"""Decodes UTF-8 that arrives in pieces, and maps a length in characters back to a length in bytes."""

from __future__ import annotations

import codecs
from array import array

__all__ = ["TextAssembler"]


class TextAssembler:
    """Decodes the bytes of tokens one after another; the bytes of an unfinished character wait for the rest.

    All results of `feed` and the result of `flush`, joined, equal `bytes.decode("utf-8", "replace")` of all bytes. A
    token may end inside a character and a stop sequence ends after one, so the last byte of each character is recorded.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ends = array("Q")  # for each decoded character: the number of bytes up to and including its last
        self._read = 0

    def feed(self, data: bytes) -> str:
        """The characters that are complete once these bytes have arrived."""
        if not data:
            return ""
        if data.isascii() and not self.pending:
            self._ends.extend(range(self._read + 1, self._read + len(data) + 1))
            self._read += len(data)
            return data.decode("ascii")
        pieces = []
        for value in data:
            piece = self._decoder.decode(bytes((value,)))
            self._read += 1
            if piece:
                self._end(piece, self._read - self.pending)
                pieces.append(piece)
        return "".join(pieces)

    def flush(self) -> str:
        """The rest of the text at the end of the bytes: an unfinished character becomes U+FFFD."""
        piece = self._decoder.decode(b"", final=True)
        self._end(piece, self._read)
        return piece

    def _end(self, piece: str, read: int) -> None:
        """Record where these characters end; the last of them ends at byte `read`.

        There are several if waiting bytes turned out not to be a character. Then each character except the first stands
        for one byte. This includes half of a surrogate pair, which the decoder rejects only at its third byte.
        """
        self._ends.extend(range(read - len(piece) + 1, read + 1))

    @property
    def pending(self) -> int:
        """The number of bytes of an unfinished character that are waiting."""
        return len(self._decoder.getstate()[0])

    def byte_length(self, characters: int) -> int:
        """The number of bytes that the first `characters` characters stand for; U+FFFD counts the bytes it replaces."""
        return self._ends[characters - 1] if characters else 0
