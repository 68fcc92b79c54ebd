"""The errors of the endpoint itself, whatever the model: one class per reason, with its status and headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from llmlab.errors import LLMLabError


class RefusalError(LLMLabError):
    """A request that is refused before it reaches the model."""

    type = "invalid_request_error"
    default_status = 400
    default_headers: ClassVar[Mapping[str, str]] = {}

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's additional headers."""
        return self.default_headers


class ApiKeyError(RefusalError):
    """The API key is missing or wrong; HTTP 401."""

    default_status = 401
    default_code = "invalid_api_key"
    default_headers: ClassVar[Mapping[str, str]] = {"www-authenticate": "Bearer"}


class HostError(RefusalError):
    """The request names a host that this server does not answer to; HTTP 403."""

    default_status = 403
    default_code = "host_not_allowed"


class PathError(RefusalError):
    """The path does not exist, HTTP 404, or takes another method, HTTP 405."""

    default_status = 404
    default_code = "unknown_path"

    def __init__(self, message: str, *, allowed: str = "") -> None:
        """`allowed` names the methods that the path takes; empty where it does not exist."""
        super().__init__(message, status=405 if allowed else 404, code="method_not_allowed" if allowed else None)
        self.allowed = allowed

    @property
    def headers(self) -> Mapping[str, str]:
        """The allowed methods, for a 405."""
        return {"allow": self.allowed} if self.allowed else {}


class BodyTooLargeError(RefusalError):
    """The body has more bytes than allowed; HTTP 413."""

    default_status = 413
    default_code = "body_too_large"


class BodyTimeoutError(RefusalError):
    """The announced body did not arrive; HTTP 408."""

    default_status = 408
    default_code = "body_timeout"
    # Bytes that arrive later would be read as the next request.
    default_headers: ClassVar[Mapping[str, str]] = {"connection": "close"}


class QueueFullError(RefusalError):
    """The queue is full; HTTP 429, with the seconds after which to try again."""

    type = "rate_limit_error"
    default_status = 429
    default_code = "queue_full"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """The `Retry-After` header."""
        return {"retry-after": str(self.retry_after)}


class ShuttingDownError(RefusalError):
    """The server finishes running requests and accepts no more; HTTP 503."""

    type = "server_error"
    default_status = 503
    default_code = "shutting_down"
    # Closes this connection too.
    default_headers: ClassVar[Mapping[str, str]] = {"connection": "close"}
