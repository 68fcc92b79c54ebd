"""The fields of a Responses request: each is stated once, with its check and its JSON schema.

Those that a chat request has too, and that mean the same there, are the chat request's own declarations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

from llmlab.protocol.fields import Fieldspec, without_effect
from llmlab.protocol.request import ChatRequest
from llmlab.serve.responses import schemas
from llmlab.serve.responses.items import check_input
from llmlab.serve.responses.parts import (
    INCLUDES,
    check_cache_options,
    check_include,
    check_metadata,
    check_reasoning,
    check_stream_options,
    check_text_config,
    check_tool_choice,
    check_tools,
    refusal,
)

#: Fields of a chat request that are spelled otherwise here, or that an answer of one message has no use for.
ELSEWHERE = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "n": "",
    "logprobs": "include",
    "response_format": "text",
    "reasoning_effort": "reasoning",
    "verbosity": "text",
    "separate_reasoning": "",
    "modalities": "",
    "prediction": "",
}

#: Fields of a chat request that are declared anew below.
_ANEW = frozenset({"tools", "tool_choice", "top_logprobs", "stream", "stream_options", "metadata"})

#: The fields that are passed to the chat request as they are.
PASSED = tuple(name for name in ChatRequest.model_fields if name not in ELSEWHERE and name not in _ANEW)


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


if TYPE_CHECKING:

    class _Shared(_Plain):
        def __getattr__(self, name: str) -> Any: ...

else:
    _Shared = create_model(
        "_Shared",
        __base__=_Plain,
        **{
            name: (Annotated[info.annotation, *info.metadata], info)
            for name, info in ChatRequest.model_fields.items()
            if name in PASSED
        },
    )


def _refused(text: str, reason: str, *neutral: Any) -> Fieldspec:
    """A field that is refused by its name, except for null and for values that ask for nothing."""
    return Fieldspec(
        "value", f"Refused: {text}", check=refusal(reason, neutral=neutral), schema={"enum": [None, *neutral]}
    )


class ResponsesFields(_Shared):
    """The fields of a Responses request."""

    input: Annotated[
        str | tuple[dict[str, Any], ...],
        Fieldspec(
            "value",
            "A text, or items: messages, reasoning, function calls and their outputs.",
            check=check_input,
            schema=schemas.INPUT,
            required=True,
        ),
    ]
    instructions: Annotated[str | None, Fieldspec("text", "A system message before the input.")] = None
    max_output_tokens: Annotated[
        int | None,
        Fieldspec(
            "integer", "The most tokens to generate, reasoning included; by default, what the context has left.", low=1
        ),
    ] = None
    tools: Annotated[
        tuple[dict[str, Any], ...],
        Fieldspec("value", "Functions that the model may call.", check=check_tools, schema=schemas.TOOLS),
    ] = ()
    tool_choice: Annotated[
        str | dict[str, Any] | None,
        Fieldspec(
            "value",
            "Whether a function may or must be called, or which; a required call is enforced by a grammar.",
            check=check_tool_choice,
            schema=schemas.TOOL_CHOICE,
        ),
    ] = None
    text: Annotated[
        dict[str, Any] | None,
        Fieldspec(
            "value",
            "`format`: what the answer must be, enforced by a grammar after the reasoning. "
            "`verbosity`: accepted, without effect.",
            check=check_text_config,
            schema=schemas.TEXT,
        ),
    ] = None
    reasoning: Annotated[
        dict[str, Any] | None,
        Fieldspec(
            "value",
            "`effort`: whether, or how much, the model reasons before it answers. `summary`: whether the reasoning is "
            "returned as the summary of its item; nothing shortens it.",
            check=check_reasoning,
            schema=schemas.REASONING,
        ),
    ] = None
    include: Annotated[
        tuple[str, ...],
        Fieldspec(
            "value",
            "`message.output_text.logprobs` adds the log-probability of each token. The other values are accepted, "
            "without effect.",
            check=check_include,
            schema=schemas.includes(*INCLUDES),
        ),
    ] = ()
    top_logprobs: Annotated[
        int | None,
        Fieldspec(
            "integer",
            "How many alternatives to return for each token; needs include=['message.output_text.logprobs'].",
            low=0,
            high=20,
        ),
    ] = None
    stream: Annotated[bool, Fieldspec("flag", "Whether to return events as the tokens are generated.")] = False
    stream_options: Annotated[
        dict[str, bool] | None,
        Fieldspec(
            "value",
            "`include_obfuscation`: accepted, without effect. Needs stream.",
            check=check_stream_options,
            schema=schemas.STREAM_OPTIONS,
        ),
    ] = None

    truncation: Annotated[
        Literal["disabled", "auto"],
        Fieldspec(
            "choice",
            "Whether an input that exceeds the context is refused or loses its oldest turns.",
            choices=("disabled", "auto"),
        ),
    ] = "disabled"

    metadata: Annotated[
        dict[str, str] | None,
        Fieldspec("value", "Texts that the answer repeats.", check=check_metadata, schema=schemas.METADATA),
    ] = None
    max_tool_calls: Annotated[int | None, without_effect("integer", low=1)] = None
    prompt_cache_options: Annotated[
        dict[str, Any] | None,
        without_effect("value", check=check_cache_options, schema=schemas.CACHE_OPTIONS),
    ] = None
    background_options: Annotated[dict[str, Any] | None, without_effect("object")] = None
    image: Annotated[dict[str, Any] | None, without_effect("object")] = None
    access_programs: Annotated[dict[str, Any] | None, without_effect("object")] = None

    previous_response_id: Annotated[
        str | None, _refused("no answer is stored.", "no answer is stored here; send the earlier items in `input`")
    ] = None
    conversation: Annotated[
        Any, _refused("no conversation is stored.", "nothing is stored here; send the earlier items in `input`")
    ] = None
    background: Annotated[
        bool | None, _refused("no answer is stored.", "no answer is stored here; use `stream`", False)
    ] = None
    prompt: Annotated[
        Any, _refused("no prompt is stored.", "no prompt is stored here; send its text in `instructions` or `input`")
    ] = None
    context_management: Annotated[
        Any, _refused("nothing compacts a conversation.", "nothing compacts a conversation here; use `truncation`", [])
    ] = None
    moderation: Annotated[Any, _refused("nothing moderates.", "there is no moderation model here")] = None
