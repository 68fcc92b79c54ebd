"""Translates the errors of endpoints into this package's own errors, with the request field to blame."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from llmlab.backends.remote.said import Said, named_fields, read_body, read_error
from llmlab.errors import ContextLengthError, EngineError, LLMLabError, ModelNotFoundError, RequestError
from llmlab.protocol.request import ChatRequest

_CONTEXT = re.compile(r"context[ _]?(length|window|size)|maximum context|too many tokens", re.IGNORECASE)
#: Types of errors for which the request is to blame.
_REQUEST_ERRORS = frozenset({"invalid_request_error", "BadRequestError", "INVALID_ARGUMENT"})


def translate_error(error: Exception, *, where: str, sent: Iterable[str] = ()) -> LLMLabError:
    """Returns an error of the `openai` package as this package's own: it names the endpoint, and the field to blame.

    Args:
        error: the error that the client raised.
        where: the endpoint's address.
        sent: the fields that the request had.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        return _status_error(said_by(error), error.status_code, where=where, sent=sent)
    if isinstance(error, openai.APITimeoutError):
        return EngineError(f"{where} took too long to answer: {error}", code="endpoint_unreachable", status=504)
    if isinstance(error, openai.APIConnectionError):
        # The package's own message is only "Connection error."; its cause says more, at least by its type's name.
        reason = error.__cause__ or error
        return EngineError(
            f"{where} cannot be reached, or the connection was lost: {str(reason) or repr(reason)}",
            code="endpoint_unreachable",
            status=502,
        )
    body = getattr(error, "body", None)
    return error_from_event(body if body is not None else str(error), where=where, sent=sent)


def said_by(error: Any) -> Said:
    """Returns what an `openai.APIStatusError` says, with the client's own words where the endpoint has none."""
    said = read_body(error.response.text)
    return said if said.message else said._replace(message=str(error.message))


def unreadable_answer(where: str, error: Exception) -> EngineError:
    """Returns the error for an answer that breaks off or does not follow the API; `error` is what reading it raised."""
    return EngineError(f"the answer of {where} breaks off, or cannot be read: {error!r}", status=502)


def error_from_event(event: Any, *, where: str, sent: Iterable[str] = ()) -> LLMLabError:
    """Returns the error that an endpoint sent in place of an answer or in the middle of one; `event` is its JSON."""
    said = read_error(event)
    text = f"{where} breaks its answer off: {said.message or 'without saying why'}"
    if said.kind in _REQUEST_ERRORS or str(said.code) in ("400", "422"):
        return RequestError(text, param=_param(said, sent))
    return EngineError(text, status=502)


def is_context(said: Said, status: int) -> bool:
    """Whether a refusal says that the prompt is too long."""
    return status in (400, 413, 422) and (said.code == "context_length_exceeded" or bool(_CONTEXT.search(said.message)))


def _status_error(said: Said, status: int, *, where: str, sent: Iterable[str]) -> LLMLabError:
    text = f"{where} answers {status}: {said.message}"
    code = said.code if isinstance(said.code, str) else None
    if status == 401 or (status == 403 and not named_fields(said.message, sent)):
        return LLMLabError(f"{text}; is this its api_key?", code="invalid_api_key", status=status)
    if status == 404:
        if "model" in said.message.lower():
            return ModelNotFoundError(text, param="model")
        return LLMLabError(f"{text}; does its address end in /v1?", code="not_found", status=404)
    if status == 429:
        return EngineError(f"{text}; send fewer requests at once: connect(..., concurrency=)", code=code, status=429)
    param = _param(said, sent)
    if is_context(said, status):
        return ContextLengthError(text, param=param)
    if status in (400, 403, 413, 415, 422) or (param is not None and (status < 500 or status == 501)):
        return RequestError(text, param=param, code=code, status=status)
    # Also where its message names a field: a failure is the endpoint's own.
    return EngineError(text, code=code, status=502)


def _param(said: Said, sent: Iterable[str]) -> str | None:
    """The field to blame: the one that the endpoint blames in its `param`, otherwise the first that its words name."""
    blamed = [name for name in said.fields if name in ChatRequest.model_fields]
    return next(iter(blamed or named_fields(said.message, sent)), None)
