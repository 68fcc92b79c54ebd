"""Bytes to text as they come, and from a place in the text back to the byte it ends at."""

from __future__ import annotations

import codecs
from array import array

__all__ = ["TextAssembler"]


class TextAssembler:
    """Decodes the bytes of one token after the other; an unfinished character waits for its rest.

    The text that comes out, all pieces and the flush joined, is `bytes.decode("utf-8", "replace")` of all the bytes.
    Tokens end anywhere and stops end at characters, so each character's last byte is remembered.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ends = array("Q")  # for each character let out: how many bytes had been read up to and with its last
        self._read = 0

    def feed(self, data: bytes) -> str:
        """The text that these bytes complete."""
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
        """The bytes end here: an unfinished character becomes U+FFFD."""
        piece = self._decoder.decode(b"", final=True)
        self._end(piece, self._read)
        return piece

    def _end(self, piece: str, read: int) -> None:
        """These characters come out together, the last of them with this byte.

        There are several where bytes that waited turned out to be no character: each after the first is a byte of its
        own, also in half of a surrogate pair, which is only given up at its third byte.
        """
        self._ends.extend(range(read - len(piece) + 1, read + 1))

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished character are waiting."""
        return len(self._decoder.getstate()[0])

    def byte_length(self, characters: int) -> int:
        """How many bytes the first so many characters stand for (U+FFFD stands for the bad bytes that it hides)."""
        return self._ends[characters - 1] if characters else 0
