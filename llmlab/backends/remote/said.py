"""Reads what an endpoint says about an error, in whatever JSON it says it.

Forms that are known: OpenAI's `{"error": {"message", "type", "param", "code"}}`, the same inside an array, flat objects
(`{"object": "error", "message"}`, `{"code", "message"}`), a text in place of an object, lists of errors, and FastAPI's
`{"detail": ...}` with its places. Any other JSON is quoted as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

#: Where an object keeps its message, or another object that does, in the order in which they are looked at.
_MESSAGES = ("message", "detail", "error", "errors", "msg")


class Said(NamedTuple):
    """What an error says.

    Attributes:
        message: its words; "" if it has none.
        places: the request fields that it blames in a place of their own (`param`, FastAPI's `loc`), with their paths.
        code: its `code`.
        kind: its `type`, otherwise its `status` if that is a text.
    """

    message: str
    places: tuple[str, ...]
    code: Any
    kind: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The top-level fields of `places`, in their order."""
        return tuple(dict.fromkeys(re.split(r"[.\[\]/]", place)[0] for place in self.places))


def read_error(body: Any) -> Said:
    """Returns what an error says; `body` is its JSON, or a text that is none."""
    objects = list(_objects(body))
    places = (place for each in objects for place in _places(each))
    kinds = (each.get(name) for each in objects for name in ("type", "status"))
    return Said(
        message=_message(body),
        places=tuple(dict.fromkeys(places)),
        code=next((each["code"] for each in objects if each.get("code") is not None), None),
        kind=next((kind for kind in kinds if isinstance(kind, str) and kind), ""),
    )


def read_body(text: str) -> Said:
    """Returns what the body of an error response says."""
    try:
        return read_error(json.loads(text))
    except ValueError:
        return read_error(text.strip())


def is_error(body: Any) -> bool:
    """Whether JSON that came in place of an answer, or of one of its chunks, is an error."""
    if isinstance(body, list):
        return any(isinstance(each, Mapping) and is_error(each) for each in body)
    if not isinstance(body, Mapping):
        return False
    if body.get("error") or "error" in (body.get("object"), body.get("type")):
        return True
    # A `message` that is an object is that of an answer.
    said = any(isinstance(body.get(name), str) and body[name] for name in ("message", "msg"))
    return "choices" not in body and (said or bool(body.get("detail") or body.get("errors")))


def _objects(body: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the objects of an error, the inner ones first: they say more about it."""
    if isinstance(body, list):
        for each in body:
            yield from _objects(each)
    elif isinstance(body, Mapping):
        for name in _MESSAGES:
            yield from _objects(body.get(name))
        yield body


def _places(body: Mapping[str, Any]) -> Iterator[str]:
    param, loc = body.get("param"), body.get("loc")
    if isinstance(param, str) and param:
        yield param
    if isinstance(loc, list) and loc:
        place = [str(each) for each in (loc[1:] if loc[0] == "body" else loc)]
        if place:
            yield ".".join(place)


def _message(body: Any) -> str:
    if isinstance(body, Mapping):
        found = [_message(body[name]) for name in _MESSAGES if body.get(name)]
        texts = [text for text in found if text]
        # The words for people come first; an `error` that is a text beside them is often only the status in words.
        if texts:
            loc = body.get("loc")
            return f"{'.'.join(map(str, loc))}: {texts[0]}" if isinstance(loc, list) and loc else texts[0]
        return json.dumps(body, ensure_ascii=False) if body else ""
    if isinstance(body, list):
        return "; ".join(_message(each) for each in body)
    return "" if body is None else str(body)


def named_fields(message: str, sent: Iterable[str]) -> list[str]:
    """Returns those of the fields that a message names, in the order in which it does."""
    places = {name: found.start() for name in sent if (found := _name_in(name, message))}
    return sorted(places, key=places.__getitem__)


#: Fields whose names occur in any message: they only count as named in quotes, or in phrases such as `n must be 1`.
_WORDS = frozenset({"messages", "model", "n", "seed", "stop", "store", "stream", "tools", "user", "metadata"})


def _name_in(name: str, message: str) -> re.Match[str] | None:
    if name in _WORDS:
        return re.search(rf"""['"`]{name}\b|^{name}:|\b{name} (must|should|is|=|>)|\bbody\.{name}\b""", message)
    return re.search(rf"(?<![A-Za-z0-9_]){name}(?![A-Za-z0-9_])", message)
