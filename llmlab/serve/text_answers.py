"""The responses of `/v1/completions` as types, for the OpenAPI document; see `answers`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmlab.serve.answers import Count, PromptLogprobs, Usage, event_data

CompletionId = Annotated[str, Field(pattern="^cmpl-")]


class _Shape(BaseModel):
    """An object that has no other properties than these."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class TextLogprobs(_Shape):
    """The tokens of a text, as parallel lists; the tokens of the prompt come first where it is echoed."""

    tokens: list[str] = Field(description="A piece of a character is written as `bytes:` and its bytes.")
    token_logprobs: list[float | None] = Field(
        description="Of the model's own distribution; null for the first token of a prompt, -9999 for minus infinity."
    )
    top_logprobs: list[dict[str, float | None] | None] = Field(
        description="The likeliest tokens, and the token itself."
    )
    text_offset: list[Count] = Field(description="The character of the text at which each token begins.")


class TextChoice(_Shape):
    """An answer to a prompt."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]
    reasoning_content: str | None = Field(default=None, description="Extension, with separate_reasoning.")
    prompt_logprobs: PromptLogprobs
    prompt_token_ids: list[Count] | None = Field(default=None, description="Extension, with return_token_ids.")
    token_ids: list[Count] | None = Field(default=None, description="Extension, with return_token_ids.")


class TextChunkChoice(TextChoice):
    """What is new of an answer."""

    finish_reason: Literal["stop", "length"] | None  # type: ignore[assignment]


class TextCompletion(_Shape):
    """Whole answers to all prompts."""

    id: CompletionId
    object: Literal["text_completion"]
    created: Count
    model: str
    system_fingerprint: str
    seed: int = Field(description="Extension: the seed that was used.")
    choices: list[TextChoice]
    usage: Usage


class TextCompletionChunk(_Shape):
    """What each event of a stream holds, except the last, which is `[DONE]`."""

    id: CompletionId
    object: Literal["text_completion"]
    created: Count
    model: str
    system_fingerprint: str = ""
    seed: int | None = Field(default=None, description="Extension: the seed that was used, on the last finish chunk.")
    choices: list[TextChunkChoice]
    usage: Usage | None = None


class TextEvent(BaseModel):
    """A server-sent event."""

    model_config = ConfigDict(extra="allow")

    data: Annotated[
        Any,
        Field(
            description="A chunk, or an error that occurred on the way, as JSON; at the end `[DONE]`.",
            json_schema_extra=event_data("TextCompletionChunk"),
        ),
    ]
