"""Reads the `logprobs` of an endpoint's choice, in whatever form it sends them, as lists of entries in one form.

Forms that are known: OpenAI's object of lists, a bare list, the legacy object of `tokens` and `token_logprobs`,
`reasoning_content` in place of `reasoning`, alternatives as an object text -> logprob, and numbers as texts
("-Infinity"). A value that cannot be read is as if it had not been sent: it must not cost the text beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from llmlab.protocol.wire import LOGPROB_LISTS

#: A token as it was sent, with numbers as numbers and bytes as bytes' values; what could not be read is null.
Entry: TypeAlias = Mapping[str, Any]

#: Names of the lists -> our own.
_LISTS = {**{name: name for name in LOGPROB_LISTS}, "reasoning_content": "reasoning"}


def entries_of(logprobs: Any) -> dict[str, list[Entry]]:
    """Returns list name (of `LOGPROB_LISTS`) -> entries, without the lists that were not sent."""
    if isinstance(logprobs, list):
        logprobs = {"content": logprobs}
    if not isinstance(logprobs, Mapping):
        return {}
    if isinstance(logprobs.get("tokens"), list):
        return {"content": list(_legacy(logprobs))}
    found: dict[str, list[Entry]] = {}
    for name, own in _LISTS.items():
        if isinstance(logprobs.get(name), list):
            found.setdefault(own, []).extend(_entries(logprobs[name]))
    return found


def number(value: Any) -> float | None:
    """Returns a number that was sent as one or as a text, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(found) else found


def _entries(rows: Iterable[Any]) -> list[Entry]:
    return [_entry(row) for row in rows if isinstance(row, Mapping)]


def _entry(row: Mapping[str, Any]) -> Entry:
    entry = {name: read(row[name]) for name, read in _READ.items() if name in row}
    return entry if isinstance(entry.get("token"), str) else {**entry, "token": ""}


def _count(value: Any) -> int | None:
    found = number(value)
    return int(found) if found is not None and found.is_integer() and abs(found) < 2**31 else None


def _bytes(value: Any) -> list[int] | None:
    whole = isinstance(value, list) and all(isinstance(each, int) and 0 <= each < 256 for each in value)
    return value if whole else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _top(value: Any) -> list[Entry]:
    if isinstance(value, Mapping):
        return [{"token": _text(text), "logprob": number(logprob)} for text, logprob in value.items()]
    return _entries(value) if isinstance(value, list) else []


_READ: dict[str, Callable[[Any], Any]] = {
    "token": _text,
    "bytes": _bytes,
    "top_logprobs": _top,
    "kept_logprobs": _top,
    **dict.fromkeys(("logprob", "sampling_logprob", "entropy", "sampling_entropy"), number),
    **dict.fromkeys(("token_id", "id", "rank", "kept", "lead", "overhang"), _count),
}


def _legacy(logprobs: Mapping[str, Any]) -> Iterable[Entry]:
    """The lists of the completions path, one per kind of value, as entries."""

    def at(name: str, t: int) -> Any:
        column = logprobs.get(name)
        return column[t] if isinstance(column, list) and t < len(column) else None

    for t, token in enumerate(logprobs["tokens"]):
        yield {
            "token": _text(token),
            "logprob": number(at("token_logprobs", t)),
            "top_logprobs": _top(at("top_logprobs", t)),
        }
