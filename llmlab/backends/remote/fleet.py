"""Several endpoints that serve one model, as one backend: requests go to the one with room, and move where one dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from llmlab.backends.remote.agreement import LOOK_SECONDS, Facts, Look, agreed, doubts
from llmlab.backends.remote.backend import UNSUPPORTED, RemoteBackend, endpoint_at, seed_for
from llmlab.backends.remote.endpoint import Endpoint
from llmlab.backends.remote.event_loop import EventLoop
from llmlab.backends.remote.fleet_stream import FleetStream
from llmlab.backends.remote.members import Member, Members
from llmlab.errors import EngineError, LLMLabError, RequestError
from llmlab.protocol.backend import BodyBackend
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import Request


class Fleet(BodyBackend):
    """Several endpoints that serve one model. `Fleet.connect` makes one from their addresses.

    Args:
        members: the endpoints, with one event loop for all of them.
        loop: that event loop; closed with the backend.
        name: the model's name.
    """

    def __init__(self, members: Members, loop: EventLoop, *, name: str) -> None:
        self.name = name
        self.unsupported = UNSUPPORTED
        self.members = members
        self._loop = loop

    @classmethod
    def connect(cls, urls: Sequence[str], **options: Any) -> Fleet:
        """Find endpoints, and check that they serve one model; one that cannot be reached may come later.

        Args:
            urls: the addresses.
            options: those of `RemoteBackend.connect`, for each of them.

        Raises:
            RequestError: there is no address, or one twice; the endpoints serve several models.
            ModelNotFoundError: no model was named, and an endpoint has several, or none.
            LLMLabError: none of the endpoints can be reached, or one refuses the key.
        """
        if not urls:
            raise RequestError("url is an empty list: give the address of at least one endpoint", param="url")
        endpoints = [endpoint_at(url, **options) for url in urls]
        places = [endpoint.where for endpoint in endpoints]
        if twice := [where for where in places if places.count(where) > 1]:
            raise RequestError(
                f"url has {twice[0]} twice: give each endpoint once; concurrency= is how many requests it gets at once",
                param="url",
            )
        loop = EventLoop("llmlab-fleet", on_close=lambda: _close(endpoints))
        try:
            return cls._found(endpoints, loop)
        except BaseException:
            loop.close()
            raise

    @classmethod
    def _found(cls, endpoints: Sequence[Endpoint], loop: EventLoop) -> Fleet:
        found, lost = _look_at(endpoints, loop)
        if not found:
            raise EngineError(
                f"none of the {len(endpoints)} endpoints answers: {'; '.join(lost.values())}",
                code="endpoint_unreachable",
                status=502,
            )
        usual = agreed(list(found.values()))
        [name] = {endpoint.model for endpoint in found}
        for endpoint in lost:
            endpoint.model = name
        members = [
            Member(RemoteBackend(endpoint, loop), facts=found.get(endpoint), lost=lost.get(endpoint, ""))
            for endpoint in endpoints
        ]
        return cls(Members(members, usual=usual, submit=loop.submit), loop, name=name)

    @property
    def concurrency(self) -> int:
        """How many requests are in progress at once, at those endpoints that are up."""
        return sum(member.backend.concurrency for member in self.members.up()) or 1

    def describe(self) -> dict[str, Any]:
        """Returns the facts that the banner shows: the model's name, the endpoints, which are up, and warnings."""
        members, up = list(self.members), self.members.up()
        down = len(members) - len(up)
        warnings = [f"{down} of {len(members)} endpoints {'is' if down == 1 else 'are'} down"] if down else []
        warnings += doubts([member.facts for member in up if member.facts is not None])
        count = f"{len(members)} endpoint{'' if len(members) == 1 else 's'}"
        each = members[0].backend.concurrency
        return {
            "model": self.name,
            "notes": [f"{count}, {len(up)} up, each up to {each} requests at once", *map(_line, members)],
            **({"warning": "; ".join(warnings)} if warnings else {}),
        }

    def close(self) -> None:
        """Cancel the requests in progress and those that wait, and close the connections."""
        self.members.closed = True
        self._loop.close()

    def complete(self, request: Request, *, order: str = "llmlab") -> Completion:
        """Run a request to its end; returns the whole answer. Raises what `stream` does."""
        return self.stream(request, order=order).result()

    def post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Which endpoint would answer is not known: a body is sent to one of them.

        Raises:
            RequestError: always.
        """
        raise RequestError(f"{self.name} is served by several endpoints here; llmlab.connect one of them", param="url")

    def stream(self, request: Request, *, order: str = "llmlab") -> FleetStream:
        """Send a request to one of the endpoints; returns its deltas as they come.

        Raises:
            RequestError, ModelNotFoundError: as `RemoteBackend.stream`; EngineError: no endpoint is up.
        """
        next(iter(self.members)).backend.check(request, order=order)
        return FleetStream(self.members, request, seed=seed_for(request))


def _look_at(endpoints: Sequence[Endpoint], loop: EventLoop) -> tuple[dict[Endpoint, Facts], dict[Endpoint, str]]:
    """Returns what those endpoints say that answer, and why the others do not.

    Raises:
        LLMLabError: an endpoint refuses the key or lacks the model, which waiting does not change.
    """
    said: dict[Endpoint, Facts | LLMLabError] = {}
    looks = [Look(endpoint, loop.submit, partial(said.__setitem__, endpoint)) for endpoint in endpoints]
    limit = time.monotonic() + LOOK_SECONDS
    for look in looks:
        look.join(max(0.0, limit - time.monotonic()))
    found, lost = {}, {}
    for endpoint in endpoints:
        one = said.get(endpoint)
        if isinstance(one, Facts):
            found[endpoint] = one
        elif one is None:
            lost[endpoint] = f"{endpoint.where} has not answered within {LOOK_SECONDS:.0f} s"
        elif isinstance(one, EngineError):
            lost[endpoint] = one.message
        else:
            raise one
    return found, lost


def _line(member: Member) -> str:
    """A line about an endpoint for the banner."""
    if member.lost:
        return f"down: {member.lost}"
    server = f" · {member.backend.endpoint.owner}" if member.backend.endpoint.owner else ""
    return f"up: {member.where}{server}" + (f" · {member.answered:,} answers" if member.answered else "")


async def _close(endpoints: Sequence[Endpoint]) -> None:
    await asyncio.gather(*(endpoint.client.close() for endpoint in endpoints), return_exceptions=True)
