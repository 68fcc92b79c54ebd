"""Finds out which messages a chat template leaves out of the prompt, and in which form it shows them all.

A marker takes the place of each text, and the template renders these messages once per shape of a conversation (its
roles, which messages have a text, how many calls they make). What was found is kept, so a request of a known shape
costs one rendering. Markers are exact where a search for the text itself would err: a short text may stand in the
template's own words, and a template may escape a text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from llmlab.text.message_forms import Chat, Form, forms

__all__ = ["Lost", "Rendering", "ShownTexts"]

#: Renders messages and tools; raises an exception where the template refuses them.
Apply: TypeAlias = Callable[[Chat, list[Any] | None], str]

#: How many shapes are kept. A shape is small, and a chat has one more shape per turn.
_SHAPES = 1024


class Lost(NamedTuple):
    """A text that a template leaves out of the prompt.

    Attributes:
        where: its place in the request, such as "messages[0]" or "messages[2].tool_calls[1]".
        what: what it is.
        role: the role of its message; None for a tool.
        refused: whether a request with it cannot be honoured. What an assistant's message with tool calls lacks, and
            tools, are only noted: templates leave them out on purpose.
    """

    where: str
    what: str
    role: str | None
    refused: bool = False


class Rendering(NamedTuple):
    """A rendered conversation, and the texts that are not in it."""

    text: str
    lost: tuple[Lost, ...] = ()


class ShownTexts:
    """Renders conversations in the first form whose rendering shows every text, and remembers that form by shape."""

    def __init__(self) -> None:
        self._found: dict[tuple[Hashable, Form], tuple[Lost, ...]] = {}
        self._best: dict[Hashable, Form] = {}

    def render(self, chat: Chat, *, tools: list[Any] | None, apply: Apply, options: Hashable) -> Rendering:
        """Returns the rendering in the form that shows every text; if none does, in the form that loses the fewest.

        Args:
            chat: the messages, from `message_forms.plain`.
            tools: the function definitions, as in the API; None for none.
            apply: renders messages and tools.
            options: what else the rendering depends on.

        Raises:
            Exception: the template accepts no form; the error is the one about the first form.
        """
        shape = _shape(chat, tools, options)
        best = self._best.get(shape)
        tried: list[Chat] = []
        first_error: Exception | None = None
        found: list[tuple[Form, Rendering]] = []
        for form in _to_try(chat, best, found):
            formed = form.of(chat)
            if formed in tried:
                continue
            tried.append(formed)
            try:
                text = apply(formed, tools)
            except Exception as error:  # a template is a program and may raise any exception of Python or Jinja
                first_error = first_error or error
                continue
            found.append((form, Rendering(text, self._lost(chat, tools, form, apply, shape))))
            if not found[-1][1].lost or form == best:
                break
        if not found:
            assert first_error is not None
            raise first_error
        form, rendering = min(found, key=lambda one: len(one[1].lost))
        _keep(self._best, shape, form)
        return rendering

    def known(self, chat: Chat, *, tools: list[Any] | None, options: Hashable) -> tuple[Lost, ...] | None:
        """Returns the texts that are lost from conversations of this shape; None if none was rendered yet."""
        shape = _shape(chat, tools, options)
        return self._found.get((shape, self._best[shape])) if shape in self._best else None

    def _lost(self, chat: Chat, tools: list[Any] | None, form: Form, apply: Apply, shape: Hashable) -> tuple[Lost, ...]:
        """The texts that a template leaves out of conversations of this shape in this form."""
        known = self._found.get((shape, form))
        if known is None:
            try:
                marked = [_marked(message, index) for index, message in enumerate(chat)]
                named = tools and [_named(tool, _marker(at, tool=True)) for at, tool in enumerate(tools)]
                text = apply(form.of(marked), named)
                known = tuple(lost for marker, lost in _texts(chat, tools or []) if marker not in text)
            except Exception:  # the template asks more of a text than that it is one, so nothing can be said
                known = ()
            _keep(self._found, (shape, form), known)
        return known


def _to_try(chat: Chat, best: Form | None, found: list[tuple[Form, Rendering]]) -> Iterator[Form]:
    """The forms in the order in which they are tried; `found` holds the renderings so far.

    A few templates expect parts of some roles only, mostly of the user. Those whose texts are lost as strings are tried
    first.
    """
    if best is not None:
        yield best
    yield from forms(())
    lost = {one.role for _, rendering in found for one in rendering.lost if one.role}
    roles = {str(message.get("role")) for message in chat}
    yield from forms(lost, {"user"}, {"user", "assistant"}, roles)


def _keep(found: dict[Any, Any], key: Hashable, value: Any) -> None:
    if len(found) >= _SHAPES:
        found.clear()
    found[key] = value


def _marker(at: int, call: int | None = None, *, tool: bool = False) -> str:
    return f"qz{at}tool" if tool else f"qz{at}text" if call is None else f"qz{at}call{call}z"


def _has_text(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) and bool(content.strip())


def _calls(message: Mapping[str, Any]) -> list[Any]:
    calls = message.get("tool_calls")
    return list(calls) if isinstance(calls, list | tuple) else []


def _shape(chat: Chat, tools: list[Any] | None, options: Hashable) -> Hashable:
    """What a template may decide by, other than the texts themselves."""
    return options, None if tools is None else len(tools), *map(_message_shape, chat)


def _message_shape(message: Mapping[str, Any]) -> Hashable:
    objects = tuple(_arguments(call).lstrip()[:1] == "{" for call in _calls(message))
    keys = sorted((key, value is None, bool(value)) for key, value in message.items())
    return message.get("role"), _has_text(message), objects, tuple(keys)


def _arguments(call: Any) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    return arguments if isinstance(arguments, str) else ""


def _texts(chat: Chat, tools: list[Any]) -> Iterator[tuple[str, Lost]]:
    """The marker of each text, and what is said where it is lost."""
    for index, message in enumerate(chat):
        calls, role = _calls(message), str(message.get("role"))
        if _has_text(message):
            what = "the text beside the tool calls" if calls else f"this text of role {role!r}"
            yield _marker(index), Lost(f"messages[{index}]", what, role, refused=not calls)
        for at, call in enumerate(calls):
            if _arguments(call):
                yield _marker(index, at), Lost(f"messages[{index}].tool_calls[{at}]", "this tool call", role)
    for at in range(len(tools)):
        yield _marker(at, tool=True), Lost(f"tools[{at}]", "this function", None)


def _marked(message: dict[str, Any], index: int) -> dict[str, Any]:
    """A message with a marker in place of its text and of the arguments of each of its calls."""
    changed: dict[str, Any] = {}
    if _has_text(message):
        changed["content"] = _marker(index)
    if calls := _calls(message):
        changed["tool_calls"] = [_marked_call(call, _marker(index, at)) for at, call in enumerate(calls)]
    return {**message, **changed}


def _named(tool: Any, name: str) -> Any:
    """A tool with another name."""
    return {**tool, "function": {**tool["function"], "name": name}}


def _marked_call(call: Any, marker: str) -> Any:
    if not _arguments(call):
        return call
    try:
        known = json.loads(_arguments(call))
    except ValueError:
        known = None
    marked = dict.fromkeys(known if isinstance(known, dict) and known else [marker], marker)
    return {**call, "function": {**call["function"], "arguments": json.dumps(marked)}}
