"""What the endpoint itself turns down, whatever the model: one class a reason, with its status and its headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from llmlab.errors import LLMLabError


class RefusalError(LLMLabError):
    """A request that never reached the model."""

    type = "invalid_request_error"
    default_status = 400
    default_headers: ClassVar[Mapping[str, str]] = {}

    @property
    def headers(self) -> Mapping[str, str]:
        """What the response says besides its body."""
        return self.default_headers


class ApiKeyError(RefusalError):
    """No key, or a wrong one; HTTP 401."""

    default_status = 401
    default_code = "invalid_api_key"
    default_headers: ClassVar[Mapping[str, str]] = {"www-authenticate": "Bearer"}


class PathError(RefusalError):
    """Nothing lives at this path; HTTP 404, or 405 where only the method is wrong."""

    default_status = 404
    default_code = "unknown_path"

    def __init__(self, message: str, *, allowed: str = "") -> None:
        """`allowed` names the methods that the path does take."""
        super().__init__(message, status=405 if allowed else 404, code="method_not_allowed" if allowed else None)
        self.allowed = allowed

    @property
    def headers(self) -> Mapping[str, str]:
        """What would have been the right method."""
        return {"allow": self.allowed} if self.allowed else {}


class BodyTooLargeError(RefusalError):
    """More bytes than a request may have; HTTP 413."""

    default_status = 413
    default_code = "body_too_large"


class BodyTimeoutError(RefusalError):
    """The client announced a body and does not send it; HTTP 408."""

    default_status = 408
    default_code = "body_timeout"
    # What comes late would be taken for the next request.
    default_headers: ClassVar[Mapping[str, str]] = {"connection": "close"}


class QueueFullError(RefusalError):
    """As many answers wait as may; HTTP 429, with the seconds after which to ask again."""

    type = "rate_limit_error"
    default_status = 429
    default_code = "queue_full"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """When to come back."""
        return {"retry-after": str(self.retry_after)}


class ShuttingDownError(RefusalError):
    """The server finishes what runs and takes nothing more; HTTP 503."""

    type = "server_error"
    default_status = 503
    default_code = "shutting_down"
    # This connection ends as well.
    default_headers: ClassVar[Mapping[str, str]] = {"connection": "close"}
