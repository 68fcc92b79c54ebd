"""Reads an event stream as endpoints send it, with what clients usually drop: `error:` lines and plain text.

The format is that of the HTML standard, "Server-sent events": lines `field: value`, and an empty line ends an event.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple


class Event(NamedTuple):
    """An event.

    Attributes:
        name: its `event`; "error" for a line `error: ...`, "done" for `[DONE]`, "text" for lines that are of no field.
        data: its data, the lines joined.
    """

    name: str
    data: str

    def json(self) -> Any:
        """Returns the data as JSON. An error's data may be plain text.

        Raises:
            ValueError: it is no JSON; the message quotes it.
        """
        try:
            return json.loads(self.data)
        except ValueError:
            if self.name == "error":
                return self.data
            raise ValueError(f"no JSON: {self.data[:200]!r}") from None


async def read_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Yields the events of a stream, none after `[DONE]`, and at its end the lines of no field as one event.

    Args:
        pieces: the bytes as they come.
    """
    name, data, strange, done = "", list[str](), list[str](), False
    async for line in _lines(pieces):
        if done:
            continue  # read to its end, so that the connection can be used again
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Event(name, "\n".join(data))
            name, data = "", []
        elif field == "data" and colon:
            done = not data and value.startswith("[DONE]")
            if done:
                yield Event("done", "")
            else:
                data.append(value)
        elif field == "event" and colon:
            name = value
        elif field == "error" and colon:
            yield Event("error", value)
        elif field not in ("", "id", "retry"):
            strange.append(line)
    if data:
        yield Event(name, "\n".join(data))
    if strange:
        yield Event("text", "\n".join(strange))


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yields lines, which end with LF, CR LF or CR."""
    rest = b""
    async for piece in pieces:
        text = rest + piece
        held = b"\r" if text.endswith(b"\r") else b""  # its LF may come with the next piece
        *lines, rest = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest += held
        for line in lines:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.removesuffix(b"\r").decode("utf-8", "replace")
