"""Server-sent events: one JSON value per event, and the end mark.

The framing is two lines of code, shared by the HTTP server and `lab.client()`; a library would add nothing.
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
    return b"data: " + encode(value) + b"\n\n"
