"""Builds the grammar that answers to a request must follow, from `response_format` and `tool_choice`.

- `response_format` json_object: any JSON object; json_schema: JSON that is valid under the schema.
- `tool_choice` "required", or a function's name: tool calls in the model family's own syntax and nothing else: one or
  more, or exactly one without `parallel_tool_calls`. This takes precedence over `response_format`.
- `response_format` with tools that may be called (`tool_choice` "auto"): either JSON, or tool calls.

If the model reasons, the grammar begins after the reasoning. After a complete answer only an end token is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmlab.errors import RequestError
from llmlab.grammar.arguments import tagged_arguments
from llmlab.grammar.compose import JSON, Choice, Optional, Part, Reasoning, Repeat, Series, Text, grammar
from llmlab.grammar.matcher import Grammar
from llmlab.grammar.vocabulary import GrammarError, Vocabulary
from llmlab.protocol.request import ChatRequest, PromptRequest
from llmlab.text.formats import CallSyntax, Format, markers
from llmlab.text.segments import reasoning_open
from llmlab.text.tag_calls import argument_types

__all__ = ["request_grammar"]

#: The schema of the arguments of a function that declares no parameters.
_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def request_grammar(
    request: ChatRequest | PromptRequest, *, format: Format, vocabulary: Vocabulary, prompt: bytes
) -> Grammar | None:
    """Returns the grammar that answers to a request must follow; None where they are free.

    Args:
        request: the request.
        format: how the model marks reasoning and tool calls.
        vocabulary: the model's tokens.
        prompt: the bytes of the rendered prompt, or of its end; they show whether it leaves the reasoning open.

    Raises:
        RequestError: a schema cannot be enforced (the message names the keyword and where it stands), or a call is
            required of a model that has no syntax for calls.
    """
    form, choice = request.response_format, request.tool_choice
    required = choice == "required" or isinstance(choice, dict)
    wants_json = form is not None and form["type"] != "text" and not required
    if not required and not wants_json:
        return None
    if isinstance(request, ChatRequest) and request.continue_final_message:
        raise RequestError(
            "continue_final_message cannot be combined with response_format or a required tool_choice: they constrain "
            "an answer from its first token, and this answer has begun already",
            param="continue_final_message",
        )
    parts: list[tuple[str, str, Part]] = []  # (the request's field, the path within it, its part of the grammar)
    if form is not None and wants_json:
        schema = {"type": "object"} if form["type"] == "json_object" else form["json_schema"]["schema"]
        parts.append(("response_format", "response_format.json_schema.schema", JSON(schema)))
    may_call = required or bool(request.tools and choice != "none" and format.calls)
    calls = _calls(request, format.calls) if may_call else []
    whole: list[Part] = [part for _, _, part in parts]
    if format.calls and calls:
        whole.append(_turn([part for _, _, part in calls], format.calls, many=request.parallel_tool_calls))
    before = _reasoning(format, prompt, calls=bool(request.tools) and choice != "none")
    try:
        return grammar(vocabulary, Choice(whole), reasoning=before)
    except GrammarError as error:
        for param, where, part in (*parts, *calls):
            _check_part(vocabulary, part, param=param, where=where)
        param = "tool_choice" if required else "response_format"
        raise RequestError(f"{param} leads to a grammar that cannot be enforced: {error}", param=param) from error


def _check_part(vocabulary: Vocabulary, part: Part, *, param: str, where: str) -> None:
    """Raises RequestError, with the field to blame, if this part by itself cannot be enforced."""
    try:
        grammar(vocabulary, part)
    except GrammarError as error:
        raise _refused(error, param=param, where=where) from error


def _refused(error: GrammarError, *, param: str, where: str) -> RequestError:
    return RequestError(f"{where}{'' if error.path else ': '}{error}", param=param)


def _calls(request: ChatRequest | PromptRequest, syntax: CallSyntax | None) -> list[tuple[str, str, Part]]:
    """Returns (field, path, grammar) for each function that may be called."""
    choice = request.tool_choice
    if syntax is None:
        raise RequestError(
            f"tool_choice {choice!r} needs a model whose chat template has tool calls; this model's template has none",
            param="tool_choice",
        )
    found = []
    for index, tool in enumerate(request.tools or ()):
        function = tool["function"]
        if isinstance(choice, dict) and choice["function"]["name"] != function["name"]:
            continue
        where = f"tools[{index}].function.parameters"
        part = _call(function["name"], _parameters(function), syntax, where)
        found.append(("tools", where, part))
    return found


def _turn(calls: list[Part], syntax: CallSyntax, *, many: bool) -> Part:
    """Returns the grammar of a turn that consists of tool calls; `many`: one or more, else exactly one."""
    call = Choice(calls)
    start: Part = Text(syntax.start)
    if syntax.optional_start:
        also = Text(syntax.optional_start)
        start = Choice([start, also]) if syntax.start else Optional(also)
    repeated = Repeat(call, syntax.between) if many and syntax.between is not None else call
    return Series((start, repeated, Text(syntax.end)))


def _call(name: str, parameters: dict[str, Any], syntax: CallSyntax, where: str) -> Part:
    written = json.dumps(name, ensure_ascii=False)[1:-1] if syntax.style == "json" else name
    arguments: Part = JSON(parameters)
    if syntax.style == "pairs":
        closes = tuple(mark.decode() for mark in markers(syntax.close))
        try:
            arguments = tagged_arguments(
                parameters,
                tags=syntax.pair,
                is_text=lambda key: argument_types(parameters, key) == {"string"},
                without=closes[-1:],
            )
        except GrammarError as error:
            raise _refused(error, param="tools", where=where) from error
    head = f"{syntax.open}{syntax.before_name}{written}{syntax.after_name}"
    return Series((Text(head), arguments, Text(syntax.close)))


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    found = function.get("parameters")
    if not found:
        return _NO_ARGUMENTS
    return {**found, "type": "object"}


def _reasoning(format: Format, prompt: bytes, *, calls: bool) -> Reasoning | None:
    tags = format.reasoning
    if tags is None:
        return None
    opened = reasoning_open(format, prompt)
    # The same question with the closing tag as the opening one: is there a closing tag, so that reasoning has ended?
    closed = reasoning_open(replace(format, reasoning=replace(tags, open=tags.close, close="\0")), prompt)
    if closed and not opened:
        return None
    # A call may end the reasoning, so the grammar must keep the beginning of a call out of the reasoning's text.
    syntax = format.calls if calls else None
    marks = markers(syntax.start or syntax.open)[:1] if syntax else ()
    without = tuple(mark.decode() for mark in marks if len(mark) > 1)
    return Reasoning(tags.open, tags.close, tags.separator, opened=opened, without=without)
