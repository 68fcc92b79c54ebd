"""What an endpoint refuses, as one of this package's own errors, with the field to blame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llmlab.errors import ContextLengthError, EngineError, LLMLabError, ModelNotFoundError, RequestError
from llmlab.protocol.request import ChatRequest

#: Fields whose names are words of any message: they count as named where they stand in quotes, or as `n must be 1`.
_WORDS = frozenset({"messages", "model", "n", "seed", "stop", "store", "stream", "tools", "user", "metadata"})
_CONTEXT = re.compile(r"context[ _]?(length|window|size)|maximum context|too many tokens", re.IGNORECASE)
#: Statuses under which endpoints refuse a field.
_REFUSALS = frozenset({400, 403, 405, 415, 422, 500, 501})


def translated(error: Exception, *, where: str, sent: Iterable[str] = ()) -> LLMLabError:
    """The error of the `openai` package as one that names the endpoint, and the field where one is to blame.

    Args:
        error: what the client raised.
        where: the endpoint.
        sent: the fields that the request had.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        return _of_status(error, error.status_code, where=where, sent=sent)
    if isinstance(error, openai.APITimeoutError):
        return EngineError(f"{where} took too long to answer: {error}", code="endpoint_unreachable", status=504)
    if isinstance(error, openai.APIConnectionError):
        # The package says "Connection error."; its cause says which, by its name at least.
        reason = error.__cause__ or error
        return EngineError(
            f"{where} cannot be reached, or has gone: {str(reason) or repr(reason)}",
            code="endpoint_unreachable",
            status=502,
        )
    body = getattr(error, "body", None)
    return of_event(body if body is not None else str(error), where=where, sent=sent)


def unreadable(where: str, error: Exception) -> EngineError:
    """What happened while an answer was read that is in no shape of the API's."""
    return EngineError(f"the answer of {where} breaks off, or cannot be read: {error!r}", status=502)


def of_event(said: Any, *, where: str, sent: Iterable[str] = ()) -> LLMLabError:
    """The error that an endpoint writes into an answer that it has begun."""
    told = said if isinstance(said, Mapping) else {}
    message = _text(said)
    status = told.get("code")
    if told.get("type") in ("invalid_request_error", "BadRequestError") or status in (400, "400"):
        return RequestError(f"{where} breaks its answer off: {message}", param=_param(told.get("param"), message, sent))
    return EngineError(f"{where} breaks its answer off: {message}", status=502)


def refused(error: Any, *, sent: Iterable[str]) -> set[str] | None:
    """The fields that a refusal names, none where it names nothing; None where it is no refusal of a field."""
    if error.status_code not in _REFUSALS or _is_context(error):
        return None
    found = named(_message(error), sent)
    if isinstance(error.param, str) and error.param in sent:
        found.add(error.param)
    # A failure of another kind says so by naming nothing.
    return found if found or error.status_code in (400, 422) else None


def named(message: str, sent: Iterable[str]) -> set[str]:
    """Which of the fields a message names."""
    return {name for name in sent if _is_named(name, message)}


def _of_status(error: Any, status: int, *, where: str, sent: Iterable[str]) -> LLMLabError:
    message = _message(error)
    said = f"{where} answers {status}: {message}"
    code = error.code if isinstance(error.code, str) else None
    if status == 401 or (status == 403 and not named(message, sent)):
        return LLMLabError(f"{said}; is this its api_key?", code="invalid_api_key", status=status)
    if status == 404:
        if "model" in message.lower():
            return ModelNotFoundError(said, param="model")
        return LLMLabError(f"{said}; does its address end in /v1?", code="not_found", status=404)
    if status == 429:
        return EngineError(f"{said}; fewer requests at once: connect(..., concurrency=)", code=code, status=429)
    param = _param(error.param, message, sent)
    if _is_context(error):
        return ContextLengthError(said, param=param)
    if status in (400, 403, 413, 415, 422) or param is not None:
        return RequestError(said, param=param, code=code, status=status)
    return EngineError(said, code=code, status=502)


def _is_context(error: Any) -> bool:
    return error.status_code in (400, 413, 422) and (
        error.code == "context_length_exceeded" or bool(_CONTEXT.search(_message(error)))
    )


def _param(said: Any, message: str, sent: Iterable[str]) -> str | None:
    """The field to blame: the one that the endpoint says, else the first one that its message names."""
    if isinstance(said, str) and said in ChatRequest.model_fields:
        return said
    places = {name: message.find(name) for name in named(message, sent)}
    return min(places, key=places.__getitem__, default=None)


def _is_named(name: str, message: str) -> bool:
    if name in _WORDS:
        return bool(re.search(rf"""['"`]{name}\b|^{name}:|\b{name} (must|should|is|=|>)|\bbody\.{name}\b""", message))
    return bool(re.search(rf"(?<![A-Za-z0-9_]){name}(?![A-Za-z0-9_])", message))


def _message(error: Any) -> str:
    body = error.body
    found = _text(body.get("error", body) if isinstance(body, Mapping) else body) if body else ""
    return found or str(error.message)


def _text(said: Any) -> str:
    """What an error's body says: its message, or FastAPI's list of what is wrong and where."""
    if isinstance(said, Mapping):
        return _text(next((said[name] for name in ("message", "detail", "error", "msg") if said.get(name)), ""))
    if isinstance(said, list):
        rows = [each if isinstance(each, Mapping) else {"msg": each} for each in said]
        return "; ".join(f"{'.'.join(map(str, row.get('loc') or ()))}: {row.get('msg')}" for row in rows)
    return str(said)
