"""`truncation`: an input that exceeds the context loses its oldest turns, if the request says so."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.errors import ContextLengthError, LLMLabError
from llmlab.protocol.backend import Backend
from llmlab.protocol.request import ChatRequest
from llmlab.serve.responses.request import AskedChat
from llmlab.serve.responses.stream import ResponseStream


def start(backend: Backend, request: AskedChat) -> ResponseStream:
    """Starts a request. With truncation "auto", it drops as few of the oldest turns as make the rest fit.

    A turn begins with a user's message; system messages are kept, and so is the last turn.

    Raises:
        LLMLabError: the backend refuses the request; with truncation "auto", not even the last turn fits. The error
            names the fields of the request that was made.
    """
    try:
        return ResponseStream(backend.answer(request.chat), request)
    except ContextLengthError as error:
        fitted = _fitted(backend, request) if error.param == "messages" else None
        if fitted is None:
            raise request.explained(error) from None
        return ResponseStream(backend.answer(fitted.chat), fitted)
    except LLMLabError as error:
        raise request.explained(error) from None


def _fitted(backend: Backend, request: AskedChat) -> AskedChat | None:
    asked = request.responses
    if asked.truncation != "auto" or isinstance(asked.input, str):
        return None
    turns = _turns(asked.input)
    # A longer input never fits where a shorter one does not.
    first = bisect_left(turns, True, key=lambda at: _fits(backend, asked.chat(first=at).chat))
    return None if first == len(turns) else asked.chat(first=turns[first])


def _turns(items: Sequence[Mapping[str, Any]]) -> list[int]:
    """The items at which a turn begins, except the first of them."""
    return [index for index, item in enumerate(items) if item.get("role") == "user"][1:]


def _fits(backend: Backend, request: ChatRequest) -> bool:
    try:
        backend.stream(request).close()
    except ContextLengthError:
        return False
    return True
