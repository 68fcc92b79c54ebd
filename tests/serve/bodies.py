"""What the tests send."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai

#: The HTTP library that the installed `openai` runs on.
http: Any = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]

ASK = [{"role": "user", "content": "Hi"}]


def encoded(**fields: Any) -> bytes:
    """A request's body."""
    return json.dumps({"messages": ASK, **fields}).encode()


def post(url: str, content: bytes, *, path: str = "/v1/chat/completions", **headers: str) -> Any:
    """Send a body as JSON, unless the headers say otherwise; a header of "" is left out."""
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    sent = {name: value for name, value in sent.items() if value}
    # No certificates are asked for here, and reading them takes longer than a request.
    return http.post(f"{url}{path}", content=content, headers=sent, timeout=60, verify=False)


def error_of(response: Any) -> dict[str, str | None]:
    """The error of a response, whose shape is checked."""
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["error"] and set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["message"] and "Traceback" not in response.text
    return answer["error"]


def head_of(data: bytes) -> bytes:
    """What comes before a body on the line."""
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode()


async def vanish(port: int, data: bytes, *, reads: int) -> None:
    """Ask, read so much of the answer, and cut the line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head_of(data) + data)
    await writer.drain()
    if reads:
        await reader.readexactly(reads)
    writer.transport.abort()
