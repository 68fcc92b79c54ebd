"""`POST /v1/completions`: raw prompts, without a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmlab.protocol.completions_request import CompletionsFields, CompletionsRequest
from llmlab.protocol.text_completion import TextStream, text_chunks, text_completion_json
from llmlab.serve.route import Generation
from llmlab.serve.text_answers import TextCompletion, TextCompletionChunk, TextEvent
from llmlab.serve.text_stream import start


def _events(stream: TextStream, request: CompletionsRequest) -> Iterator[dict[str, Any]]:
    yield from text_chunks(stream, options=request.stream_options)


COMPLETIONS = Generation(
    path="/v1/completions",
    name="createCompletion",
    summary="Continue raw prompts",
    description="Whole answers, or with `stream` their chunks as server-sent events, which end with `[DONE]`. "
    "`echo` with `logprobs` and a `max_tokens` of 0 scores the prompts and generates nothing.",
    answer=TextCompletion,
    event=TextEvent,
    parts=(TextCompletionChunk,),
    request=CompletionsFields,
    example={"prompt": "Once upon a time", "max_tokens": 32, "temperature": 0.8, "seed": 7},
    errors=(400, 404, 408, 413, 429, 500),
    read=CompletionsRequest.read,
    start=start,
    whole=text_completion_json,
    events=_events,
)
