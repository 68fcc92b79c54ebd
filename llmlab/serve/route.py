"""What lives at a path, as a value: the HTTP server, `lab.client()` and the OpenAPI document all read the same one.

A new path is a file in `routes/` and its name in `routes/__init__.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from llmlab.protocol.backend import Backend
from llmlab.protocol.completion import Choice, Delta

JSON = "application/json"

#: Statuses that every path may answer with.
ANYWHERE = (401, 403, 503)


@runtime_checkable
class Asked(Protocol):
    """A validated request of a path, as far as every path's requests are alike."""

    @property
    def n(self) -> int:
        """How many answers it asks for."""

    @property
    def stream(self) -> bool:
        """Whether they are returned in pieces."""


@runtime_checkable
class Answered(Protocol):
    """The answers to a request, as far as every path's are alike: what the log says of them."""

    @property
    def id(self) -> str:
        """The id of the response."""

    @property
    def prompt_ids(self) -> Sized:
        """The tokens of the prompt."""

    @property
    def completion_tokens(self) -> int:
        """How many tokens were generated."""

    @property
    def choices(self) -> Sequence[Choice]:
        """The answers."""


@runtime_checkable
class Answering(Protocol):
    """Answers in progress: a backend's stream, or what a path makes of several."""

    def __iter__(self) -> Iterator[Delta]: ...

    def result(self) -> Answered:
        """Run to the end."""

    def close(self) -> None:
        """Stop the work. Any thread may call it, at any time and more than once."""


@dataclass(frozen=True)
class Query:
    """What a lookup may read."""

    backend: Backend
    parameters: Mapping[str, str]  #: the parts of the path that stand in braces
    running: int  #: the requests that are being answered or wait
    metrics: Callable[[], str] | None = None  #: what a server has counted, as text; None where there is no server


@dataclass(frozen=True, kw_only=True)
class Route:
    """What all paths have.

    Attributes:
        path: with parameters in braces; `{name:path}` matches slashes too.
        name: the operation's id in the OpenAPI document.
        summary: a few words.
        answer: the type of a successful response; None for a plain text.
        errors: the statuses that it may answer with besides `ANYWHERE`.
        request: the type of the body, where it has one.
        example: a body.
        parts: further types that the OpenAPI document refers to.
        is_open: whether it takes no key where the server has one.
    """

    path: str
    name: str
    summary: str
    answer: type[BaseModel] | None
    description: str = ""
    method: str = "GET"
    errors: tuple[int, ...] = ()
    request: type[BaseModel] | None = None
    example: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[type[BaseModel], ...] = ()
    is_open: bool = False

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters in the path."""
        return re.findall(r"\{(\w+)(?::path)?\}", self.path)

    def match(self, path: str) -> dict[str, str] | None:
        """The parameters in a path, or None where it is another path."""
        pattern = re.sub(r"\\\{(\w+):path\\\}", r"(?P<\1>.+)", re.escape(self.path))
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", pattern)
        found = re.fullmatch(pattern, path)
        return None if found is None else found.groupdict()


@dataclass(frozen=True, kw_only=True)
class Lookup(Route):
    """A path that is answered at once, without a body and without running the model.

    Attributes:
        look: the answer, as a JSON value or, with another media type, as a text.
        media_type: of the answer.
    """

    look: Callable[[Query], Any]
    media_type: str = JSON


@dataclass(frozen=True, kw_only=True)
class Conversion(Route):
    """A path that turns a body into an answer without running the model, such as a text into tokens.

    Attributes:
        read: the body's fields as a request; raises LLMLabError.
        convert: the answer to a request, as a JSON value.
    """

    method: str = "POST"
    read: Callable[[Mapping[str, Any]], Asked]
    convert: Callable[[Backend, Any], Any]


@dataclass(frozen=True, kw_only=True)
class Generation(Route):
    """A path whose answers the model generates: it takes a place in the queue, and may stream.

    Attributes:
        read: the body's fields as a request; raises LLMLabError.
        start: starts a request that was read; by default as the backend starts any request.
        whole: a finished completion as a JSON value.
        events: a running stream as the JSON values of its events, for a request with `stream`.
        event: the type of an event.
        tells_failure: whether the events themselves tell of a failure, and of their end.
    """

    method: str = "POST"
    read: Callable[[Mapping[str, Any]], Asked]
    start: Callable[[Backend, Any], Answering] = lambda backend, request: backend.answer(request)
    whole: Callable[[Any], Any]
    events: Callable[[Any, Any], Iterator[Any]]
    event: type[BaseModel]
    tells_failure: bool = False
