"""A validated Responses request, and the chat request that it stands for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, PrivateAttr, ValidationError

from llmlab.errors import LLMLabError, RequestError, cut
from llmlab.protocol.checks import FieldError, checked
from llmlab.protocol.request import ChatRequest, described
from llmlab.sampling.registry import user_fields
from llmlab.serve.responses.fields import ELSEWHERE, PASSED, ResponsesFields
from llmlab.serve.responses.items import as_chat
from llmlab.serve.responses.parts import LOGPROBS, chat_format, chat_tool_choice


class ResponsesRequest(ResponsesFields):
    """A validated Responses request, immutable. None stands for a field's default everywhere, as in the API.

    Raises:
        RequestError: a field is wrong; the error names the first that is.
    """

    model_config = ConfigDict(
        json_schema_extra=described("A Responses request; a field that is not known is an error.")
    )

    #: The fields of stages that a user has defined, which are passed to the chat request as they are.
    _of_stages: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, /, **fields: Any) -> None:
        users = user_fields()
        for name in fields:
            if name not in type(self).model_fields and name not in users:
                raise RequestError(_unknown(name), param=str(name))
        given = {name: value for name, value in fields.items() if value is not None}
        of_stages = {name: checked(users[name], name, given.pop(name)) for name in users if name in given}
        if "input" not in given:
            raise RequestError("input is missing: give a text or a list of items", param="input")
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise _request_error(error) from None
        self._of_stages = of_stages
        for name in ("top_logprobs", "logprob_token_ids", "kept_logprobs"):
            if getattr(self, name) and not self.wants_logprobs:
                raise RequestError(f"{name} needs include=[{LOGPROBS!r}]", param=name)
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream=true", param="stream_options")

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer has the logprobs of its message."""
        return LOGPROBS in self.include

    @property
    def wants_summary(self) -> bool:
        """Whether the reasoning is returned as a summary."""
        return bool(self.reasoning) and not {"summary", "generate_summary"}.isdisjoint(self.reasoning or ())

    def chat(self, *, first: int = 0) -> AskedChat:
        """Returns the chat request that this one stands for.

        Args:
            first: the items of the input before this one are left out, except system messages.

        Raises:
            RequestError: fields that are right by themselves do not go together; the error names this request's fields.
        """
        chat = as_chat(self.input, instructions=self.instructions, first=first)
        fields: dict[str, Any] = {name: getattr(self, name) for name in PASSED if name in self.model_fields_set}
        fields |= self._of_stages
        fields |= {"messages": chat.messages, "stream": self.stream, "separate_reasoning": True}
        fields["max_tokens"] = self.max_output_tokens
        if self.wants_logprobs:
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        fields["reasoning_effort"] = (self.reasoning or {}).get("effort")
        if self.text and "format" in self.text:
            fields["response_format"] = chat_format(self.text["format"])
        try:
            fields |= chat_tool_choice(self.tool_choice, self.tools)
        except FieldError as bad:
            raise RequestError(f"tool_choice{cut(bad.path)} {bad}", param="tool_choice") from None
        if not self.tools:
            fields.pop("parallel_tool_calls", None)  # there is nothing that it could be about
        try:
            return AskedChat(self, ChatRequest(**fields), chat.places)
        except RequestError as error:
            raise renamed(error, chat.places) from None


@dataclass(frozen=True, eq=False)
class AskedChat:
    """A Responses request, and the chat request that it stands for.

    Attributes:
        responses: the request that was made.
        chat: what the backend is asked.
        places: where the parts of the messages stand in the request that was made: `messages[1]` -> `input[0]`.
    """

    responses: ResponsesRequest
    chat: ChatRequest
    places: Mapping[str, str]

    n: ClassVar[int] = 1  #: a Response is one answer

    @property
    def stream(self) -> bool:
        """Whether the answer is returned as events."""
        return self.responses.stream

    def explained(self, error: LLMLabError) -> LLMLabError:
        """Returns an error about the chat with the names that the fields have in the request that was made."""
        return renamed(error, self.places)


#: What a chat request calls the fields, and what they are called here.
_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text",
    "reasoning_effort": "reasoning",
    "logprobs": "include",
}
_PATHS = {
    **_NAMES,
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "reasoning_effort": "reasoning.effort",
}
#: A field with the path inside it, outside of quotes.
_FOUND = re.compile(r"""(?P<quoted>'[^']*'|"[^"]*")|\b(?P<path>[a-z_]+(?:\[\d+\]|\.[a-z_]+)*)""")


def renamed(error: LLMLabError, places: Mapping[str, str]) -> LLMLabError:
    """Returns an error about a chat request with the names that its fields have in the Responses request.

    Args:
        error: the error, whose message has the paths of the chat request.
        places: where the parts of the messages stand in the input.
    """
    longest_first = sorted({**_PATHS, **places}.items(), key=lambda item: -len(item[0]))

    def rename(found: re.Match[str]) -> str:
        path = found["path"]
        if path is None:
            return found[0]
        if path.startswith("tools["):
            return path.replace(".function", "", 1)
        for old, new in longest_first:
            if path == old or (path.startswith(old) and path[len(old)] in ".["):
                return new + path[len(old) :]
        return path

    message = _FOUND.sub(rename, error.message)
    param = None if error.param is None else _NAMES.get(error.param, error.param)
    return type(error)(message, param=param, code=error.code, status=error.status)


def _unknown(name: str) -> str:
    fields = ResponsesRequest.model_fields
    near = difflib.get_close_matches(str(name), [*fields, *user_fields()], n=1, cutoff=0.6)
    meant = ELSEWHERE.get(str(name)) or (near[0] if near else None)
    hint = f"did you mean {meant!r}?" if meant else f"the fields are {', '.join(fields)}"
    return f"unknown field {name!r}; {hint}"


def _request_error(error: ValidationError) -> RequestError:
    first = error.errors()[0]
    field = str(first["loc"][0])
    bad = first.get("ctx", {}).get("error")
    path = bad.path if isinstance(bad, FieldError) else ""
    return RequestError(f"{field}{cut(path)} {cut(str(bad or first['msg']))}", param=field)
