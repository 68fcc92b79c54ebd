"""The table of request fields: each is stated once, here, or in the sampler's stage that it belongs to.

A `Fieldspec` in an annotation says what a field may be, what it means and how it is set by hand; from it come the check
and the JSON schema that pydantic uses. `FIELDS` is the whole table, for everything else that needs to know the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, create_model
from pydantic_core import core_schema

from llmlab.protocol.checks import check_of, check_prompt, check_stop, check_token_ids
from llmlab.protocol.parts import (
    check_bad_words,
    check_messages,
    check_modalities,
    check_negative_prompt,
    check_response_format,
    check_stream_options,
    check_structured_outputs,
    check_tool_choice,
    check_tools,
)
from llmlab.protocol.schemas import (
    BAD_WORDS,
    MESSAGES,
    MODALITIES,
    NEGATIVE_PROMPT,
    PROMPT,
    RESPONSE_FORMAT,
    STOP,
    STREAM_OPTIONS,
    STRUCTURED_OUTPUTS,
    TOKEN_IDS,
    TOOL_CHOICE,
    TOOLS,
    schema_of,
)
from llmlab.sampling.fields import Control, Field
from llmlab.sampling.library import LIBRARY_FIELDS
from llmlab.sampling.registry import further_fields, reserve
from llmlab.sampling.stages import FIELDS as STAGE_FIELDS

__all__ = ["EXTENSIONS", "FIELDS", "NO_EFFECT", "ChatFields", "PromptFields", "SharedFields", "field_named"]


class Fieldspec:
    """Annotates a model's field with everything about it except its name and its default, which the class has."""

    def __init__(self, kind: Any, text: str, *, required: bool = False, **more: Any) -> None:
        self.field = Field("", kind, text, **more)
        self.required = required

    @classmethod
    def of(cls, field: Field) -> Fieldspec:
        """The annotation of a field that a stage declares."""
        spec = cls(field.kind, field.text)
        spec.field = field
        return spec

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        return core_schema.no_info_before_validator_function(check_of(self.field), handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        return schema_of(self.field, required=self.required)


def without_effect(kind: Any, **more: Any) -> Fieldspec:
    """The annotation of a field that clients send and that cannot change a local engine's answer."""
    text, control = "Accepted, without effect on a local engine.", "no effect on a local engine"
    return Fieldspec(kind, text, effect="nothing", control=control, **more)


class _First(BaseModel):
    """The fields that every request has, up to those of the sampler's stages."""

    # A request refuses names that it does not know; the fields of stages that a user has defined are kept as extras.
    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    model: Annotated[
        str | None, Fieldspec("text", "The model's name; the loaded model is the default.", control="the lab's")
    ] = None
    max_tokens: Annotated[
        int | None,
        Fieldspec(
            "integer", "The most tokens to generate, reasoning included; by default, what the context has left.",
            low=1, control=Control("answer", "whole", empty="what the context has left"),
        ),
    ] = None  # fmt: skip
    max_completion_tokens: Annotated[
        int | None,
        Fieldspec("integer", "Another name of max_tokens.", low=1, control="max_tokens under its other name"),
    ] = None
    context_length_exceeded_behavior: Annotated[
        Literal["truncate", "error"],
        Fieldspec(
            "choice", "Whether a max_tokens that exceeds the context is lowered to what fits or refused.",
            choices=("truncate", "error"), extension=True, control=Control("more"),
        ),
    ] = "truncate"  # fmt: skip
    n: Annotated[
        int, Fieldspec("integer", "How many answers to generate.", low=1, high=128, control=Control("answer"))
    ] = 1
    seed: Annotated[
        int | None,
        Fieldspec(
            "integer", "Fixes the noise of sampling: the same seed gives the same answers; by default, drawn.",
            low=-(2**63), high=2**63 - 1, control=Control("answer", "whole", empty="drawn for each run"),
        ),
    ] = None  # fmt: skip
    stop: Annotated[
        str | tuple[str, ...] | None,
        Fieldspec(
            "value", "Ends the answer after the first of these that appears.",
            values="a text, or up to 4 texts", check=check_stop, schema=STOP,
            control=Control("answer", "text", empty='END, or ["\\n", "END"]'),
        ),
    ] = None  # fmt: skip


if TYPE_CHECKING:

    class _WithStages(_First):
        def __getattr__(self, name: str) -> Any: ...

else:
    _PYTHON = {"number": float, "integer": int, "flag": bool, "choice": str, "by_token": dict[int, float]}
    _PYTHON |= {"value": tuple[str, ...] | None}
    _WithStages = create_model(
        "_WithStages",
        __base__=_First,
        **{
            field.name: (
                Annotated[_PYTHON[field.kind], Fieldspec.of(field)],
                pydantic.Field(default_factory=dict) if field.kind == "by_token" else field.default,
            )
            for field in (*STAGE_FIELDS.values(), *LIBRARY_FIELDS.values())
        },
    )


class SharedFields(_WithStages):
    """The fields of every kind of request: all except those that say what is to be answered."""

    negative_prompt: Annotated[
        str | tuple[int, ...] | tuple[dict[str, Any], ...] | None,
        Fieldspec(
            "value", "What guidance_scale and contrastive_strength compare with; by default the prompt's last token.",
            values="a text, token ids, or (in a chat) messages", check=check_negative_prompt, schema=NEGATIVE_PROMPT,
            extension=True, effect="prompt", control=Control("more", "text", empty="the prompt’s last token"),
        ),
    ] = None  # fmt: skip
    logprobs: Annotated[
        bool,
        Fieldspec(
            "flag", "Whether to return the log-probability of each token, raw and in the distribution sampled from.",
            control="the token strip has the probabilities of every token anyway",
        ),
    ] = False  # fmt: skip
    top_logprobs: Annotated[
        int | None,
        Fieldspec(
            "integer", "How many alternatives to return for each token; needs logprobs.", low=0, high=20,
            control="the token strip has the alternatives of every token anyway",
        ),
    ] = None  # fmt: skip
    kept_logprobs: Annotated[
        bool,
        Fieldspec(
            "flag", "Whether to list the tokens that could be drawn at each position, where all are among the 20 most "
            "likely ones; needs logprobs.", extension=True, control="result.kept_frame() has them anyway",
        ),
    ] = False  # fmt: skip
    prompt_logprobs: Annotated[
        int | None,
        Fieldspec(
            "integer", "How many of the likeliest tokens to return at each position of the prompt, besides its own.",
            low=0, high=20, extension=True, control="it tells about the prompt, not about the answer",
        ),
    ] = None  # fmt: skip

    stream: Annotated[
        bool,
        Fieldspec(
            "flag", "Whether to return chunks as the tokens are generated (over HTTP; in Python, lab.stream).",
            control="the playground always streams",
        ),
    ] = False  # fmt: skip
    stream_options: Annotated[
        dict[str, bool] | None,
        Fieldspec(
            "value", "Options of a stream; needs stream.",
            values="`include_usage`, `continuous_usage_stats`: true or false", check=check_stream_options,
            schema=STREAM_OPTIONS,
            control="it changes how an answer is returned, not the answer",
        ),
    ] = None  # fmt: skip
    response_format: Annotated[
        dict[str, Any] | None,
        Fieldspec(
            "value", "What the answer must be, enforced by a grammar after the reasoning.",
            values="`text`, `json_object`, or `json_schema` with a schema", check=check_response_format,
            schema=RESPONSE_FORMAT, effect="prompt", control=Control("more", "json", empty='{"type": "json_object"}'),
        ),
    ] = None  # fmt: skip
    structured_outputs: Annotated[
        dict[str, Any] | None,
        Fieldspec(
            "value", "What the answer must be, as vLLM spells it; enforced like response_format.",
            values="one of `regex`, `choice`, `grammar` (Lark), `json` (a schema), `json_object`",
            check=check_structured_outputs, schema=STRUCTURED_OUTPUTS, extension=True, effect="prompt",
            control=Control("more", "json", empty='{"choice": ["yes", "no"]}'),
        ),
    ] = None  # fmt: skip
    bad_words: Annotated[
        tuple[str, ...] | None,
        Fieldspec(
            "value", "Texts that never arise in what is generated, however they are cut into tokens.",
            values="texts", check=check_bad_words, schema=BAD_WORDS, extension=True, effect="prompt",
            control=Control("more", "json", empty='["sorry"]'),
        ),
    ] = None  # fmt: skip
    allowed_token_ids: Annotated[
        tuple[int, ...] | None,
        Fieldspec(
            "value", "The only tokens that can be drawn; without an end token among them only a limit ends the answer.",
            values="token ids", check=check_token_ids, schema=TOKEN_IDS, extension=True, effect="prompt",
            control=Control("more", "json", empty="[42, 7]"),
        ),
    ] = None  # fmt: skip
    separate_reasoning: Annotated[
        bool,
        Fieldspec(
            "flag", "Whether reasoning is returned in reasoning_content instead of as part of the content.",
            extension=True, control=Control("more"),
        ),
    ] = False  # fmt: skip
    include_stop: Annotated[
        bool,
        Fieldspec(
            "flag", "Whether the answer keeps the stop sequence that ended it.", extension=True,
            control=Control("more"),
        ),
    ] = True  # fmt: skip
    ignore_eos: Annotated[
        bool,
        Fieldspec(
            "flag", "Whether to go on after an end token, up to max_tokens.", extension=True, control=Control("more")
        ),
    ] = False

    logprob_token_ids: Annotated[
        tuple[int, ...] | None,
        Fieldspec(
            "value", "Tokens that top_logprobs lists at every position, after the most likely ones; needs logprobs.",
            values="up to 20 token ids", check=partial(check_token_ids, most=20),
            schema={**TOKEN_IDS, "maxItems": 20}, extension=True,
            control="the token strip has the alternatives of every token anyway",
        ),
    ] = None  # fmt: skip
    stop_token_ids: Annotated[
        tuple[int, ...] | None,
        Fieldspec(
            "value", "Tokens that end the answer, as an end token does; one that has text stays in it, as a stop does.",
            values="token ids", check=check_token_ids, schema=TOKEN_IDS, extension=True,
            control=Control("more", "json", empty="[42, 7]"),
        ),
    ] = None  # fmt: skip
    return_token_ids: Annotated[
        bool,
        Fieldspec(
            "flag", "Whether to return prompt_token_ids, and token_ids with each choice.", extension=True,
            control="the frames have the ids of every token anyway",
        ),
    ] = False  # fmt: skip

    user: Annotated[str | None, without_effect("text")] = None
    metadata: Annotated[dict[str, Any] | None, without_effect("object")] = None
    store: Annotated[bool | None, without_effect("flag")] = None
    service_tier: Annotated[str | None, without_effect("text")] = None
    safety_identifier: Annotated[str | None, without_effect("text")] = None
    prompt_cache_key: Annotated[str | None, without_effect("text")] = None
    prompt_cache_retention: Annotated[str | None, without_effect("text")] = None


class ChatFields(SharedFields):
    """The fields of a chat request."""

    messages: Annotated[
        tuple[dict[str, Any], ...],
        Fieldspec(
            "value", "The conversation; keys that the API does not know go to the model's chat template.",
            values="system, developer, user, assistant, tool messages with text or text parts; in Python also a text",
            check=check_messages, schema=MESSAGES, effect="prompt", required=True, control="the prompt's own boxes",
        ),
    ]  # fmt: skip
    tools: Annotated[
        tuple[dict[str, Any], ...] | None,
        Fieldspec(
            "value", "Functions that the model may call.", values="function definitions", check=check_tools,
            schema=TOOLS, effect="prompt", control=Control("more", "json", empty='[{"type": "function", …}]'),
        ),
    ] = None  # fmt: skip
    tool_choice: Annotated[
        str | dict[str, Any] | None,
        Fieldspec(
            "value", "Whether a tool may or must be called, or which one; a required call is enforced by a grammar.",
            values="`none`, `auto`, `required`, or a named function", check=check_tool_choice, schema=TOOL_CHOICE,
            effect="prompt", control=Control("more", "text", empty="auto"),
        ),
    ] = None  # fmt: skip
    parallel_tool_calls: Annotated[
        bool,
        Fieldspec(
            "flag", "Whether an answer may hold more than one call; if false, it ends with the first. Needs tools.",
            effect="prompt", control=Control("more"),
        ),
    ] = True  # fmt: skip
    enable_thinking: Annotated[
        bool | None,
        Fieldspec(
            "flag", "Whether the model reasons before it answers; a model without this switch refuses the field.",
            extension=True, effect="prompt", control=Control("answer", "switch"),
        ),
    ] = None  # fmt: skip
    reasoning_effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None,
        Fieldspec(
            "choice", "How much the model reasons: the template's variable of this name, or else its switch, which "
            "`none` turns off and any other value on; a model with neither refuses the field.",
            choices=("none", "minimal", "low", "medium", "high", "xhigh"), effect="prompt",
            control=Control("more", "text", empty="the template’s default"),
        ),
    ] = None  # fmt: skip
    chat_template_kwargs: Annotated[
        dict[str, Any],
        Fieldspec(
            "object", "Variables for the model's chat template; one that it does not read is refused.",
            extension=True, effect="prompt", control=Control("more", "json", empty="{}"),
        ),
    ] = pydantic.Field(default_factory=dict)  # fmt: skip
    continue_final_message: Annotated[
        bool,
        Fieldspec(
            "flag", "Whether to continue the last message, which must be the assistant's.",
            extension=True, effect="prompt", control="the prompt is what the user says",
        ),
    ] = False  # fmt: skip
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None, without_effect("choice", choices=("low", "medium", "high"))
    ] = None
    modalities: Annotated[
        tuple[str, ...] | None,
        without_effect("value", values='`["text"]`', check=check_modalities, schema=MODALITIES),
    ] = None
    prediction: Annotated[dict[str, Any] | None, without_effect("object")] = None


class PromptFields(SharedFields):
    """The fields of a request that continues a raw prompt."""

    prompt: Annotated[
        str | tuple[int, ...],
        Fieldspec(
            "value", "The raw prompt, without a chat template, in place of messages (in Python).",
            values="a text, or token ids", check=check_prompt, schema=PROMPT, effect="prompt", required=True,
            extension=True, control="the prompt's own boxes",
        ),
    ]  # fmt: skip


def _table(*models: type[BaseModel]) -> Iterator[tuple[str, Field]]:
    for model in models:
        for name, info in model.model_fields.items():
            [spec] = (one for one in info.metadata if isinstance(one, Fieldspec))
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            yield name, replace(spec.field, name=name, default=default)


#: Every field of a request, by name.
FIELDS: Mapping[str, Field] = MappingProxyType(dict(_table(ChatFields, PromptFields)))
reserve(FIELDS)
#: Fields that the `openai` package does not know as arguments of its own; it sends them from `extra_body`.
EXTENSIONS = frozenset(name for name, field in FIELDS.items() if field.extension and name != "prompt")
#: Fields of the API that a local engine accepts, and that change nothing there.
NO_EFFECT = frozenset(name for name, field in FIELDS.items() if field.effect == "nothing")


def field_named(name: str) -> Field | None:
    """The field with this name, also that of a stage which a user has defined; None where there is none."""
    return FIELDS.get(name) or further_fields().get(name)
