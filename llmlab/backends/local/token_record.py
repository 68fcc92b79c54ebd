"""The tokens of one choice, with their statistics and the segment of the text that each belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmlab.protocol.completion import TokenBytes, Tokens
from llmlab.sampling.logprobs import TokenStatistics

__all__ = ["TokenRecord"]


class TokenRecord:
    """Stores tokens in two steps: `add` when they are generated, `assign` when the segment of the next one is known.

    The length is the number of assigned tokens.

    Args:
        token_bytes: the bytes of every token id, None for control tokens. Ids beyond it have no bytes either.
        watched: tokens that are listed as alternatives after the most likely ones (`logprob_token_ids`).
    """

    def __init__(self, token_bytes: Sequence[TokenBytes], *, watched: Sequence[int] = ()) -> None:
        self._token_bytes = token_bytes
        self._watched = np.array(watched, np.int32)
        self._ids: list[int] = []
        self._bytes: list[TokenBytes] = []
        self._top_bytes: list[tuple[TokenBytes, ...]] = []
        self._segments: list[str] = []
        self._lead: list[int] = []
        self._overhang: list[int] = []
        self._figures: list[TokenStatistics] = []  # one for each call of `add`
        self._borders = [0]  # the position at which each of them begins, and the end of the last one

    def __len__(self) -> int:
        return len(self._segments)

    def add(self, ids: list[int], figures: TokenStatistics) -> list[TokenBytes]:
        """Append generated tokens with their statistics; returns their bytes."""
        found = [self._bytes_of(token) for token in ids]
        self._ids += ids
        self._bytes += found
        self._figures.append(self._with_watched(figures))
        self._borders.append(len(self._ids))
        return found

    def assign(self, segment: str, *, lead: int = 0, overhang: int = 0) -> None:
        """Assign the next token to a segment; `lead` and `overhang` are as in `Tokens`."""
        self._segments.append(segment)
        self._lead.append(lead)
        self._overhang.append(overhang)

    def truncate(self, count: int) -> None:
        """Drop the assigned tokens after the first `count`."""
        del self._segments[count:], self._lead[count:], self._overhang[count:]

    def add_overhang(self, index: int, size: int) -> None:
        """Mark `size` more bytes at the end of a token as outside the text of its segment."""
        self._overhang[index] += size

    def tokens(self, first: int, last: int) -> Tokens:
        """Returns the assigned tokens `first` to `last` (exclusive)."""
        figures = self._figures_of(first, last)
        for row in figures.top_ids[len(self._top_bytes) - first :].tolist() if len(self._top_bytes) < last else ():
            self._top_bytes.append(tuple(map(self._bytes_of, row)))
        return Tokens(
            ids=np.array(self._ids[first:last], np.int32),
            bytes=tuple(self._bytes[first:last]),
            segment=tuple(self._segments[first:last]),
            lead=np.array(self._lead[first:last], np.int32),
            overhang=np.array(self._overhang[first:last], np.int32),
            logprob=figures.logprob,
            sampling_logprob=figures.sampling_logprob,
            rank=figures.rank,
            entropy=figures.entropy,
            sampling_entropy=figures.sampling_entropy,
            margin=figures.margin,
            kept=figures.kept,
            top_ids=figures.top_ids,
            top_bytes=tuple(self._top_bytes[first:last]),
            top_logprob=figures.top_logprobs,
            top_sampling_logprob=figures.top_sampling_logprobs,
        )

    def _figures_of(self, first: int, last: int) -> TokenStatistics:
        parts: list[TokenStatistics] = []
        # From the end, because a delta asks for the latest tokens.
        for at in range(len(self._figures) - 1, -1, -1):
            begin, end = self._borders[at], self._borders[at + 1]
            if end <= first:
                break
            if begin < last:
                low, high = max(first - begin, 0), min(last, end) - begin
                parts.append(TokenStatistics(*(x[low:high] for x in self._figures[at] if x is not None)))
        if len(parts) == 1:
            return parts[0]
        if parts:
            return TokenStatistics(*(np.concatenate(x) for x in zip(*(p[:10] for p in reversed(parts)), strict=True)))
        empty, wide = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
        count = np.zeros(0, np.int32)
        return TokenStatistics(empty, empty, count, empty, empty, empty, count, wide.astype(np.int32), wide, wide)

    def _with_watched(self, figures: TokenStatistics) -> TokenStatistics:
        """The statistics with the watched tokens as further alternatives."""
        count = len(self._watched)
        raw, sampling = figures.watched_logprobs, figures.watched_sampling_logprobs
        figures = figures._replace(watched_logprobs=None, watched_sampling_logprobs=None)
        if not count or raw is None or sampling is None:
            return figures
        ids = np.broadcast_to(self._watched, (len(raw), count))
        return figures._replace(
            top_ids=np.concatenate([figures.top_ids, ids], axis=1),
            top_logprobs=np.concatenate([figures.top_logprobs, raw[:, :count]], axis=1),
            top_sampling_logprobs=np.concatenate([figures.top_sampling_logprobs, sampling[:, :count]], axis=1),
        )

    def _bytes_of(self, token: int) -> TokenBytes:
        return self._token_bytes[token] if token < len(self._token_bytes) else None
