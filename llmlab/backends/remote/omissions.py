"""Which of the added fields are left out of a request, because the endpoint refuses them.

A refusal is believed where it has a place for the field (`param`, FastAPI's `loc`). A field that only the words of its
message name is a suspect: the words may quote a schema, or list what is allowed. In either case the omission is kept
only if the request without the field is answered, and only for requests of the same shape.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from llmlab.backends.remote.said import Said, named_fields
from llmlab.protocol.fields import EXTENSIONS
from llmlab.protocol.request import ChatRequest

#: A request's fields, each with the form of its value: what an endpoint's refusal may depend on.
Shape: TypeAlias = frozenset[tuple[str, Any]]

REFUSED = "refused, and so left out"
_UNNAMED = "left out, because the endpoint refuses the request with it and names no field"
#: HTTP statuses with which endpoints refuse a field. A 500 is a failure, whatever its message names.
REFUSALS = frozenset({400, 403, 405, 415, 422, 501})
#: Those of them that may mean a field although they name none.
_VAGUE = frozenset({400, 422})
#: What to leave out after a refusal that names no field, one group after another: first what the fewest endpoints know,
#: last what changes the answer most.
_GROUPS = (EXTENSIONS, {"stream_options"}, {"logprobs", "top_logprobs"}, {"seed"}, {"stream"}, {"temperature", "top_p"})
#: Fields that make no sense without another one.
_NEEDS = {"top_logprobs": "logprobs", "stream_options": "stream"}
#: How many streams in a row may be empty until answers are asked for whole.
_EMPTY_STREAMS = 2


def shape_of(body: Mapping[str, Any]) -> Shape:
    """Returns the shape of a request: which fields its body has, zero or not, on or off, of which type."""
    return frozenset((name, _form(value)) for name, value in body.items() if name not in ("model", "messages"))


def _form(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return "zero" if abs(value) < 1e-5 else "number"
    if isinstance(value, Mapping):
        return value.get("type", "object")
    return type(value).__name__


def without(added: Mapping[str, Any], omitted: Mapping[str, str] | set[str]) -> dict[str, Any]:
    """Returns the added fields without the omitted ones, and without those that make no sense alone."""
    return {
        name: value for name, value in added.items() if name not in omitted and _NEEDS.get(name, name) not in omitted
    }


class Omissions:
    """What an endpoint is not sent in requests of each shape, with the reasons; grows with what it answers."""

    def __init__(self) -> None:
        self._kept: dict[Shape, dict[str, str]] = {}
        self._empty = Counter[Shape]()

    def of(self, shape: Shape) -> dict[str, str]:
        """Returns field -> reason."""
        return dict(self._kept.get(shape, {}))

    def keep(self, shape: Shape, omitted: Mapping[str, str]) -> None:
        """Remember what a request lacked that was answered after others had been refused."""
        if omitted:
            self._kept[shape] = {**self._kept.get(shape, {}), **omitted}

    def keep_stream(self, shape: Shape, *, empty: bool) -> None:
        """Count a stream. One empty stream may be an accident; after two in a row, answers are asked for whole."""
        self._empty[shape] = self._empty[shape] + 1 if empty else 0
        if self._empty[shape] >= _EMPTY_STREAMS:
            self.keep(shape, {"stream": EMPTY})


#: The reason for a request without `stream`.
EMPTY = "nothing came, and so the answer was asked for whole"


class _Trial(NamedTuple):
    omitted: set[str]
    reason: str


class Search:
    """Looks for the added fields that a request is refused for, by leaving out one suspect after another.

    Args:
        known: field -> reason, what is left out from the start.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = dict(known)
        self._trial = _Trial(set(), "")
        self._trials: Iterator[_Trial] = iter(())
        self._complaint: object = None

    @property
    def omitted(self) -> dict[str, str]:
        """Field -> reason, for the next attempt."""
        return {**self._known, **dict.fromkeys(self._trial.omitted, self._trial.reason)}

    def refuse(self, status: int, said: Said, *, asked: Mapping[str, Any], added: Mapping[str, Any]) -> bool:
        """Take a refusal of the last attempt; returns whether there is another one to make.

        A refusal in the same words shows that what was left out last is not the reason for it, or not alone; other
        words show that it was.

        Args:
            status: the HTTP status.
            said: what it says.
            asked: the fields of the body that the caller set, which are never left out.
            added: the other fields that were sent.
        """
        complaint = (status, said.fields, re.sub(r"\S*\d\S*", "", said.message))  # without numbers and request ids
        if complaint != self._complaint:
            self._known, self._complaint = self.omitted, complaint
            self._trials = iter(list(_trials(status, said, asked=asked, added=added)))
        trial = next(self._trials, None)
        self._trial = trial or _Trial(set(), "")
        return trial is not None


def _trials(status: int, said: Said, *, asked: Mapping[str, Any], added: Mapping[str, Any]) -> Iterator[_Trial]:
    if status not in REFUSALS:
        return
    believed = {name for name in said.fields if name in ChatRequest.model_fields or name in added}
    if believed:
        if believed <= added.keys():
            yield _Trial(believed, REFUSED)
        return
    named = [name for name in named_fields(said.message, [*asked, *added]) if name in added]
    if named:
        extensions = {name for name in named if name in EXTENSIONS}
        alone = [*([extensions] if extensions else []), *({name} for name in named if name not in EXTENSIONS)]
        yield from (_Trial(names, REFUSED) for names in alone)
        if len(alone) > 1:
            yield _Trial(set(named), REFUSED)
    elif status in _VAGUE and not named_fields(said.message, [*asked, *ChatRequest.model_fields]):
        names: set[str] = set()
        for group in _GROUPS:
            if group & added.keys():
                names = names | (group & added.keys())
                yield _Trial(names, _UNNAMED)
