"""One family of errors: what went wrong, the field to blame, and the HTTP status that says so.

Each error can be raised in a notebook, where its message is all that matters, and served over HTTP, where `to_dict` is
the body and `status` the status line. What a caller would expect to be a `ValueError` or `RuntimeError` is one.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CheckpointError",
    "ContextLengthError",
    "EngineError",
    "LLMLabError",
    "ModelNotFoundError",
    "RequestError",
    "cut",
    "short",
]


class LLMLabError(Exception):
    """The root of everything this package raises on purpose.

    Args:
        message: one or two sentences: what was wrong, the value that was found, and the way out.
        param: the top-level request field to blame, or None where no single field is.
        code: a short machine-readable reason, such as "context_length_exceeded".
        status: the HTTP status to answer with.
    """

    type: str = "server_error"
    default_status: int = 500
    default_code: str | None = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = self.default_code if code is None else code
        self.status = self.default_status if status is None else status

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with the positional args alone and lose the rest in another process.
        return _rebuild, (type(self), self.message, self.param, self.code, self.status)

    def to_dict(self) -> dict[str, dict[str, str | None]]:
        """The body of an API error response: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _rebuild(
    cls: type[LLMLabError], message: str, param: str | None, code: str | None, status: int | None
) -> LLMLabError:
    return cls(message, param=param, code=code, status=status)


class RequestError(LLMLabError, ValueError):
    """A request that cannot be honoured as it stands; HTTP 400. `param` names the field."""

    type = "invalid_request_error"
    default_status = 400


class ContextLengthError(RequestError):
    """The prompt (or the prompt with the tokens asked for) does not fit the context window; HTTP 400."""

    default_code = "context_length_exceeded"


class ModelNotFoundError(LLMLabError):
    """The request or `load` names a model that is not there; HTTP 404."""

    type = "invalid_request_error"
    default_status = 404
    default_code = "model_not_found"


class CheckpointError(LLMLabError, ValueError):
    """A checkpoint that cannot be loaded: a file missing or cut, a tensor that does not fit, an unknown family."""

    type = "server_error"
    default_status = 500


class EngineError(LLMLabError, RuntimeError):
    """The engine failed while a request was under way, HTTP 500, or is closed, HTTP 503."""

    type = "server_error"
    default_status = 500


def short(value: Any) -> str:
    """How a value reads in a message: its repr, cut where it is long."""
    try:
        text = repr(value)
    except RecursionError:  # nested as deep as JSON's reader lets it be
        text = type(value).__name__
    except ValueError:  # Python does not write out an integer of more than some thousand digits
        text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return cut(text, most=80)


def cut(text: str, *, most: int = 500) -> str:
    """A text as a message shows it: a path holds names that are as long as the caller likes."""
    return text if len(text) <= most else text[: most - 3] + "..."
