"""The chat template: turns messages into the prompt that the model was trained on.

A template is a program that comes with a checkpoint; transformers renders it in its sandbox. This module adds two
things. Nothing is ignored: a switch, a list of tools or an extra variable that the template does not read is an error.
And every failure inside a template is reported as an error about the request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from llmlab.errors import CheckpointError, RequestError
from llmlab.text.formats import Format, detect
from llmlab.text.message_forms import REASONING_KEYS, Chat, plain, with_system_tools
from llmlab.text.segments import divided
from llmlab.text.shown import Apply, Lost, ShownTexts
from llmlab.text.template_variables import read_keys, read_variables
from llmlab.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Prompt"]

Message = Mapping[str, Any]

#: The variables in which templates take function definitions, the usual one first; SmolLM3 has another name for them.
_TOOLS = ("tools", "xml_tools")

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


class _Asked(NamedTuple):
    """What is to be rendered; see `ShownTexts.render`."""

    chat: Chat
    tools: list[Any] | None
    apply: Apply
    options: Hashable


class ChatTemplate:
    """The chat template of a checkpoint, or another one in its place.

    Args:
        tokenizer: the checkpoint's tokenizer.
        template: Jinja source, the path of a file with it, or the name of one of the checkpoint's templates; None for
            the checkpoint's own template.

    Attributes:
        tokenizer: the tokenizer.
        exists: whether there is a template; a base model usually has none.
        problem: why there is none although the checkpoint has templates: several, of which none is the default.

    Raises:
        CheckpointError: the template is not valid Jinja, or its file cannot be read.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | os.PathLike[str] | None = None) -> None:
        self.tokenizer = tokenizer
        own = tokenizer.hf.chat_template
        named = own if isinstance(own, dict) else {}
        self._given = named.get(template) if isinstance(template, str) and template in named else _source(template)
        self.problem: str | None = None
        if named and self._given is None and "default" not in named:
            self.problem = (
                f"this model has several chat templates ({', '.join(sorted(named))}) and none is the default: choose "
                f"one by its name, such as llmlab.load(..., chat_template={min(named)!r})"
            )
        self.exists: bool = self._given is not None or (own is not None and self.problem is None)
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
        reasoning_effort: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, with special tokens spelled out.

        The messages are passed to the template in the form in which it shows every text (`llmlab.text.shown`).

        Args:
            messages: messages as in the API. Text parts are joined; keys that the API does not define are passed to the
                template unchanged. The role "developer" becomes "system" unless the template names it.
            tools: function definitions as in the API.
            enable_thinking: the template's switch of this name (or `thinking`); None leaves its default.
            reasoning_effort: the template's variable of this name; where it has none, "none" turns its switch off and
                any other value turns it on.
            add_generation_prompt: whether to end with the header of the assistant's turn.
            continue_final_message: whether to leave the last message open so that the model continues it. No header is
                added then, and the prompt ends with the whole message, white space included.
            extra: further template variables (`chat_template_kwargs`).

        Raises:
            RequestError: the template refuses the messages, leaves the text of one of them out of the prompt, or does
                not read a variable or switch of the request; `param` names the field. What is left out of an
                assistant's message that makes tool calls is no error; see `notes`.
        """
        asked = self._asked(
            messages,
            tools=tools,
            enable_thinking=enable_thinking,
            reasoning_effort=reasoning_effort,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            extra=extra,
        )
        try:
            text, lost = self._shown.render(**asked._asdict())
        except Exception as error:  # a template is a program and may raise any exception of Python or Jinja
            continuing = continue_final_message and str(error).startswith("continue_final_message")
            raise RequestError(
                f"the chat template refuses these messages: {error or type(error).__name__}",
                param="continue_final_message" if continuing else "messages",
            ) from error
        for one in lost:
            if one.refused:
                raise RequestError(
                    f"{_note(one)}; put it into a user message, or give another template with "
                    "llmlab.load(..., chat_template=...)",
                    param="messages",
                )
        return _with_last_spaces(text, str(asked.chat[-1]["content"])) if continue_final_message else text

    def prompt(self, messages: Sequence[Message], **options: Any) -> Prompt:
        """The prompt's text and its token ids; the arguments are those of `render`.

        Spellings of special tokens in the whole text become those tokens, including spellings in a message's own text,
        as in transformers; see `Tokenizer.encode`.
        """
        text = self.render(messages, **options)
        return Prompt(text, self.tokenizer.encode(text))

    def notes(self, messages: Sequence[Message], **options: Any) -> tuple[str, ...]:
        """What the prompt lacks of tool calls, of texts beside them and of tools, one line each.

        The arguments are those of `render`. Templates often show either the text of a message or its calls, and some
        show no calls, or only one.
        """
        asked = self._asked(messages, **options)
        lost = self._shown.known(asked.chat, tools=asked.tools, options=asked.options)
        if lost is None:
            _, lost = self._shown.render(**asked._asdict())
        return tuple(map(_note, lost))

    def _asked(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        reasoning_effort: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> _Asked:
        """What is to be rendered, once the arguments of `render` are checked."""
        if not self.exists:
            raise RequestError(
                self.problem
                or "this model has no chat template; use lab.complete(prompt) for raw text, "
                "or give it one with llmlab.load(..., chat_template=...)",
                param="messages",
            )
        variables = self._checked_extra(extra or {}, enable_thinking, reasoning_effort)
        if tools is not None and not self.takes_tools:
            raise RequestError("tools: this model's chat template takes no tools", param="tools")
        add_generation_prompt = add_generation_prompt and not continue_final_message

        def apply(chat: Chat, tools: list[Any] | None) -> str:
            name = self._tools_variable
            if tools is not None and name is None:
                chat = with_system_tools(chat, tools)
            given = {} if tools is None or name is None or name == "tools" else {name: tools}
            return str(
                self.tokenizer.hf.apply_chat_template(
                    chat,
                    tools=tools,
                    chat_template=self._given,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=continue_final_message,
                    tokenize=False,
                    **(variables | given),
                )
            )

        format = self.format
        chat = plain(
            messages,
            developer=self._knows_developer,
            reasoning=next((key for key in REASONING_KEYS if key in self._keys), None),
            divide=partial(divided, format) if format.channels else None,
        )
        return _Asked(
            chat=chat,
            tools=None if tools is None else [dict(tool) for tool in tools],
            apply=apply,
            options=(add_generation_prompt, continue_final_message, repr(sorted(variables.items()))),
        )

    @property
    def takes_tools(self) -> bool:
        """Whether the template takes function definitions: as a variable, or in the system's message."""
        return self.exists and (self._tools_variable is not None or "tools" in self._keys)

    @property
    def _tools_variable(self) -> str | None:
        """The variable in which the template takes function definitions; None if it has none."""
        return next((name for name in _TOOLS if self.has_switch(name)), None)

    @property
    def thinking_switch(self) -> str | None:
        """The name of the template's variable that turns its reasoning on and off; None if it has none."""
        return next((name for name in ("enable_thinking", "thinking") if self.has_switch(name)), None)

    def _checked_extra(
        self, extra: Mapping[str, Any], enable_thinking: bool | None, reasoning_effort: str | None
    ) -> dict[str, Any]:
        """The template variables of a request, its switches among them; RequestError if one is not read."""
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
        variables, switch = dict(extra), self.thinking_switch
        if enable_thinking is not None:
            if switch is None:
                raise RequestError(
                    "enable_thinking: this model's chat template has no such switch; leave the field out",
                    param="enable_thinking",
                )
            _agreeing(variables, switch, enable_thinking, field="enable_thinking")
        if reasoning_effort is not None:
            if self.has_switch("reasoning_effort"):
                _agreeing(variables, "reasoning_effort", reasoning_effort, field="reasoning_effort")
            elif switch is not None:
                _agreeing(variables, switch, reasoning_effort != "none", field="reasoning_effort")
            else:
                raise RequestError(
                    "reasoning_effort: this model's chat template reads no such variable and has no switch of its "
                    "reasoning; leave the field out",
                    param="reasoning_effort",
                )
        return variables

    def _hf_source(self, tools: list[Any] | None) -> str:
        """The source that transformers chooses for a conversation with these tools."""
        try:
            return str(self.tokenizer.hf.get_chat_template(self._given, tools))
        except ValueError as error:
            raise CheckpointError(f"the chat template cannot be chosen: {error}") from error

    @cached_property
    def _shown(self) -> ShownTexts:
        return ShownTexts()

    @cached_property
    def _knows_developer(self) -> bool:
        return bool(re.search("[\"']developer[\"']", f"{self._hf_source(None)}{self._hf_source([{}])}"))

    @cached_property
    def _keys(self) -> frozenset[str]:
        """The keys that the template reads from messages and other objects."""
        return read_keys(self._hf_source(None)) | read_keys(self._hf_source([{}]))

    @cached_property
    def _variables(self) -> frozenset[str]:
        """The variables that the template reads from its caller, in its form with tools or in that without."""
        return read_variables(self._hf_source(None)) | read_variables(self._hf_source([{}]))


def _agreeing(variables: dict[str, Any], name: str, value: Any, *, field: str) -> None:
    """Sets a template variable from a request's field; RequestError if another field has set it otherwise."""
    if variables.setdefault(name, value) is not value and variables[name] != value:
        raise RequestError(
            f"{field} sets the template's {name} to {value}, and another field sets it to {variables[name]}",
            param=field,
        )


def _source(template: str | os.PathLike[str] | None) -> str | None:
    """The Jinja source of a template that is given as source or as a path; None if none is given."""
    if template is None or (isinstance(template, str) and "{" in template):
        return template
    path = Path(template)
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"chat_template is neither Jinja source nor a file that can be read: {error}") from error


def _note(lost: Lost) -> str:
    return f"{lost.where}: this model's chat template leaves {lost.what} out of the prompt"


def _with_last_spaces(text: str, message: str) -> str:
    """A rendered text with the white space at the end of the message that it continues, which templates may strip."""
    spaces = message[len(message.rstrip()) :]
    return text if text.endswith(spaces) else text.rstrip() + spaces
