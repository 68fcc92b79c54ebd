"""Validated requests, immutable. `llmlab.protocol.fields` is the table of their fields.

`ChatRequest` has messages, which the model's chat template turns into a prompt; `PromptRequest` has the prompt itself.

A field that is out of range, of the wrong type or unknown raises a `RequestError` whose `param` is the top-level field
and whose message has the path, what was expected and what was found. Python and HTTP use the same validation.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

from pydantic import ConfigDict, ValidationError

from llmlab.errors import RequestError, cut, short
from llmlab.protocol import export
from llmlab.protocol.checks import FieldError, checked
from llmlab.protocol.conversations import begins_with_system, with_system
from llmlab.protocol.fields import NO_EFFECT, ChatFields, PromptFields, SharedFields
from llmlab.protocol.schemas import schema_of
from llmlab.sampling.registry import further_stages, user_fields

__all__ = ["CONSTRAINTS", "ChatRequest", "PromptRequest", "Request", "described"]

#: What older versions of the API and other engines call a field. This is a better hint than a name that looks alike.
_ELSEWHERE = {
    "guided_json": "response_format",
    "system": "messages",
    "input": "messages",
    "max_new_tokens": "max_tokens",
    "num_return_sequences": "n",
    "best_of": "n",
}

#: Fields of the API that are not here. A null there asks for nothing, as in every field.
_REFUSED = {
    "audio": "this engine writes text only",
    "functions": "it is the older form of tools: give tools",
    "function_call": "it is the older form of tool_choice: give tool_choice",
    "web_search_options": "this engine does not search",
}

#: Fields that decide which tokens can be drawn at all, besides `tool_choice`; a request has at most one of them.
CONSTRAINTS = ("response_format", "structured_outputs", "bad_words", "allowed_token_ids")

R = TypeVar("R", bound="SamplingRequest")

#: The default address of `llmlab serve`, and its default model.
_SERVED, _MODEL = "http://127.0.0.1:8000/v1", "demo"


def described(description: str) -> Callable[[dict[str, Any]], None]:
    """Adds to the JSON schema of a request what it is, and the fields of the stages that a user has defined."""

    def add(schema: dict[str, Any]) -> None:
        schema |= {"description": description, "additionalProperties": False}
        more = {name: {**schema_of(field), "default": field.default} for name, field in user_fields().items()}
        schema["properties"] = {**schema["properties"], **more}

    return add


class SamplingRequest(SharedFields):
    """What the two kinds of request share: all fields except those that say what is to be answered.

    None stands for a field's default everywhere, as in the API.
    """

    #: The required field, and what the error for a missing one says.
    subject: ClassVar[str]
    missing: ClassVar[str]

    def __init__(self, /, **fields: Any) -> None:
        users = user_fields() if fields.keys() - type(self).model_fields.keys() else {}
        for name, value in fields.items():
            if (
                name not in type(self).model_fields
                and name not in users
                and (value is not None or name not in _REFUSED)
            ):
                raise RequestError(self._unknown(name), param=str(name))
        given = {name: value for name, value in fields.items() if value is not None and name not in _REFUSED}
        given |= {name: checked(users[name], name, given[name]) for name in users if name in given}
        if self.subject not in given:
            raise RequestError(f"{self.subject} is missing: {self.missing}", param=self.subject)
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise _request_error(error) from None
        self._agree()

    @classmethod
    def names(cls) -> list[str]:
        """The names of the fields, the required one first, then the model, then those of this kind of request."""
        own = cls.model_fields.keys() - SamplingRequest.model_fields.keys()
        return sorted(cls.model_fields, key=lambda name: (name != cls.subject, name != "model", name not in own))

    def replace(self: R, **changes: Any) -> R:
        """Returns a new, validated request with some fields changed; None resets a field to its default."""
        return type(self)(**{**self._given(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """The request as API JSON: the fields that were given, lists for tuples, strings for token ids."""
        plain = self.model_dump(mode="json", exclude_unset=True)
        return {name: plain[name] for name in (*self.names(), *(self.model_extra or {})) if name in plain}

    def to_json(self, *, indent: int | None = None) -> str:
        """The request as the API's JSON: what a POST would send."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    @property
    def token_limit(self) -> int | None:
        """`max_tokens` under either of its names; None if only the context limits the answer."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """`stop` as a tuple, empty where there is none."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def constraints(self) -> tuple[str, ...]:
        """The names of those `CONSTRAINTS` that are given, without a response_format of plain text."""
        plain = self.response_format is not None and self.response_format["type"] == "text"
        given = (name for name in CONSTRAINTS if getattr(self, name) is not None)
        return tuple(name for name in given if not (plain and name == "response_format"))

    def _given(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.names() if name in self.model_fields_set}
        return {**own, **(self.model_extra or {})}

    @classmethod
    def _unknown(cls, name: Any) -> str:
        if name in _REFUSED:
            return f"{name} is not supported: {_REFUSED[name]}"
        near = difflib.get_close_matches(str(name), [*cls.model_fields, *user_fields()], n=1, cutoff=0.6)
        meant = _ELSEWHERE.get(str(name)) or (near[0] if near else None)
        known = meant in cls.model_fields or meant in user_fields()
        hint = f"did you mean {meant!r}?" if known else f"the fields are {', '.join(cls.names())}"
        return f"unknown field {name!r}; {hint}"

    def _agree(self) -> None:
        """Checks that concern several fields."""
        limit, other = self.max_tokens, self.max_completion_tokens
        if limit is not None and other is not None and limit != other:
            raise RequestError(
                f"max_tokens is {limit} and max_completion_tokens {other}: they are two names of one field, give one",
                param="max_tokens",
            )
        if self.token_limit is not None and self.min_tokens > self.token_limit:
            raise RequestError(
                f"min_tokens must not exceed max_tokens ({self.token_limit}), got {self.min_tokens}",
                param="min_tokens",
            )
        # bad_words and allowed_token_ids are one filter; a grammar beside it could be left without any token.
        if len(self.constraints) > 1 and set(self.constraints) != {"bad_words", "allowed_token_ids"}:
            first, second = self.constraints[:2]
            raise RequestError(f"{second} cannot be combined with {first}; give one of them", param=second)
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs=true", param="top_logprobs")
        if self.logprob_token_ids and not self.logprobs:
            raise RequestError("logprob_token_ids needs logprobs=true", param="logprob_token_ids")
        if self.kept_logprobs and not self.logprobs:
            raise RequestError("kept_logprobs needs logprobs=true", param="kept_logprobs")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream=true", param="stream_options")
        self._agree_on_negative()

    def _agree_on_negative(self) -> None:
        """Checks that a negative prompt is read by a stage that the request names."""
        given, readers = self._given(), [stage for stage in further_stages() if stage.reads_negative]
        read = any(not stage.fields or any(one.name in given for one in stage.fields) for stage in readers)
        if self.negative_prompt is not None and not read:
            raise RequestError(
                "negative_prompt would have no effect: give guidance_scale or contrastive_strength with it",
                param="negative_prompt",
            )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in user_fields():  # not given
                return user_fields()[name].default
            raise

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={short(value)}" for name, value in self._given().items())
        return f"{type(self).__name__}({given})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        fields = type(self).model_fields
        # An empty default is {} for some fields and null for others; a reader expects null.
        defaults = {name: None if fields[name].is_required() else fields[name].default for name in self.names()}
        plain = {name: value if isinstance(value, str | int | float) else None for name, value in defaults.items()}
        return export.as_table(type(self).__name__, self.to_dict(), defaults=plain, without_effect=NO_EFFECT)


class ChatRequest(SamplingRequest, ChatFields):
    """A validated chat-completion request, immutable; the fields are spelled as the API spells them.

    None stands for a field's default everywhere, as in the API. `build` also takes a plain string for the messages.

    Raises:
        RequestError: a field is wrong; the error names the first that is.
    """

    model_config = ConfigDict(
        json_schema_extra=described("A chat-completion request; a field that is not known is an error.")
    )

    subject: ClassVar[str] = "messages"
    missing: ClassVar[str] = "give at least one message"

    @classmethod
    def build(cls, messages: str | Sequence[Any], **fields: Any) -> ChatRequest:
        """Returns a request from messages, or from a plain string (one user message), and any fields."""
        chat = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return cls(**{"messages": chat, **fields})

    def to_openai(self, *, base_url: str = _SERVED, model: str = _MODEL) -> str:
        """A Python program that sends this request with the `openai` package; extension fields go into `extra_body`.

        Args:
            base_url: the endpoint's address; by default, that of `llmlab serve`.
            model: the model's name where the request has none, because an endpoint needs one.
        """
        return export.as_openai_call(self._named(model), base_url=base_url)

    def to_curl(self, *, base_url: str = _SERVED, model: str = _MODEL) -> str:
        """A shell command that sends this request with curl; the arguments are those of `to_openai`."""
        return export.as_curl(self._named(model), base_url=base_url)

    def _named(self, model: str) -> dict[str, Any]:
        return {"model": model, **self.to_dict()}

    def _agree(self) -> None:
        super()._agree()
        if self.continue_final_message and self.messages[-1]["role"] != "assistant":
            raise RequestError(
                f"continue_final_message needs a last message of the assistant's, got {self.messages[-1]['role']!r}",
                param="continue_final_message",
            )
        if self.continue_final_message and self.messages[-1]["content"] is None:
            raise RequestError(
                "continue_final_message needs text to go on with, and the last message has none",
                param="continue_final_message",
            )
        names = [tool["function"]["name"] for tool in self.tools or ()]
        if self.tool_choice not in (None, "none") and not names:
            raise RequestError("tool_choice needs tools", param="tool_choice")
        if not self.parallel_tool_calls and not names:
            raise RequestError("parallel_tool_calls=false needs tools", param="parallel_tool_calls")
        if isinstance(self.tool_choice, dict) and self.tool_choice["function"]["name"] not in names:
            wanted = self.tool_choice["function"]["name"]
            raise RequestError(
                f"tool_choice names {short(wanted)}; the tools are {cut(', '.join(names))}", param="tool_choice"
            )


class PromptRequest(SamplingRequest, PromptFields):
    """A validated request to continue a raw prompt, without a chat template; immutable.

    It has the fields of a `ChatRequest` except those about messages and tools: `prompt` stands in their place, a text
    or the token ids themselves (a list, or an array of one axis). For code that handles both kinds of request,
    `messages` is empty and there are no tools.

    Raises:
        RequestError: a field is wrong; the error names the first that is.
    """

    model_config = ConfigDict(
        json_schema_extra=described("A request to continue a raw prompt; a field that is not known is an error.")
    )

    subject: ClassVar[str] = "prompt"
    missing: ClassVar[str] = "give a text or token ids"
    messages: ClassVar[tuple[dict[str, Any], ...]] = ()
    tools: ClassVar[None] = None
    tool_choice: ClassVar[None] = None
    parallel_tool_calls: ClassVar[bool] = True

    @classmethod
    def build(cls, prompt: Any, **fields: Any) -> PromptRequest:
        """Returns a request from a text or from token ids, and any fields."""
        return cls(**{"prompt": prompt, **fields})

    def _agree(self) -> None:
        super()._agree()
        if isinstance(self.negative_prompt, tuple) and isinstance(self.negative_prompt[0], dict):
            raise RequestError(
                "negative_prompt of a raw prompt is a text or token ids: messages belong to a chat",
                param="negative_prompt",
            )

    @classmethod
    def _unknown(cls, name: Any) -> str:
        if name in ChatRequest.model_fields or name == "system":
            return f"{name} belongs to a chat: a raw prompt has no messages, and no template that could read it"
        return super()._unknown(name)


#: Either kind of request.
Request: TypeAlias = ChatRequest | PromptRequest


def _request_error(error: ValidationError) -> RequestError:
    first = error.errors()[0]
    field = str(first["loc"][0])
    bad = first.get("ctx", {}).get("error")
    path = bad.path if isinstance(bad, FieldError) else ""
    return RequestError(f"{field}{cut(path)} {cut(str(bad or first['msg']))}", param=field)


def build_request(
    messages: str | Sequence[Any] | Request | None = None, *, system: Any = None, **fields: Any
) -> Request:
    """Returns the validated request for messages or for a raw prompt.

    Args:
        messages: the user's text, or a list of messages as the API has them, or a request to change.
        system: the text of a system message in front of the messages; of a request to change, it takes the place of the
            system message that is there.
        fields: the request's fields, spelled as the API spells them; `prompt` (a raw text or token ids) replaces the
            messages.

    Raises:
        RequestError: a field is unknown, of the wrong type or out of range, or there are two system messages; the
            message names it.
    """
    if system is not None:
        return _with_system(messages, system, fields)
    if isinstance(messages, ChatRequest | PromptRequest):
        return messages.replace(**fields) if fields else messages
    if fields.get("prompt") is None:
        fields.pop("prompt", None)
        if messages is None and fields.get("messages") is None:
            raise RequestError(
                "messages is missing: give a text or a list of messages, or a prompt=, a raw text", param="messages"
            )
        return ChatRequest(**fields) if messages is None else ChatRequest.build(messages, **fields)
    if messages is not None:
        raise RequestError("give messages or a prompt, not both", param="prompt")
    return PromptRequest(**fields)


def _with_system(messages: Any, system: Any, fields: dict[str, Any]) -> Request:
    """The request with a system message in front of its messages."""
    if isinstance(messages, PromptRequest) or fields.get("prompt") is not None:
        raise RequestError("system belongs to a chat: a raw prompt has no messages", param="system")
    if isinstance(messages, ChatRequest):
        return messages.replace(**fields, messages=with_system(messages.messages, system))
    said = fields.pop("messages", None) if messages is None else messages
    if said is None:
        return build_request(None, **fields)  # which names what is missing
    if begins_with_system(said):
        raise RequestError(
            "system and a system message at the beginning of messages: give one of the two", param="system"
        )
    checked = ChatRequest.build(said, **fields)
    return checked.replace(messages=with_system(checked.messages, system))
