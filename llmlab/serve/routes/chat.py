"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmlab.protocol.backend import Stream
from llmlab.protocol.chunks import chunks
from llmlab.protocol.request import ChatRequest, Request
from llmlab.protocol.wire import completion_json
from llmlab.serve.answers import ChatCompletion, ChatCompletionChunk, Event
from llmlab.serve.route import Generation


def _events(stream: Stream, request: Request) -> Iterator[dict[str, Any]]:
    yield from chunks(stream, options=request.stream_options)


CHAT = Generation(
    path="/v1/chat/completions",
    name="createChatCompletion",
    summary="Answer a conversation",
    description="A whole answer, or with `stream` its chunks as server-sent events, which end with `[DONE]`.",
    answer=ChatCompletion,
    event=Event,
    parts=(ChatCompletionChunk,),
    request=ChatRequest,
    example={"messages": [{"role": "user", "content": "Tell me a short story."}], "temperature": 0.8, "seed": 7},
    errors=(400, 404, 408, 413, 429, 500),
    read=lambda fields: ChatRequest(**fields),
    whole=completion_json,
    events=_events,
)
