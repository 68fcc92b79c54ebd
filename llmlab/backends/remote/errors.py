"""Translates the errors of endpoints into this package's own errors, with the request field to blame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llmlab.errors import ContextLengthError, EngineError, LLMLabError, ModelNotFoundError, RequestError
from llmlab.protocol.request import ChatRequest

#: Fields whose names occur in any message: they only count as named in quotes, or in phrases such as `n must be 1`.
_WORDS = frozenset({"messages", "model", "n", "seed", "stop", "store", "stream", "tools", "user", "metadata"})
_CONTEXT = re.compile(r"context[ _]?(length|window|size)|maximum context|too many tokens", re.IGNORECASE)
#: HTTP statuses with which endpoints refuse a field.
_REFUSALS = frozenset({400, 403, 405, 415, 422, 500, 501})


def translate_error(error: Exception, *, where: str, sent: Iterable[str] = ()) -> LLMLabError:
    """Returns an error of the `openai` package as this package's own: it names the endpoint, and the field to blame.

    Args:
        error: the error that the client raised.
        where: the endpoint's address.
        sent: the fields that the request had.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        return _status_error(error, error.status_code, where=where, sent=sent)
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


def unreadable_answer(where: str, error: Exception) -> EngineError:
    """Returns the error for an answer that breaks off or does not follow the API; `error` is what reading it raised."""
    return EngineError(f"the answer of {where} breaks off, or cannot be read: {error!r}", status=502)


def error_from_event(event: Any, *, where: str, sent: Iterable[str] = ()) -> LLMLabError:
    """Returns the error that an endpoint sent in the middle of an answer; `event` is the value of its `error`."""
    fields = event if isinstance(event, Mapping) else {}
    message = _text(event)
    status = fields.get("code")
    if fields.get("type") in ("invalid_request_error", "BadRequestError") or status in (400, "400"):
        param = _param(fields.get("param"), message, sent)
        return RequestError(f"{where} breaks its answer off: {message}", param=param)
    return EngineError(f"{where} breaks its answer off: {message}", status=502)


def refused_fields(error: Any, *, sent: Iterable[str]) -> set[str] | None:
    """Returns the fields that a refusal names; empty if it names none; None if the error does not refuse a field."""
    if error.status_code not in _REFUSALS or _is_context(error):
        return None
    found = named_fields(_message(error), sent)
    if isinstance(error.param, str) and error.param in sent:
        found.add(error.param)
    # With other statuses, an error that names no field is a failure of another kind.
    return found if found or error.status_code in (400, 422) else None


def named_fields(message: str, sent: Iterable[str]) -> set[str]:
    """Returns those of the fields that a message names."""
    return {name for name in sent if _is_named(name, message)}


def _status_error(error: Any, status: int, *, where: str, sent: Iterable[str]) -> LLMLabError:
    message = _message(error)
    text = f"{where} answers {status}: {message}"
    code = error.code if isinstance(error.code, str) else None
    if status == 401 or (status == 403 and not named_fields(message, sent)):
        return LLMLabError(f"{text}; is this its api_key?", code="invalid_api_key", status=status)
    if status == 404:
        if "model" in message.lower():
            return ModelNotFoundError(text, param="model")
        return LLMLabError(f"{text}; does its address end in /v1?", code="not_found", status=404)
    if status == 429:
        return EngineError(f"{text}; send fewer requests at once: connect(..., concurrency=)", code=code, status=429)
    param = _param(error.param, message, sent)
    if _is_context(error):
        return ContextLengthError(text, param=param)
    if status in (400, 403, 413, 415, 422) or param is not None:
        return RequestError(text, param=param, code=code, status=status)
    return EngineError(text, code=code, status=502)


def _is_context(error: Any) -> bool:
    return error.status_code in (400, 413, 422) and (
        error.code == "context_length_exceeded" or bool(_CONTEXT.search(_message(error)))
    )


def _param(param: Any, message: str, sent: Iterable[str]) -> str | None:
    """The field to blame: the endpoint's `param`, otherwise the first field that its message names."""
    if isinstance(param, str) and param in ChatRequest.model_fields:
        return param
    places = {name: message.find(name) for name in named_fields(message, sent)}
    return min(places, key=places.__getitem__, default=None)


def _is_named(name: str, message: str) -> bool:
    if name in _WORDS:
        return bool(re.search(rf"""['"`]{name}\b|^{name}:|\b{name} (must|should|is|=|>)|\bbody\.{name}\b""", message))
    return bool(re.search(rf"(?<![A-Za-z0-9_]){name}(?![A-Za-z0-9_])", message))


def _message(error: Any) -> str:
    body = error.body
    found = _text(body.get("error", body) if isinstance(body, Mapping) else body) if body else ""
    return found or str(error.message)


def _text(body: Any) -> str:
    """The message in an error's body: a text, or FastAPI's list of what is wrong and where."""
    if isinstance(body, Mapping):
        return _text(next((body[name] for name in ("message", "detail", "error", "msg") if body.get(name)), ""))
    if isinstance(body, list):
        rows = [each if isinstance(each, Mapping) else {"msg": each} for each in body]
        return "; ".join(f"{'.'.join(map(str, row.get('loc') or ()))}: {row.get('msg')}" for row in rows)
    return str(body)
