"""Server-sent events: one JSON value an event, and the mark of the end.

The framing is two lines of code, and one place makes it for the HTTP server and for `lab.client()` alike; that is why
no library does it.
"""

from __future__ import annotations

import json
from typing import Any

#: The content type of a stream of events.
MEDIA_TYPE = "text/event-stream"

#: What a stream ends with, after an error too.
DONE = b"data: [DONE]\n\n"

#: A comment: clients skip it, and proxies see that somebody is alive.
STILL_HERE = b": waiting\n\n"


def encode(value: Any) -> bytes:
    """JSON in ASCII: some readers break lines at U+2028 and its like, which JSON would allow inside a string."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def event(value: Any) -> bytes:
    """An event that carries a JSON value."""
    return b"data: " + encode(value) + b"\n\n"
