"""A stream as the events of a Response, yielded as the tokens are made.

Every item of the output is announced, filled and finished before the next one begins. The last event holds the whole
Response.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmlab.errors import LLMLabError
from llmlab.serve.responses.answer import begun, is_cut, response_json
from llmlab.serve.responses.items_json import Json
from llmlab.serve.responses.output import Output
from llmlab.serve.responses.stream import Responding


def events(stream: Responding) -> Iterator[Json]:
    """Yields the events of a stream: valid `openai.types.responses.RespondingEvent`s, as dicts.

    Args:
        stream: a stream from which nothing has been read yet.

    Raises:
        LLMLabError: the run failed; the last event was `response.failed`.
    """
    numbered = _Numbered()
    asked = stream.asked.responses
    first = begun(stream.header, asked)
    yield numbered("response.created", response=first)
    yield numbered("response.in_progress", response=first)
    output = Output(stream.header, summary=asked.wants_summary)
    try:
        for delta in stream:
            for event in output.add(delta):
                yield numbered(**event)
        answer = stream.result()
    except LLMLabError as error:
        failed = {"status": "failed", "error": {"code": "server_error", "message": error.message}}
        yield numbered("response.failed", response={**first, **failed, "output": output.items})
        raise
    for event in output.end(cut=is_cut(answer.completion)):
        yield numbered(**event)
    response = response_json(answer)
    yield numbered(f"response.{response['status']}", response=response)


class _Numbered:
    """Gives each event its number."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, type: str, **fields: Any) -> Json:
        self._next += 1
        return {"type": type, "sequence_number": self._next - 1, **fields}
