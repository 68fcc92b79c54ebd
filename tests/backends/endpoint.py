"""An endpoint made of a function, without a network: it answers in the shapes that OpenAI's API and vLLM send."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import openai

from llmlab.backends.remote.backend import RemoteBackend
from llmlab.lab.lab import Lab

#: What an endpoint does with a request's body: a whole answer, a list of chunks, a text that is sent as it
#: is, or (status, body, headers), where the body is bytes or becomes JSON.
Script = Callable[[dict[str, Any]], Any]


def entry(token: str, logprob: float, *others: tuple[str, float], raw: bool = True) -> dict[str, Any]:
    """A token of `logprobs.content` as OpenAI and vLLM write it; without bytes where `raw` is false."""

    def spelled(text: str, value: float) -> dict[str, Any]:
        return {"token": text, "logprob": value} | ({"bytes": list(text.encode())} if raw else {})

    return spelled(token, logprob) | {"top_logprobs": [spelled(*each) for each in ((token, logprob), *others)]}


def whole(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A `chat.completion`."""
    return {
        "id": "chatcmpl-123",
        "object": "chat.completion",
        "created": 1728933352,
        "model": "somebody",
        "choices": list(choices),
        "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
        **more,
    }


def chunk(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A `chat.completion.chunk`."""
    head = {
        "id": "chatcmpl-123",
        "object": "chat.completion.chunk",
        "created": 1728933352,
        "model": "somebody",
    }
    return {**head, "choices": list(choices), **more}


def piece(
    content: str | None = None, *, index: int = 0, finish: str | None = None, logprobs: Any = None, **delta: Any
) -> dict[str, Any]:
    """A choice of a chunk."""
    said = {**({} if content is None else {"content": content}), **delta}
    return {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": finish}


def spoken(*tokens: dict[str, Any], index: int = 0, finish: str = "stop") -> list[dict[str, Any]]:
    """The chunks of a choice whose tokens come one by one."""
    made = [chunk(piece(t["token"], index=index, logprobs={"content": [t], "refusal": None})) for t in tokens]
    return [chunk(piece("", index=index, role="assistant")), *made, chunk(piece(index=index, finish=finish))]


class Endpoint:
    """Answers a `RemoteBackend` from a script, and keeps the bodies it was sent."""

    def __init__(self, script: Script, *, models: tuple[str, ...] = ("somebody",)) -> None:
        self.script = script
        self.models = models
        self.bodies: list[dict[str, Any]] = []
        self.busy = self.most = 0
        self._lock = threading.Lock()

    def backend(self, *, retries: int = 0, **options: Any) -> RemoteBackend:
        """A backend that asks here."""
        http = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]

        async def answer(request: Any) -> Any:
            return await asyncio.to_thread(self._answer, request, http)

        client = http.AsyncClient(transport=http.MockTransport(answer))
        return RemoteBackend.connect("http://somewhere.invalid/v1", retries=retries, http_client=client, **options)

    def lab(self, **options: Any) -> Lab:
        """The same as a lab."""
        return Lab(self.backend(**options))

    def _answer(self, request: Any, http: Any) -> Any:
        if request.url.path.endswith("/models"):
            return http.Response(200, json={"object": "list", "data": [{"id": name} for name in self.models]})
        body = json.loads(request.read())
        with self._lock:
            self.bodies.append(body)
            self.busy += 1
            self.most = max(self.most, self.busy)
        try:
            found = self.script(body)
        finally:
            with self._lock:
                self.busy -= 1
        if isinstance(found, tuple):
            status, said, headers = found
            raw = isinstance(said, bytes)
            return http.Response(status, content=said if raw else json.dumps(said), headers=headers)
        if isinstance(found, str):
            return http.Response(200, text=found, headers={"content-type": "text/event-stream"})
        if isinstance(found, dict):
            return http.Response(200, json=found)
        lines = [f"data: {json.dumps(each)}\n\n" for each in found]
        return http.Response(
            200, text="".join([*lines, "data: [DONE]\n\n"]), headers={"content-type": "text/event-stream"}
        )


def refusal(message: str, *, status: int = 400, param: str | None = None, **headers: str) -> tuple[int, Any, Any]:
    """An error as the API has it."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return status, {"error": error}, {"content-type": "application/json", **headers}
