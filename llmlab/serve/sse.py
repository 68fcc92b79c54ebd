"""Server-sent events: one JSON value per event, and the end mark.

An event is named by the `type` of its value, where it has one. The framing is a few lines of code, shared by the HTTP
server and `lab.client()`; a library would add nothing.
"""

from __future__ import annotations

import json
from typing import Any

#: The content type of a stream of events.
MEDIA_TYPE = "text/event-stream"

#: The last event of every stream, after an error too.
DONE = b"data: [DONE]\n\n"

#: A comment, which clients skip and which keeps proxies from closing the connection.
STILL_HERE = b": waiting\n\n"


def encode(value: Any) -> bytes:
    """Returns JSON in ASCII: some readers break lines at U+2028 and the like, which JSON allows inside strings."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def event(value: Any) -> bytes:
    """Returns an event with a JSON value."""
    name = value.get("type") if isinstance(value, dict) else None
    return (f"event: {name}\n".encode("ascii") if name else b"") + b"data: " + encode(value) + b"\n\n"
