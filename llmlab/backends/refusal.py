"""What an endpoint refuses, as one of this package's own errors, with the field to blame."""

from __future__ import annotations

import re
from typing import Any

from llmlab.errors import ContextLengthError, EngineError, LLMLabError, ModelNotFoundError, RequestError
from llmlab.request import ChatRequest


def translated(error: Exception, *, where: str) -> LLMLabError:
    """The error of the `openai` package as one that names the endpoint, and the field where one is to blame."""
    import openai

    if not isinstance(error, openai.APIStatusError):
        reason = "took too long to answer" if isinstance(error, openai.APITimeoutError) else "cannot be reached"
        return EngineError(f"{where} {reason}: {error}", code="endpoint_unreachable", status=502)
    status, message = error.status_code, _message(error)
    said = f"{where} answers {status}: {message}"
    if status in (401, 403):
        return LLMLabError(f"{said}; give its api_key", code="invalid_api_key", status=status)
    if status == 404:
        return ModelNotFoundError(said, param="model")
    if status in (400, 413, 422):
        field = error.param if error.param in ChatRequest.model_fields else blamed(message)
        if error.code == "context_length_exceeded":
            return ContextLengthError(said, param=field)
        return RequestError(said, param=field, code=error.code, status=status)
    if status == 429:
        return EngineError(f"{said}; fewer requests at once: connect(..., concurrency=)", code=error.code, status=429)
    return EngineError(said, code=error.code, status=502)


def blamed(message: str) -> str | None:
    """The first request field that a message names, if it names one."""
    words = re.findall(r"[a-z_]+", message.lower())
    return next((word for word in words if word in ChatRequest.model_fields and word not in ("model", "stream")), None)


def _message(error: Any) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        found = inner.get("message") or inner.get("detail") if isinstance(inner, dict) else inner
        if found:
            return str(found)
    return str(error.message)
