"""The log: one JSON object per line on standard error, with numbers, names and reasons, never prompts or answers."""

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
    """Formats a record as a line of JSON: time, level, event, and the record's `facts`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without the line break."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__  # its message may hold what a client sent
        return json.dumps(line | getattr(record, "facts", {}))


def start_logging() -> None:
    """Sends this package's log, and the web server's warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for logger, level in ((LOG, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def unforeseen(error: Exception) -> LLMLabError:
    """Logs an unexpected error, and returns the error that the client gets instead.

    The log has the error's type and place, but not its message, which may hold what a client sent.
    """
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    LOG.error("unforeseen", extra={"facts": {"exception": type(error).__name__, "at": places}})
    return LLMLabError("the server failed on this request; its log says where")
