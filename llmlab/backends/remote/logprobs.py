"""The entries of an endpoint's `logprobs` as tokens. Nothing is made up: what was not sent is NaN, or -1 for a count.

Bytes that were not sent are taken from the tokens' own texts, where the caller knows that these are the bytes to the
letter. A token of which neither an id nor bytes are known goes by a negative id of its own, and by its text as a name.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llmlab.protocol.completion import TokenBytes, Tokens
from llmlab.protocol.wire import NEVER

#: A token as it was sent.
Entry = Mapping[str, Any]
#: Ids below this stand for texts; -1 is no id at all.
_NO_ID = -1
#: How many of those there are.
_OWN = 2**31 - 2


class Names:
    """Texts of tokens by id, of those that have no bytes; one whose id is not known either has one below -1.

    Attributes:
        texts: id -> text; grows.
    """

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self._own: dict[str, int] = {}

    def own(self, text: str) -> int:
        """The id that stands for this text."""
        number = self._own.get(text)
        if number is None:
            # From the text itself, so that it is the same one in every result; the next where another text has it.
            number = _NO_ID - 1 - zlib.crc32(text.encode("utf-8", "surrogatepass")) % _OWN
            while number in self.texts:
                number = _NO_ID - 1 - (-number - 1) % _OWN
            self._own[text] = number
            self.texts[number] = text
        return number


def token_id(entry: Entry) -> int | None:
    """A token's id where an endpoint says it: llmlab under `token_id`, llama.cpp under `id`."""
    found = entry.get("token_id", entry.get("id"))
    return found if isinstance(found, int) and found >= 0 else None


def tokens_of(entries: Iterable[tuple[str, Entry]], *, names: Names, exact: bool) -> Tokens:
    """Entries, each with the segment it belongs to, as tokens; `exact`: their texts can stand for their bytes."""
    rows = list(entries)
    best = [_sorted(entry) for _, entry in rows]
    width = max(map(len, best), default=0)
    spelled = [_spelled(entry, names, exact=exact) for _, entry in rows]
    tops = [[_spelled(each, names, exact=exact) for each in row] for row in best]

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
        ids=np.array([token for token, _ in spelled], np.int32),
        bytes=tuple(raw for _, raw in spelled),
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


def text_of(entries: Iterable[Entry]) -> str | None:
    """What the tokens' texts or bytes join to, less what lies outside of their segment; None where one has neither."""
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


def _sorted(entry: Entry) -> list[Entry]:
    """The alternatives, best first: there are endpoints that list the sampled token before all others."""
    found = [each for each in entry.get("top_logprobs") or () if isinstance(each, Mapping)]
    # Ties stay as they were sent, and what has no figure comes last.
    return sorted(found, key=lambda each: -_order(each.get("logprob")))


def _order(value: Any) -> float:
    number = _number(value)
    return -math.inf if math.isnan(number) else number


def _spelled(entry: Entry, names: Names, *, exact: bool) -> tuple[int, TokenBytes]:
    """A token's id and bytes, as far as they are known."""
    number, text, raw = token_id(entry), str(entry.get("token", "")), entry.get("bytes")
    if raw is not None:
        return _NO_ID if number is None else number, bytes(raw)
    if number is not None and "token_id" in entry:  # llmlab's own: a control token has no bytes
        names.texts[number] = text
        return number, None
    if exact and "\ufffd" not in text:
        return _NO_ID if number is None else number, text.encode("utf-8", "surrogatepass")
    number = names.own(text) if number is None else number
    names.texts[number] = text
    return number, None


def _margin(entry: Entry, best: Sequence[Entry]) -> float:
    """A token's logprob less that of the best other one, where an alternative other than itself was sent."""
    text = str(entry.get("token", ""))
    if "\ufffd" in text and entry.get("bytes") is None and token_id(entry) is None:
        return math.nan  # two tokens may well look the same
    others = [_number(each.get("logprob")) for each in best if _key(each) != _key(entry)]
    return _number(entry.get("logprob")) - others[0] if others else math.nan


def _key(entry: Entry) -> Any:
    number, raw = token_id(entry), entry.get("bytes")
    return number if number is not None else entry.get("token") if raw is None else bytes(raw)


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    return -math.inf if value <= NEVER else float(value)
