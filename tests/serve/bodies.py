"""What the tests send."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2 as http

ASK = [{"role": "user", "content": "Hi"}]


def encoded(**fields: Any) -> bytes:
    """A request's body."""
    return json.dumps({"messages": ASK, **fields}).encode()


def post(url: str, content: bytes, **headers: str) -> http.Response:
    """Send a body as JSON, unless the headers say otherwise; a header of "" is left out."""
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return http.post(
        f"{url}/v1/chat/completions", content=content, headers={k: v for k, v in sent.items() if v}, timeout=60
    )


def error_of(response: http.Response) -> dict[str, str | None]:
    """The error of a response, whose shape is checked."""
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["error"] and set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["message"] and "Traceback" not in response.text
    return answer["error"]


def head_of(data: bytes) -> bytes:
    """What comes before a body on the line."""
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode()


async def vanish(port: int, data: bytes, *, reads: int) -> None:
    """Ask, read so much of the answer, and cut the line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head_of(data) + data)
    await writer.drain()
    if reads:
        await reader.readexactly(reads)
    writer.transport.abort()
