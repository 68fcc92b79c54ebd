"""Parses the entries of an endpoint's `logprobs` into tokens. Values that were not sent are NaN, counts and ids -1.

Bytes that were not sent are taken from the token's text if the caller knows that the text is exact. A token without a
known id and bytes gets a negative id, derived from its text, and the text as its name.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llmlab.backends.remote.entries import Entry
from llmlab.protocol.completion import TokenBytes, Tokens
from llmlab.protocol.wire import MINUS_INFINITY

#: An unknown id. Ids below it are made up from texts.
_NO_ID = -1
#: How many such ids there are.
_MADE_UP = 2**31 - 2


class TokenTexts:
    """The texts of tokens without known bytes, by id.

    Attributes:
        by_id: id -> text; grows.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, str] = {}
        self._made_up: dict[str, int] = {}

    def make_id(self, text: str) -> int:
        """Returns the id, below -1, that stands for a token of which only the text is known."""
        number = self._made_up.get(text)
        if number is None:
            # A hash of the text, so that the id is the same in every result; the next free one if another text has it.
            number = _NO_ID - 1 - zlib.crc32(text.encode("utf-8", "surrogatepass")) % _MADE_UP
            while number in self.by_id:
                number = _NO_ID - 1 - (-number - 1) % _MADE_UP
            self._made_up[text] = number
            self.by_id[number] = text
        return number


def token_id(entry: Entry) -> int | None:
    """Returns a token's id if the endpoint sends it (llmlab as `token_id`, llama.cpp as `id`), otherwise None."""
    found = entry.get("token_id", entry.get("id"))
    return found if isinstance(found, int) and found >= 0 else None


def parse_tokens(entries: Iterable[tuple[str, Entry]], *, texts: TokenTexts, exact: bool) -> Tokens:
    """Returns entries of `logprobs` as tokens.

    Args:
        entries: (segment, token as it was sent).
        texts: receives the texts of tokens without bytes.
        exact: whether a token's text, encoded, is known to equal its bytes.
    """
    rows = list(entries)
    best = [_alternatives(entry) for _, entry in rows]
    width = max(map(len, best), default=0)
    tokens = [_id_and_bytes(entry, texts, exact=exact) for _, entry in rows]
    tops = [[_id_and_bytes(each, texts, exact=exact) for each in row] for row in best]

    def numbers(name: str) -> np.ndarray:
        return np.array([_number(entry.get(name)) for _, entry in rows], np.float32)

    def counts(name: str, unknown: int) -> np.ndarray:
        found = [entry.get(name) for _, entry in rows]
        return np.array([unknown if value is None else int(value) for value in found], np.int32)

    def alternatives(name: str) -> np.ndarray:
        table = np.full((len(rows), width), np.nan, np.float32)
        for t, row in enumerate(best):
            table[t, : len(row)] = [_number(each.get(name)) for each in row]
        return table

    top_ids = np.full((len(rows), width), _NO_ID, np.int32)
    for t, row in enumerate(tops):
        top_ids[t, : len(row)] = [token for token, _ in row]
    return Tokens(
        ids=np.array([token for token, _ in tokens], np.int32),
        bytes=tuple(raw for _, raw in tokens),
        segment=tuple(segment for segment, _ in rows),
        lead=counts("lead", 0),
        overhang=counts("overhang", 0),
        logprob=numbers("logprob"),
        sampling_logprob=numbers("sampling_logprob"),
        rank=counts("rank", -1),
        entropy=numbers("entropy"),
        sampling_entropy=numbers("sampling_entropy"),
        margin=np.array([_margin(entry, row) for (_, entry), row in zip(rows, best, strict=True)], np.float32),
        kept=counts("kept", -1),
        top_ids=top_ids,
        top_bytes=tuple((*(raw for _, raw in row), *[None] * (width - len(row))) for row in tops),
        top_logprob=alternatives("logprob"),
        top_sampling_logprob=alternatives("sampling_logprob"),
    )


def joined_text(entries: Iterable[Entry]) -> str | None:
    """Returns the tokens' bytes (or texts) joined and decoded, without what lies outside their segment.

    None if a token has no bytes and its text is not exact.
    """
    joined = b""
    for entry in entries:
        raw = entry.get("bytes")
        if raw is None and token_id(entry) is not None:
            continue  # a control token has no text
        piece = bytes(raw) if raw is not None else str(entry.get("token", "")).encode("utf-8", "surrogatepass")
        if raw is None and "\ufffd" in str(entry.get("token", "")):
            return None
        joined += piece[int(entry.get("lead") or 0) : len(piece) - int(entry.get("overhang") or 0)]
    return joined.decode("utf-8", "replace")


def _alternatives(entry: Entry) -> list[Entry]:
    """The alternatives, most likely first: some endpoints list the sampled token before all others.

    The tokens that could be drawn are among them, where the endpoint lists those.
    """
    found = list(entry.get("top_logprobs") or ())
    known = {_key(each) for each in found}
    found += [each for each in entry.get("kept_logprobs") or () if _key(each) not in known]
    # Ties keep their order, and those without a logprob come last.
    return sorted(found, key=lambda each: -_order(each.get("logprob")))


def _order(value: Any) -> float:
    number = _number(value)
    return -math.inf if math.isnan(number) else number


def _id_and_bytes(entry: Entry, texts: TokenTexts, *, exact: bool) -> tuple[int, TokenBytes]:
    """A token's id and bytes, as far as they are known."""
    number, text, raw = token_id(entry), str(entry.get("token", "")), entry.get("bytes")
    if raw is not None:
        return _NO_ID if number is None else number, bytes(raw)
    if number is not None and "token_id" in entry:  # llmlab sends no bytes for control tokens only
        texts.by_id[number] = text
        return number, None
    if exact and "\ufffd" not in text:
        return _NO_ID if number is None else number, text.encode("utf-8", "surrogatepass")
    number = texts.make_id(text) if number is None else number
    texts.by_id[number] = text
    return number, None


def _margin(entry: Entry, best: Sequence[Entry]) -> float:
    """A token's logprob minus that of the best other alternative; NaN if no other one was sent."""
    text = str(entry.get("token", ""))
    if "\ufffd" in text and entry.get("bytes") is None and token_id(entry) is None:
        return math.nan  # an alternative with the same text may be another token
    others = [_number(each.get("logprob")) for each in best if _key(each) != _key(entry)]
    return _number(entry.get("logprob")) - others[0] if others else math.nan


def _key(entry: Entry) -> Any:
    number, raw = token_id(entry), entry.get("bytes")
    return number if number is not None else entry.get("token") if raw is None else bytes(raw)


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    return -math.inf if value <= MINUS_INFINITY else float(value)
