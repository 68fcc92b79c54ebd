"""The answers of the Responses API as types, for the OpenAPI document. `answer` and `events` write these shapes.

A test validates real answers against the schemas of these types, so that the two cannot drift apart.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmlab.serve.answers import Count, PromptLogprobs, TokenLogprob

_TOKEN_IDS = "Extension, with return_token_ids."

Status = Literal["in_progress", "completed", "incomplete"]


class _Shape(BaseModel):
    """An object that has no other properties than these."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class _OpenShape(BaseModel):
    """An object that may gain properties in later versions."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class OutputText(_Shape):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[TokenLogprob] = Field(description="Empty, unless the request includes them.")


class OutputMessage(_Shape):
    """What the model answered."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Status
    content: list[OutputText]


class ReasoningText(_Shape):
    """The text of reasoning."""

    type: Literal["reasoning_text"]
    text: str


class SummaryText(_Shape):
    """The text of reasoning, in place of a summary."""

    type: Literal["summary_text"]
    text: str


class Reasoning(_Shape):
    """What the model wrote before it answered."""

    id: str
    type: Literal["reasoning"]
    status: Status
    content: list[ReasoningText] = Field(default_factory=list, description="Where the request asks for no summary.")
    summary: list[SummaryText] = Field(description="Where the request asks for a summary: the whole reasoning.")


class FunctionCall(_Shape):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str = Field(description="What the call's output refers to.")
    name: str
    arguments: str = Field(description="JSON text.")


class InputDetails(_Shape):
    """The tokens of the input that a cache held; they are not counted."""

    cached_tokens: Count
    cache_write_tokens: Count


class OutputDetails(_Shape):
    """Parts of the output."""

    reasoning_tokens: Count


class ResponseUsage(_Shape):
    """Numbers of tokens."""

    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


class Failure(_Shape):
    """Why a Response failed."""

    code: str
    message: str


class Incomplete(_Shape):
    """Why a Response is incomplete."""

    reason: Literal["max_output_tokens"]


class Response(_OpenShape):
    """A whole answer, with the request's fields."""

    id: Annotated[str, Field(pattern="^resp_")]
    object: Literal["response"]
    created_at: Count
    completed_at: Count | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: Failure | None
    incomplete_details: Incomplete | None
    model: str
    output: list[OutputMessage | Reasoning | FunctionCall]
    usage: ResponseUsage | None
    seed: int = Field(description="Extension: the seed that was used.")
    system_fingerprint: str = Field(description="Extension: what the answer depends on besides the request.")
    prompt_token_ids: list[Count] = Field(default_factory=list, description=_TOKEN_IDS)
    token_ids: list[Count] = Field(default_factory=list, description=_TOKEN_IDS)
    prompt_logprobs: PromptLogprobs


class ResponseEvent(_OpenShape):
    """A server-sent event; the last one is `response.completed`, `response.incomplete` or `response.failed`."""

    event: str = Field(description="The event's type, such as `response.output_text.delta`.")
    data: Annotated[
        Any,
        Field(
            description="The event as JSON, with its `type`, its `sequence_number` and what the API says of it.",
            json_schema_extra={
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {
                    "type": "object",
                    "properties": {
                        "type": {"type": "string"},
                        "sequence_number": {"type": "integer", "minimum": 0},
                        "response": {"$ref": "#/components/schemas/Response"},
                    },
                    "required": ["type", "sequence_number"],
                },
            },
        ),
    ]
