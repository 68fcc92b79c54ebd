"""What lives at a path, as a value: the HTTP server, `lab.client()` and the OpenAPI document all read the same one.

A new path is a file in `routes/` and its name in `routes/__init__.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from llmlab.protocol.backend import Backend, Stream
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import Request

#: Statuses that every path may answer with.
ANYWHERE = (401, 403, 503)


@dataclass(frozen=True)
class Query:
    """What a lookup may read."""

    backend: Backend
    parameters: Mapping[str, str]  #: the parts of the path that stand in braces
    running: int  #: the requests that are being answered or wait


@dataclass(frozen=True, kw_only=True)
class Route:
    """What all paths have.

    Attributes:
        path: with parameters in braces; `{name:path}` matches slashes too.
        name: the operation's id in the OpenAPI document.
        summary: a few words.
        answer: the type of a successful response.
        errors: the statuses that it may answer with besides `ANYWHERE`.
        request: the type of the body, where it has one.
        example: a body.
    """

    path: str
    name: str
    summary: str
    answer: type[BaseModel]
    description: str = ""
    method: str = "GET"
    errors: tuple[int, ...] = ()
    request: type[BaseModel] | None = None
    example: Mapping[str, Any] = field(default_factory=dict)

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
    """A path that is answered at once, without a body and without running the model. `look` returns a JSON value."""

    look: Callable[[Query], Any]


@dataclass(frozen=True, kw_only=True)
class Generation(Route):
    """A path whose answers the model generates: it takes a place in the queue, and may stream.

    Attributes:
        read: the body's fields as a request; raises LLMLabError.
        whole: a finished completion as a JSON value.
        events: a running stream as the JSON values of its events, for a request with `stream`.
        event: the type of an event.
    """

    method: str = "POST"
    read: Callable[[Mapping[str, Any]], Request]
    whole: Callable[[Completion], Any]
    events: Callable[[Stream, Request], Iterator[Any]]
    event: type[BaseModel]
