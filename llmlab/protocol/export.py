"""A request as a call of the `openai` package, a call of the lab, a `curl` line, or an HTML table for a notebook.

Each function takes the request as API JSON: a dict of the fields that were given.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from llmlab.protocol.fields import EXTENSIONS
from llmlab.sampling.registry import user_fields

_WIDTH = 100
_LONGEST = 2_000

_SNIPPET = """\
import os

from openai import OpenAI

client = OpenAI(base_url={base_url}, api_key=os.environ.get("LLMLAB_API_KEY", "none"))
{answer} = client.chat.completions.create(
{arguments}
)
{reading}
"""
_WHOLE = """\
for choice in completion.choices:
    print(choice.message.content)"""
_STREAMED = """\
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="")"""


def as_openai_call(fields: Mapping[str, Any], *, base_url: str) -> str:
    """A program that sends the request with the `openai` package and prints the answer; extensions in `extra_body`."""
    known = {name: value for name, value in fields.items() if not _is_extension(name)}
    extra = {name: value for name, value in fields.items() if _is_extension(name)}
    arguments = {**known, **({"extra_body": extra} if extra else {})}
    streamed = bool(fields.get("stream"))
    return _SNIPPET.format(
        base_url=_literal(base_url),
        answer="stream" if streamed else "completion",
        arguments="\n".join(f"    {name}={_literal(value, indent=4)}," for name, value in arguments.items()),
        reading=_STREAMED if streamed else _WHOLE,
    )


def as_lab_call(fields: Mapping[str, Any], *, order: str = "llmlab", lab: str = "lab") -> str:
    """A call of `lab.chat`, or of `lab.complete` for a raw prompt; `lab` is the name of the lab's variable."""
    fields = dict(fields)
    raw = "prompt" in fields
    subject = fields.pop("prompt" if raw else "messages")
    if not raw and len(subject) == 1 and subject[0].keys() == {"role", "content"} and subject[0]["role"] == "user":
        subject = subject[0]["content"] if isinstance(subject[0]["content"], str) else subject
    named = {**fields, **({"order": order} if order != "llmlab" else {})}
    arguments = [_literal(subject, indent=4), *(f"{name}={_literal(value, indent=4)}" for name, value in named.items())]
    line = f"result = {lab}.{'complete' if raw else 'chat'}({', '.join(arguments)})"
    if "\n" in line or len(line) > _WIDTH:
        line = line[: line.index("(")] + "(" + "".join(f"\n    {argument}," for argument in arguments) + "\n)"
    return f"{line}\nresult"


def as_curl(fields: Mapping[str, Any], *, base_url: str) -> str:
    """One shell command. The request is quoted; only the key in `LLMLAB_API_KEY` is expanded by the shell."""
    return " ".join(
        [
            *("curl", "-sSN" if fields.get("stream") else "-sS", shlex.quote(f"{base_url}/chat/completions")),
            *("-H", shlex.quote("Content-Type: application/json")),
            *("-H", '"Authorization: Bearer $LLMLAB_API_KEY"'),
            *("-d", shlex.quote(json.dumps(fields, ensure_ascii=False))),
        ]
    )


def as_table(
    kind: str, fields: Mapping[str, Any], *, defaults: Mapping[str, Any], without_effect: frozenset[str]
) -> str:
    """A fragment of HTML: the fields that were given with their defaults, and all others, folded."""
    messages = Markup("").join(_message(message) for message in fields.get("messages", ()))
    given = Markup("").join(
        _row(
            name,
            _spelled(value),
            _spelled(defaults[name]) + (" · no effect on a local engine" if name in without_effect else ""),
        )
        for name, value in fields.items()
        if name != "messages"
    )
    left = [name for name in defaults if name not in fields]
    rest = Markup("").join(_DEFAULT.format(name, _spelled(defaults[name])) for name in left)
    head = Markup("").join(map(_CELL.format, ("field", "value", "default")))
    table = _TABLE.format(head, given) if given else ""
    return str(_REQUEST.format(kind, messages, table, len(left), rest))


# Markup escapes what is formatted into it.
_REQUEST = Markup(
    '<div style="max-width:60em;padding:.5em .8em;border:1px solid #8c959f;border-radius:6px;'
    'font:13px/1.5 system-ui,sans-serif"><div><b>{}</b></div>{}{}'
    "<details><summary>{} fields at their defaults</summary>"
    '<div style="columns:3 16em">{}</div></details></div>'
)
_TABLE = Markup(
    '<table style="border-collapse:collapse;margin:.4em 0">'
    '<tr style="text-align:left;font-weight:600">{}</tr>{}</table>'
)
_CELL = Markup('<td style="text-align:left;vertical-align:top;padding:0 1em 0 0">{}</td>')
_FADED = Markup('<td style="text-align:left;padding:0 1em 0 0;opacity:.7">{}</td>')
_DEFAULT = Markup("<div><code>{}</code> {}</div>")
_MESSAGE = Markup('<div style="white-space:pre-wrap;margin:.2em 0"><span style="opacity:.7">{}</span> {}{}</div>')
_CODE = Markup("<code>{}</code>")


def _message(message: Mapping[str, Any]) -> Markup:
    content = message.get("content")
    said = "".join(part["text"] for part in content) if isinstance(content, list) else content or ""
    more = {key: value for key, value in message.items() if key not in ("role", "content")}
    return _MESSAGE.format(message["role"], _cut(said), Markup(" ") + _CODE.format(_spelled(more)) if more else "")


def _row(name: str, value: str, default: str) -> Markup:
    cells = _CELL.format(_CODE.format(name)) + _CELL.format(value) + _FADED.format(default)
    return Markup("<tr>{}</tr>").format(cells)


def _spelled(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"


def _literal(value: Any, *, indent: int = 0) -> str:
    """A JSON value as Python source; a list or an object that is too wide for a line has one for each entry."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # JSON's escapes are among Python's
    if not isinstance(value, dict | list):
        return repr(value)
    inner = [
        (f"{_literal(key)}: " if isinstance(value, dict) else "") + _literal(item, indent=indent + 4)
        for key, item in (value.items() if isinstance(value, dict) else enumerate(value))
    ]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    line = opening + ", ".join(inner) + closing
    if "\n" not in line and len(line) + indent <= _WIDTH:
        return line
    space = " " * indent
    return opening + "".join(f"\n{space}    {item}," for item in inner) + f"\n{space}{closing}"


def _is_extension(name: str) -> bool:
    """Whether the `openai` package sends the field from `extra_body`."""
    return name in EXTENSIONS or name in user_fields()
