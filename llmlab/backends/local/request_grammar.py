"""Builds the grammar that answers to a request must follow, from `response_format` and `tool_choice`.

- `response_format` json_object: any JSON object; json_schema: JSON that is valid under the schema.
- `tool_choice` "required", or a function's name: tool calls in the model family's own syntax and nothing else: one or
  more, or exactly one without `parallel_tool_calls`. This takes precedence over `response_format`.
- `structured_outputs`: a text that matches a regular expression, one of several texts, a text that follows a Lark
  grammar, or JSON; in all else it is like `response_format`.
- `bad_words`, `allowed_token_ids`: anything, except some texts or tokens; not beside a grammar.
- `response_format` with tools that may be called (`tool_choice` "auto"): either JSON, or tool calls.

If the model reasons, the grammar begins after the reasoning. After a complete answer only an end token is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmlab.errors import RequestError
from llmlab.grammar.arguments import tagged_arguments
from llmlab.grammar.compose import JSON, Choice, Optional, Part, Raw, Reasoning, Repeat, Series, Text, grammar
from llmlab.grammar.literals import literal_arguments
from llmlab.grammar.matcher import Grammar
from llmlab.grammar.structured import structured_part
from llmlab.grammar.token_filter import TokenFilter
from llmlab.grammar.vocabulary import GrammarError, Vocabulary
from llmlab.protocol.request import ChatRequest, PromptRequest
from llmlab.text.call_syntax import CALL_ID, CallSyntax, markers
from llmlab.text.formats import Format
from llmlab.text.segments import reasoning_closed, reasoning_open
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
    choice = request.tool_choice
    required = choice == "required" or isinstance(choice, dict)
    if request.bad_words or request.allowed_token_ids:
        if required:
            field = "bad_words" if request.bad_words else "allowed_token_ids"
            raise RequestError(f"{field} cannot be combined with a required tool_choice; give one of them", param=field)
        return TokenFilter(vocabulary, bad_words=request.bad_words or (), allowed=request.allowed_token_ids)
    form = next(iter(request.constraints), None)
    if not required and form is None:
        return None
    if isinstance(request, ChatRequest) and request.continue_final_message:
        raise RequestError(
            f"continue_final_message cannot be combined with {form or 'a required tool_choice'}: it constrains an "
            "answer from its first token, and this answer has begun already",
            param="continue_final_message",
        )
    parts: list[tuple[str, str, Part]] = []  # (the request's field, the path within it, its part of the grammar)
    if form is not None and not required:
        parts.append(_answer(request, format, prompt))
    may_call = required or bool(request.tools and choice != "none" and format.calls)
    calls = _calls(request, format.calls, vocabulary) if may_call else []
    whole: list[Part] = [part for _, _, part in parts]
    if format.calls and calls:
        whole.append(_turn([part for _, _, part in calls], format.calls, many=request.parallel_tool_calls))
    before = _reasoning(format, prompt, calls=bool(request.tools) and choice != "none")
    try:
        return grammar(vocabulary, Choice(whole), reasoning=before)
    except GrammarError as error:
        for param, where, part in (*parts, *calls):
            _check_part(vocabulary, part, param=param, where=where)
        param = form if form and not required else "tool_choice"
        raise RequestError(f"{param} leads to a grammar that cannot be enforced: {error}", param=param) from error


def _answer(request: ChatRequest | PromptRequest, format: Format, prompt: bytes) -> tuple[str, str, Part]:
    """Returns (field, path, grammar) for what the answer must be, with the header of its message if it has one."""
    field, where, part = _content(request)
    if format.channels and not reasoning_closed(format, prompt):
        part = Series((Text(format.channels.header(format.channels.content[0])), part))
    return field, where, part


def _content(request: ChatRequest | PromptRequest) -> tuple[str, str, Part]:
    """Returns (field, path, grammar) for what the content must be."""
    if request.response_format is not None and request.structured_outputs is None:
        form = request.response_format
        schema = {"type": "object"} if form["type"] == "json_object" else form["json_schema"]["schema"]
        return "response_format", "response_format.json_schema.schema", JSON(schema)
    outputs = dict(request.structured_outputs or {})
    if outputs.pop("json_object", False):
        outputs["json"] = {"type": "object"}
    try:
        return "structured_outputs", "structured_outputs", structured_part(outputs)
    except GrammarError as error:
        raise _refused(error, param="structured_outputs", where="structured_outputs") from error


def _check_part(vocabulary: Vocabulary, part: Part, *, param: str, where: str) -> None:
    """Raises RequestError, with the field to blame, if this part by itself cannot be enforced."""
    try:
        grammar(vocabulary, part)
    except GrammarError as error:
        raise _refused(error, param=param, where=where) from error


def _refused(error: GrammarError, *, param: str, where: str) -> RequestError:
    between = ": " if not error.path else "" if error.path.startswith("#") else "."
    return RequestError(f"{where}{between}{error}", param=param)


def _calls(
    request: ChatRequest | PromptRequest, syntax: CallSyntax | None, vocabulary: Vocabulary
) -> list[tuple[str, str, Part]]:
    """Returns (field, path, grammar) for each function that may be called."""
    choice = request.tool_choice
    if syntax is None:
        raise RequestError(
            f"tool_choice {choice!r} needs a model whose chat template writes tool calls in a known syntax; "
            "this model's template has none",
            param="tool_choice",
        )
    found = []
    for index, tool in enumerate(request.tools or ()):
        function = tool["function"]
        if isinstance(choice, dict) and choice["function"]["name"] != function["name"]:
            continue
        where = f"tools[{index}].function.parameters"
        part = _call(function["name"], _parameters(function), syntax, where, vocabulary)
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


def _call(name: str, parameters: dict[str, Any], syntax: CallSyntax, where: str, vocabulary: Vocabulary) -> Part:
    written = json.dumps(name, ensure_ascii=False)[1:-1] if syntax.style == "json" else name
    head = _literal(f"{syntax.open}{syntax.before_name}{written}{syntax.after_name}", syntax.id_pattern)
    try:
        arguments = _arguments(parameters, syntax)
    except GrammarError as error:
        raise _refused(error, param="tools", where=where) from error
    # The text that ends a call may be a token that ends the generation; it is not part of the answer then.
    ends = vocabulary.controls.get(syntax.close) in vocabulary.ends
    return Series((head, arguments, Text("" if ends else syntax.close)))


def _arguments(parameters: dict[str, Any], syntax: CallSyntax) -> Part:
    """Returns the grammar of a call's arguments.

    Raises:
        GrammarError: a schema that cannot be enforced in this syntax.
    """
    if syntax.style == "pairs":
        closes = tuple(mark.decode() for mark in markers(syntax.close))
        return tagged_arguments(
            parameters,
            tags=syntax.pair,
            is_text=lambda key: argument_types(parameters, key) == {"string"},
            without=(*closes, *(mark.decode() for mark in markers(syntax.pair[2]))),
        )
    return literal_arguments(parameters, **asdict(syntax.notation)) if syntax.notation else JSON(parameters)


def _literal(text: str, id_pattern: str) -> Part:
    """Returns the grammar of a text in which an id may stand that the model chooses."""
    before, mark, after = text.partition(CALL_ID)
    if not mark:
        return Text(text)
    end = markers(after)[0].decode()
    return Series((Text(before), Raw(end, patterns=(id_pattern,)), Text(after[len(end) :])))


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    found = function.get("parameters")
    if not found:
        return _NO_ARGUMENTS
    return {**found, "type": "object"}


def _reasoning(format: Format, prompt: bytes, *, calls: bool) -> Reasoning | None:
    tags = format.reasoning
    if tags is None or reasoning_closed(format, prompt):
        return None
    # A call may end the reasoning, so the grammar must keep the beginning of a call out of the reasoning's text.
    syntax = format.calls if calls else None
    marks = markers(syntax.start or syntax.open)[:1] if syntax else ()
    without = tuple(mark.decode() for mark in marks if len(mark) > 1)
    opened = reasoning_open(format, prompt)
    if format.channels:
        start = format.begin.decode()
        return Reasoning(tags.open, tags.close, then=format.channels.start, opened=opened, without=(*without, start))
    return Reasoning(tags.open, tags.close, tags.separator, opened=opened, without=without)
