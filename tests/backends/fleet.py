"""Several endpoints made of functions, without a network: each answers as its script says, or is down."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai

import llmlab
from llmlab.lab.lab import Lab
from tests.backends.endpoint import Endpoint, Script, entry, spoken, whole


def is_look(body: dict[str, Any]) -> bool:
    """Whether a request is the lab's own: the greedy one, or one that looks whether logprobs are raw."""
    return body["temperature"] == 0 or not body.get("stream")


def steady(body: dict[str, Any]) -> Any:
    """An answer that depends on the request alone, as that of an engine whose seeds are deterministic."""
    if not body.get("stream"):
        logprobs = {"content": [entry("a", -0.5, ("b", -1.5))]}
        return whole({"index": 0, "message": {"content": "a"}, "logprobs": logprobs, "finish_reason": "length"})
    if is_look(body):
        return spoken(*(entry(token, -0.1, ("other", -3.0)) for token in ("Once", " upon", " a", " time")))
    n, seed, temperature = body.get("n", 1), body["seed"], body["temperature"]
    return [
        chunk
        for index in range(n)
        for chunk in spoken(
            entry(f"{seed}/{temperature}", -0.5, ("other", -2.0)), entry(f"/{index}", -0.25), index=index
        )
    ]


class BrokenError(Exception):
    """The connection is lost, after these bytes have come."""

    def __init__(self, sent: bytes = b"") -> None:
        super().__init__("lost")
        self.sent = sent


def broken(chunks: list[dict[str, Any]]) -> BrokenError:
    """A connection that is lost after these chunks."""
    return BrokenError("".join(f"data: {json.dumps(each)}\n\n" for each in chunks).encode())


class Place(Endpoint):
    """One of the endpoints.

    Attributes:
        down: whether nobody listens there.
    """

    def __init__(self, script: Script = steady, *, models: tuple[str, ...] = ("somebody",), **about: Any) -> None:
        super().__init__(script, models=models)
        self.down = False
        self.about = about  #: what its list of models says besides
        self.status = 200  #: of its list of models

    def _answer(self, request: Any, http: Any) -> Any:
        if request.url.path.endswith("/models"):
            rows = [{"id": name, **self.about} for name in self.models]
            return http.Response(self.status, json={"object": "list", "data": rows})
        return super()._answer(request, http)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies that it was sent, without those of the look at it."""
        return [body for body in self.bodies if not is_look(body)]


def url(name: str) -> str:
    return f"http://{name}.invalid/v1"


def connect(places: dict[str, Place], *, retries: int = 0, **options: Any) -> Lab:
    """A lab over places, by their names."""
    http = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]

    class Lost(http.AsyncByteStream):
        def __init__(self, sent: bytes) -> None:
            self._sent = sent

        async def __aiter__(self) -> Any:
            yield self._sent
            raise http.ReadError("reset by peer")

    async def answer(request: Any) -> Any:
        place = places[request.url.host.partition(".")[0]]
        if place.down:
            raise http.ConnectError("nobody listens", request=request)
        try:
            return await asyncio.to_thread(place._answer, request, http)
        except BrokenError as lost:
            if not lost.sent:
                raise http.ReadError("reset by peer", request=request) from None
            return http.Response(200, stream=Lost(lost.sent), headers={"content-type": "text/event-stream"})

    client = http.AsyncClient(transport=http.MockTransport(answer))
    return llmlab.connect([url(name) for name in places], retries=retries, quiet=True, http_client=client, **options)
