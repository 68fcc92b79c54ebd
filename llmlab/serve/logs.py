"""The log: one JSON object a line, on standard error. Figures, names and reasons; never what was said."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from llmlab.errors import LLMLabError

LOG = logging.getLogger("llmlab.serve")


class JsonLines(logging.Formatter):
    """A record as a line of JSON: when, how bad, what, and the record's `facts`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__  # its message may hold what a client sent
        return json.dumps(line | getattr(record, "facts", {}))


def start_logging() -> None:
    """Send this room's log, and what the web server has to complain about, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for logger, level in ((LOG, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def unforeseen(error: Exception) -> LLMLabError:
    """Log an error of a kind that nobody raises on purpose, and give one that can be told in its place.

    The log says where, and of which kind; its message may hold what a client sent.
    """
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    LOG.error("unforeseen", extra={"facts": {"exception": type(error).__name__, "at": places}})
    return LLMLabError("the server failed on this request; its log says where")
