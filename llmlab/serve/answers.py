"""The responses as types, for the OpenAPI document. `protocol/wire.py` and `protocol/chunks.py` write these shapes.

A test validates real responses against the schemas of these types, so that the two cannot drift apart.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Byte = Annotated[int, Field(ge=0, le=255)]


class _Shape(BaseModel):
    """An object that has no other properties than these."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class _OpenShape(BaseModel):
    """An object that may gain properties in later versions."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Alternative(_OpenShape):
    """A token that could have stood at a position."""

    token: str = Field(description="The bytes read as UTF-8, with U+FFFD for bytes that are not UTF-8.")
    token_id: Count
    bytes: list[Byte] | None = Field(description="The token's bytes; null for a control token, which has no text.")
    logprob: float | None = Field(
        description="Of the model's own distribution, before every stage; -9999 for minus infinity."
    )
    sampling_logprob: float | None = Field(description="Of the distribution that the token was drawn from.")


class TokenLogprob(Alternative):
    """A token of the answer with its statistics."""

    rank: int | None = Field(description="In the model's own distribution, from 1.")
    entropy: float | None = Field(description="Of the model's own distribution, in nats.")
    kept: int | None = Field(description="The number of tokens that could have been drawn.")
    lead: Count = Field(description="Bytes at the token's start that lie outside the text.")
    overhang: Count = Field(description="Bytes at the token's end that lie outside the text.")
    top_logprobs: list[Alternative]
    kept_logprobs: list[Alternative] | None = Field(
        default=None,
        description="Extension, with kept_logprobs: the tokens that could have been drawn; null where some of them are "
        "not among the 20 likeliest of the model's own distribution.",
    )


class Logprobs(_OpenShape):
    """The tokens of a choice, in the lists of the texts that they belong to."""

    content: list[TokenLogprob]
    reasoning: list[TokenLogprob] = Field(default_factory=list, description="Extension.")
    tool_calls: list[TokenLogprob] = Field(default_factory=list, description="Extension.")
    end: list[TokenLogprob] = Field(default_factory=list, description="Extension: the end token, where there is one.")


class Function(_Shape):
    """The function that a tool call names."""

    name: str
    arguments: str = Field(description="JSON text.")


class ToolCall(_Shape):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: Function


class FunctionDelta(_Shape):
    """A piece of a call: its name at the start, then pieces of its arguments."""

    name: str | None = None
    arguments: str


class ToolCallDelta(_Shape):
    """A piece of a tool call in a stream."""

    index: Count
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Message(_Shape):
    """What the model answered."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = Field(default=None, description="Extension, with separate_reasoning.")
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class Delta(_Shape):
    """What is new of a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = Field(default=None, description="Extension, with separate_reasoning.")
    refusal: None = None
    tool_calls: list[ToolCallDelta] | None = None


FinishReason = Literal["stop", "length", "tool_calls"]


_TOKEN_IDS = "Extension, with return_token_ids."


class Choice(_Shape):
    """One of the `n` answers."""

    index: Count
    message: Message
    finish_reason: FinishReason
    logprobs: Logprobs | None
    token_ids: list[Count] | None = Field(default=None, description=_TOKEN_IDS)


class ChunkChoice(_Shape):
    """What is new of one of the `n` answers."""

    index: Count
    delta: Delta
    finish_reason: FinishReason | None
    logprobs: Logprobs | None
    token_ids: list[Count] | None = Field(default=None, description=_TOKEN_IDS)


class Usage(_Shape):
    """Numbers of tokens."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


CompletionId = Annotated[str, Field(pattern="^chatcmpl-")]


class PromptLogprob(_Shape):
    """A token at a position of the prompt: its own, or one of the likeliest."""

    logprob: float | None
    rank: Count
    decoded_token: str


PromptLogprobs = Annotated[
    list[dict[str, PromptLogprob] | None],
    Field(
        default_factory=list,
        description="Extension, as in vLLM: per token of the prompt, token id -> logprob; null for the first.",
    ),
]


class ChatCompletion(_Shape):
    """A whole answer."""

    id: CompletionId
    object: Literal["chat.completion"]
    created: Count
    model: str
    system_fingerprint: str
    seed: int = Field(description="Extension: the seed that was used.")
    prompt_token_ids: list[Count] | None = Field(default=None, description=_TOKEN_IDS)
    choices: list[Choice]
    prompt_logprobs: PromptLogprobs
    usage: Usage


class ChatCompletionChunk(_Shape):
    """What each event of a stream holds, except the last, which is `[DONE]`."""

    id: CompletionId
    object: Literal["chat.completion.chunk"]
    created: Count
    model: str
    system_fingerprint: str = ""
    seed: int | None = Field(default=None, description="Extension: the seed that was used, on the last finish chunk.")
    prompt_token_ids: list[Count] | None = Field(
        default=None, description="As in the whole answer; on the first chunk."
    )
    choices: list[ChunkChoice]
    prompt_logprobs: PromptLogprobs
    usage: Usage | None = None


class ErrorDetail(_Shape):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The field to blame; `body` for the body as a whole.")
    code: str | None


class Error(_Shape):
    """Every answer that is not a success; in a stream, an event."""

    error: ErrorDetail


def event_data(*chunks: str) -> dict[str, Any]:
    """Returns the schema of an event's data: the JSON of one of these types or of an error, or the end mark."""
    kinds = [{"$ref": f"#/components/schemas/{name}"} for name in (*chunks, "Error")]
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": kinds}}
    return {"anyOf": [text, {"const": "[DONE]"}]}


_EVENT = "A chunk, or an error that occurred on the way, as JSON; at the end `[DONE]`."


class Event(_OpenShape):
    """A server-sent event."""

    data: Annotated[Any, Field(description=_EVENT, json_schema_extra=event_data("ChatCompletionChunk"))]


class Model(_Shape):
    """The loaded model."""

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str
    context_length: int | None = Field(default=None, description="Extension: tokens of prompt and answer together.")
    dtype: str | None = Field(default=None, description="Extension.")
    parent: str | None = Field(default=None, description="Extension: the model that an adapter belongs to.")


class ModelList(_Shape):
    """The list of loaded models."""

    object: Literal["list"]
    data: list[Model]


class Tokenized(_Shape):
    """The tokens of a text."""

    count: Count
    max_model_len: Count | None = Field(description="Tokens of prompt and answer together.")
    tokens: list[Count]
    token_strs: list[str] | None = Field(
        description="With return_token_strs: their texts; a piece of a character is written as `bytes:` and its bytes."
    )


class Rendered(_Shape):
    """A text as the model sees it."""

    prompt: str


class Health(_Shape):
    """The state of the server."""

    status: Literal["ok"]
    model: str
    requests: Count = Field(description="The requests that are being answered or wait.")
