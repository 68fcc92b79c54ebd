"""`POST /v1/responses`: an answer in the form of the Responses API, without anything stored."""

from __future__ import annotations

from llmlab.serve.responses.answer import response_json
from llmlab.serve.responses.events import events
from llmlab.serve.responses.request import ResponsesRequest
from llmlab.serve.responses.shapes import Response, ResponseEvent
from llmlab.serve.responses.truncation import start
from llmlab.serve.route import Generation

RESPONSES = Generation(
    path="/v1/responses",
    name="createResponse",
    summary="Answer a conversation, as a Response",
    description="A whole answer, or with `stream` its events as server-sent events. Nothing is stored; stored answers, "
    "hosted tools and inputs other than text are refused by name.",
    answer=Response,
    event=ResponseEvent,
    request=ResponsesRequest,
    example={"input": "Tell me a short story.", "temperature": 0.8},
    errors=(400, 404, 408, 413, 429, 500),
    read=lambda fields: ResponsesRequest(**fields).chat(),
    start=start,
    whole=response_json,
    events=lambda stream, _: events(stream),
    tells_failure=True,
)
