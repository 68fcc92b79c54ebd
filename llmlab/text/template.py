"""The chat template: turns messages into the prompt that the model was trained on.

A template is a program that comes with a checkpoint; transformers renders it in its sandbox. This module adds two
things. Nothing is ignored: a switch, a list of tools or an extra variable that the template does not read is an error.
And every failure inside a template is reported as an error about the request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from llmlab.errors import CheckpointError, RequestError
from llmlab.text.formats import Format, detect
from llmlab.text.template_variables import read_variables
from llmlab.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Prompt"]

Message = Mapping[str, Any]

#: Parameters of `apply_chat_template` itself, which can therefore not be passed to a template as variables.
_RESERVED = frozenset(
    {
        *("conversation", "conversations", "messages", "tools", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)


class Prompt(NamedTuple):
    """A rendered conversation.

    Attributes:
        text: the prompt's text, with special tokens spelled out.
        ids: its token ids.
    """

    text: str
    ids: list[int]


class ChatTemplate:
    """The chat template of a checkpoint, or another one in its place.

    Args:
        tokenizer: the checkpoint's tokenizer.
        template: Jinja source, or the path of a file with it; None for the checkpoint's own template.

    Attributes:
        tokenizer: the tokenizer.
        exists: whether there is a template; a base model usually has none.

    Raises:
        CheckpointError: the template is not valid Jinja, or its file cannot be read.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | os.PathLike[str] | None = None) -> None:
        self.tokenizer = tokenizer
        self._given = _source(template)
        self.exists: bool = self._given is not None or tokenizer.hf.chat_template is not None
        if self.exists:
            _ = self._variables  # so that a template that does not parse is an error now and not at the first request

    @property
    def source(self) -> str:
        """The Jinja source that renders a conversation without tools."""
        return str(self._hf_source(None))

    @cached_property
    def format(self) -> Format:
        """How this model writes its reasoning and its tool calls."""
        source = "\n".join({str(self._hf_source(None)), str(self._hf_source([{}]))}) if self.exists else None
        hf = self.tokenizer.hf
        tokens = {token.content for token in hf.added_tokens_decoder.values()}
        return detect(source, tokens=tokens, response_template=getattr(hf, "response_template", None))

    def has_switch(self, name: str) -> bool:
        """Whether the template reads a variable of this name, such as "enable_thinking" or "tools"."""
        return self.exists and name in self._variables

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, with special tokens spelled out.

        Args:
            messages: messages as in the API. Text parts are joined; keys that the API does not define are passed to the
                template unchanged.
            tools: function definitions as in the API.
            enable_thinking: the template's switch of this name; None leaves its default.
            add_generation_prompt: whether to end with the header of the assistant's turn.
            continue_final_message: whether to leave the last message open so that the model continues it. No header is
                added then.
            extra: further template variables (`chat_template_kwargs`).

        Raises:
            RequestError: the template refuses the messages, or does not read a variable or switch of the request;
                `param` names the field.
        """
        if not self.exists:
            raise RequestError(
                "this model has no chat template; use lab.complete(prompt) for raw text, "
                "or give it one with llmlab.load(..., chat_template=...)",
                param="messages",
            )
        variables = self._checked_extra(extra or {}, enable_thinking)
        if tools is not None and not self.has_switch("tools"):
            raise RequestError("tools: this model's chat template takes no tools", param="tools")

        def apply(chat: list[dict[str, Any]]) -> str:
            return str(
                self.tokenizer.hf.apply_chat_template(
                    chat,
                    tools=None if tools is None else [dict(tool) for tool in tools],
                    chat_template=self._given,
                    add_generation_prompt=add_generation_prompt and not continue_final_message,
                    continue_final_message=continue_final_message,
                    tokenize=False,
                    **variables,
                )
            )

        try:
            return _first_that_works(apply, _forms([_plain(message) for message in messages]))
        except Exception as error:  # a template is a program and may raise any exception of Python or Jinja
            continuing = continue_final_message and str(error).startswith("continue_final_message")
            raise RequestError(
                f"the chat template refuses these messages: {error or type(error).__name__}",
                param="continue_final_message" if continuing else "messages",
            ) from error

    def prompt(self, messages: Sequence[Message], **options: Any) -> Prompt:
        """The prompt's text and its token ids; the arguments are those of `render`.

        Spellings of special tokens in the whole text become those tokens, including spellings in a message's own text,
        as in transformers; see `Tokenizer.encode`.
        """
        text = self.render(messages, **options)
        return Prompt(text, self.tokenizer.encode(text))

    def _checked_extra(self, extra: Mapping[str, Any], enable_thinking: bool | None) -> dict[str, Any]:
        """The template variables of a request, `enable_thinking` among them; RequestError if one is not read."""
        for name in extra:
            if name in _RESERVED:
                raise RequestError(
                    f"chat_template_kwargs.{name}: this variable is set by the request itself",
                    param="chat_template_kwargs",
                )
            if not self.has_switch(name):
                known = ", ".join(sorted(self._variables - _RESERVED)) or "none"
                raise RequestError(
                    f"chat_template_kwargs.{name}: this model's chat template does not read it (it reads: {known})",
                    param="chat_template_kwargs",
                )
        variables = dict(extra)
        if enable_thinking is None:
            return variables
        if not self.has_switch("enable_thinking"):
            raise RequestError(
                "enable_thinking: this model's chat template has no such switch; leave the field out",
                param="enable_thinking",
            )
        if variables.setdefault("enable_thinking", enable_thinking) is not enable_thinking:
            raise RequestError(
                f"enable_thinking is {enable_thinking}, and chat_template_kwargs says otherwise",
                param="enable_thinking",
            )
        return variables

    def _hf_source(self, tools: list[Any] | None) -> str:
        """The source that transformers chooses for a conversation with these tools."""
        try:
            return str(self.tokenizer.hf.get_chat_template(self._given, tools))
        except ValueError as error:
            raise CheckpointError(f"the chat template cannot be chosen: {error}") from error

    @cached_property
    def _variables(self) -> frozenset[str]:
        """The variables that the template reads from its caller, in its form with tools or in that without."""
        return read_variables(self._hf_source(None)) | read_variables(self._hf_source([{}]))


def _source(template: str | os.PathLike[str] | None) -> str | None:
    """The Jinja source of a template that is given as source or as a path; None if none is given."""
    if template is None or (isinstance(template, str) and "{" in template):
        return template
    path = Path(template)
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"chat_template is neither Jinja source nor a file that can be read: {error}") from error


def _forms(chat: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The forms in which templates may expect the same messages, the most common one first.

    Most templates expect the arguments of an earlier tool call as an object, a few (DeepSeek-R1) as the API's string.
    Some fail on the API's null for the content of a message that only calls tools (Qwen3's first release, Phi-3.5).
    """
    parsed = [_with_parsed_calls(message) for message in chat]
    forms: list[list[dict[str, Any]]] = []
    for form in (parsed, chat, [_with_content(message) for message in parsed], [_with_content(one) for one in chat]):
        if form not in forms:
            forms.append(form)
    return forms


def _first_that_works(apply: Callable[[list[dict[str, Any]]], str], forms: Sequence[list[dict[str, Any]]]) -> str:
    """The prompt from the first form that the template accepts; if it accepts none, its error about the first form."""
    first: Exception | None = None
    for form in forms:
        try:
            return apply(form)
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def _with_content(message: dict[str, Any]) -> dict[str, Any]:
    """A message with an empty text in place of a content of None."""
    return {**message, "content": ""} if message.get("content", "") is None else message


def _plain(message: Message) -> dict[str, Any]:
    """A message whose list of text parts, if it has one, is joined into one text."""
    plain = dict(message)
    content = plain.get("content")
    if isinstance(content, list | tuple):
        plain["content"] = "".join(part["text"] for part in content)
    return plain


def _with_parsed_calls(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose tool calls have their arguments as an object in place of the API's JSON string."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_with_parsed_arguments(call) for call in calls]}


def _with_parsed_arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool call with its arguments as an object, if they are the JSON text of one."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call  # a model may have written arguments that are not JSON; they are passed back unchanged
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call
