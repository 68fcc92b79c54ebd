"""The format that a tokenizer's `response_template` describes, by which transformers parses answers.

Such a template says where fields begin and end, and how their contents are parsed; a parser built on it loses the text
before a call, raises an exception on a call that is cut short and says nothing of where its tokens lie. So what it says
is read as data here: the tags of the reasoning, and the syntax of the calls.

Source: https://huggingface.co/docs/transformers/chat_response_parsing
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmlab.text.call_families import PYTHON
from llmlab.text.call_syntax import CallSyntax, Notation, markers

__all__ = ["agrees", "shipped_calls", "shipped_tags"]

#: The names that response templates use for the reasoning, and for the calls.
_REASONING = ("reasoning_content", "reasoning", "thinking")
_CALLS = "tool_calls"

#: What a regular expression may consist of so that it stands for one text: escaped and plain characters, white space.
_PIECE = re.compile(r"(?P<space>(?:\\[snt]|\s)[*+?]?\??)|\\(?P<escaped>[^\w\s])|(?P<plain>[^\\^$.|?*+()\[\]{}])")
_GROUP = re.compile(r"\(\?P<(\w+)>(?:[^()\\]|\\.)*\)")
_PLACEHOLDER = re.compile(r"\{(?:content\.)?(\w+)\}")


def shipped_tags(template: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """The texts that begin and end the reasoning; None if a response template has none that are plain texts."""
    fields = _fields(template)
    field = next((fields[name] for name in _REASONING if name in fields), None)
    opens, closes = _texts(field, "open"), _texts(field, "close")
    return (opens[0], closes[0]) if opens and closes else None


def shipped_calls(template: Mapping[str, Any] | None) -> CallSyntax | None:
    """The syntax of calls; None if a response template describes none, or by expressions that stand for many texts."""
    field = _fields(template).get(_CALLS)
    if not isinstance(field, Mapping):
        return None
    closes = _texts(field, "close")
    names = _names(field)
    if not closes or names is None:
        return None
    args = field.get("content_args")
    make = _MAKERS.get(str(field.get("content", "text")))
    args = args if isinstance(args, Mapping) else {}
    return make(field, args, closes[0], names) if make else None


def agrees(shipped: CallSyntax, known: CallSyntax) -> bool:
    """Whether a syntax that is known in detail is the one that a response template describes."""
    return shipped.style == known.style and _marks(shipped) <= _marks(known)


def _marks(syntax: CallSyntax) -> set[bytes]:
    return {mark for text in syntax.texts() for mark in markers(text)}


def _fields(template: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found = template.get("fields") if isinstance(template, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _texts(field: Any, name: str) -> list[str]:
    """The texts that begin or end a field; none if they are an expression that stands for many texts."""
    if not isinstance(field, Mapping):
        return []
    plain = field.get(name)
    if plain is None:
        pattern = field.get(f"{name}_pattern")
        plain = _literal(pattern) if isinstance(pattern, str) else None
    found = [plain] if isinstance(plain, str) else plain
    return [text for text in found if isinstance(text, str) and text] if isinstance(found, list | tuple) else []


def _literal(pattern: str, *, space: str = "") -> str | None:
    """The text that a regular expression stands for, with `space` for white space that it allows; None if for many."""
    out, at = "", 0
    while at < len(pattern):
        found = _PIECE.match(pattern, at)
        if not found or (not found["space"] and pattern[found.end() : found.end() + 1] in ("*", "+", "?", "{")):
            return None
        # A space that must be there is part of the text.
        out += found["escaped"] or found["plain"] or (" " if found["space"] == " " else space)
        at = found.end()
    return out


def _around(pattern: Any, *groups: str, space: str = "") -> list[str] | None:
    """The texts before, between and after the named groups of a regular expression, in this order; None if unclear."""
    if not isinstance(pattern, str):
        return None
    parts = _GROUP.split(pattern)
    texts = [_literal(part, space=space) for part in parts[::2]]
    return [text for text in texts if text is not None] if tuple(parts[1::2]) == groups and None not in texts else None


def _names(field: Mapping[str, Any]) -> tuple[str, str] | None:
    """Where the name and the arguments of a call are found: keys of the parsed content, or the names of groups.

    A content that is the whole function has the keys of the API.
    """
    transform = field.get("transform")
    function = transform.get("function") if isinstance(transform, Mapping) else transform
    if function in (None, "{content}"):
        return "name", "arguments"
    function = function if isinstance(function, Mapping) else {}
    found = [_PLACEHOLDER.fullmatch(str(function.get(key, ""))) for key in ("name", "arguments")]
    return (found[0][1], found[1][1]) if found[0] and found[1] else None


def _json(field: Mapping[str, Any], args: Mapping[str, Any], close: str, names: tuple[str, str]) -> CallSyntax | None:
    """Calls whose content is JSON, or JSON without quotes around names and with other quotes around strings."""
    name, arguments = names
    between = "" if field.get("repeats") else None
    if arguments == "content":  # the name stands in the tag
        around = _around(field.get("open_pattern"), name)
        if around is None:
            return None
        before, after = around
        delimiters = args.get("string_delims")
        if not delimiters and not args.get("unquoted_keys"):
            return CallSyntax("named", open=before, before_name="", after_name=after, close=close, between=between)
        quote = str(delimiters[0][0]) if delimiters else ""
        return CallSyntax(
            "literals",
            open=before,
            before_name="",
            after_name=f"{after}{{",
            close=f"}}{close}",
            between=between,
            notation=Notation(assign=":", between=",", colon=":", quote=quote),
        )
    opens = _texts(field, "open")
    if not opens:
        return None
    before_name, after_name = f'{{"{name}": "', f'", "{arguments}": '
    if field.get("transform_each"):  # one list of all calls
        return CallSyntax(
            "json",
            start=f"{opens[0]}[",
            open="",
            before_name=before_name,
            after_name=after_name,
            close="}",
            between=", ",
            end=f"]{close}",
        )
    return CallSyntax(
        "json", open=opens[0], before_name=before_name, after_name=after_name, close=f"}}{close}", between=between
    )


def _tags(field: Mapping[str, Any], args: Mapping[str, Any], close: str, names: tuple[str, str]) -> CallSyntax | None:
    """Calls whose arguments are tags around names and values."""
    around = _around(field.get("open_pattern"), names[0])
    pair = _around(args.get("tag_pattern"), "key", "value", space="\n")  # around a value, no more than a line break
    if around is None or pair is None or not all(pair):
        return None
    return CallSyntax(
        "pairs",
        open=around[0],
        before_name="",
        after_name=around[1],
        close=close,
        pair=(pair[0], pair[1], pair[2]),
        between="" if field.get("repeats") else None,
    )


def _python(field: Mapping[str, Any], _: Mapping[str, Any], close: str, names: tuple[str, str]) -> CallSyntax | None:
    """Calls that are a list of Python's calls."""
    opens = _texts(field, "open")
    if not opens or names != ("name", "arguments"):
        return None
    return CallSyntax(
        "literals",
        start=f"{opens[0]}[",
        open="",
        before_name="",
        after_name="(",
        close=")",
        between=", ",
        end=f"]{close}",
        notation=PYTHON.notation,
    )


#: By the parser of a field's content, what makes a syntax of it.
_MAKERS = {"json": _json, "xml-inline": _tags, "python-call-list": _python}
