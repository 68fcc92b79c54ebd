"""The OpenAPI document as a page for people: plain HTML, without a script and without anything from elsewhere.

Every piece is a `Markup`, which escapes what is formatted into it: text cannot become HTML by being forgotten.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from markupsafe import Markup, escape

Schema = Mapping[str, Any]

_PAGE = Markup(
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: the API</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style>'
    "<h1>{title}</h1><p>{description} "
    'The same as a document for tools: <a href="openapi.json">openapi.json</a>.</p>{operations}{shapes}</html>'
)
_OPERATION = Markup(
    '<h2><span class="verb">{verb}</span> <code>{path}</code></h2><p>{text}</p>{parts}'
    '<table class="answers"><thead><tr><th>status<th>answer</thead>{rows}</table>'
)
_BODY = Markup("<p>Takes {kind}.</p><pre>{example}</pre>")
_KEY = Markup(
    "<p>Where the server was started with a key, send it along: <code>-H 'Authorization: Bearer KEY'</code>.</p>"
)
_ANSWER = Markup("<tr><td><code>{status}</code><td>{text} {kinds}")
_SHAPE = Markup(
    '<h2 id="{anchor}">{name}</h2>{text}<table class="fields">'
    "<thead><tr><th>field<th>value<th>meaning</thead>{rows}</table>"
)
_FIELD = Markup("<tr><td><code>{path}</code>{required}<td>{kinds}<td>{text}")
_OR = Markup(" or ")
_NOTHING = Markup("")


class _Field(NamedTuple):
    """A row of a table."""

    path: str
    kinds: list[Markup]
    text: str
    required: bool


def page(document: Schema, *, url: str) -> str:
    """Returns the page.

    Args:
        document: the OpenAPI document.
        url: the address of the server, for the example.
    """
    info, schemas = document["info"], document["components"]["schemas"]
    asked = json.dumps([verb.get("requestBody") for verbs in document["paths"].values() for verb in verbs.values()])
    return str(
        _PAGE.format(
            title=f"{info['title']} {info['version']}",
            style=Markup((files("llmlab.serve") / "docs_page.css").read_text("utf-8")),
            description=_marked(info.get("description", "")),
            operations=_joined(
                [
                    _operation(verb.upper(), path, operation, url)
                    for path, verbs in document["paths"].items()
                    for verb, operation in verbs.items()
                ]
            ),
            shapes=_joined(
                [
                    _shape(name, _without_null(schema) if f"/{name}" in asked else schema)
                    for name, schema in schemas.items()
                ]
            ),
        )
    )


def _joined(parts: Sequence[Markup], by: Markup = _NOTHING) -> Markup:
    return by.join(parts)


def _operation(verb: str, path: str, operation: Schema, url: str) -> Markup:
    parts = []
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        line = f"curl {shlex.quote(url + path)} -H {shlex.quote('Content-Type: ' + kind)} \\\n  -d "
        line += shlex.quote(json.dumps(content["example"]))
        parts.append(_BODY.format(kind=_kind(content["schema"]), example=line))
    if "security" in operation:
        parts.append(_KEY)
    rows = []
    for status, answer in operation["responses"].items():
        kinds = list(dict.fromkeys(_kind(content["schema"]) for content in answer.get("content", {}).values()))
        text = _marked(answer["description"])
        rows.append(_ANSWER.format(status=status, text=text, kinds=_joined(kinds, Markup(", "))))
    said = f"{operation.get('summary', '')}. {operation.get('description', '')}"
    return _OPERATION.format(verb=verb, path=path, text=_marked(said), parts=_joined(parts), rows=_joined(rows))


def _shape(name: str, schema: Schema) -> Markup:
    found: dict[str, _Field] = {}
    for field in _fields(schema, ""):
        known = found.get(field.path)
        if known is None:
            found[field.path] = field
        else:  # the field stands in several of the alternatives
            known.kinds.extend(kind for kind in field.kinds if kind not in known.kinds)
    rows = [
        _FIELD.format(
            path=Markup(".<wbr>").join(field.path.split(".")),
            required=Markup(' <span class="must">required</span>') if field.required else "",
            kinds=_joined(field.kinds, _OR),
            text=_marked(field.text),
        )
        for field in found.values()
    ]
    said = Markup("<p>{}</p>").format(_marked(schema["description"])) if "description" in schema else ""
    return _SHAPE.format(anchor=name.lower(), name=name, text=said, rows=_joined(rows))


def _fields(schema: Schema, above: str) -> Iterator[_Field]:
    """Yields every field of a schema, those inside a field after it."""
    for name, field in schema.get("properties", {}).items():
        path = f"{above}{name}"
        # Inner fields are not marked as required: they may belong to one alternative of several.
        required = not above and name in schema.get("required", ())
        yield _Field(path, _kinds(field), field.get("description", ""), required)
        yield from _fields(field, f"{path}.")
    for one in schema.get("anyOf", ()):
        yield from _fields(one, above)
    if "items" in schema:
        yield from _fields(schema["items"], f"{above.removesuffix('.')}[].")


def _kinds(schema: Schema) -> list[Markup]:
    """Returns what a value may be, one entry per alternative."""
    kinds = [_kind(one) for one in schema["anyOf"]] if "anyOf" in schema else [_kind(schema)]
    default: Markup | str = ""
    if "default" in schema:
        default = Markup(", by default <code>{}</code>").format(json.dumps(schema["default"]).removesuffix(".0"))
    return [kind + default for kind in dict.fromkeys(kinds)]


def _kind(schema: Schema) -> Markup:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#{}">{}</a>').format(name.lower(), name)
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return _joined([Markup("<code>{}</code>").format(json.dumps(value)) for value in values], _OR)
    if "anyOf" in schema:
        return _joined(_kinds(schema), _OR)
    named = schema.get("type", "anything")
    first, *others = ("list" if kind == "array" else kind for kind in ([named] if isinstance(named, str) else named))
    kind = escape(first)
    if "items" in schema:
        inner = schema["items"]
        kind += " of objects" if "properties" in inner or "anyOf" in inner else " of " + _plural(_kind(inner))
        kind += f", at most {schema['maxItems']}" if "maxItems" in schema else ""
    if isinstance(schema.get("additionalProperties"), Mapping):
        kind += " of " + _plural(_kind(schema["additionalProperties"]))
    return _joined([kind + _range(schema), *map(escape, others)], _OR)


def _plural(kind: Markup) -> Markup:
    """Returns `integer, 0 or more` as `integers, 0 or more`."""
    return Markup(re.sub(r"^\w+", r"\g<0>s", kind))


def _without_null(schema: Schema) -> Schema:
    """Returns a request's schema without null, which stands for the default of every field."""
    fields = {}
    for name, field in schema["properties"].items():
        fields[name] = dict(field)
        if isinstance(field.get("type"), list):
            fields[name]["type"] = [kind for kind in field["type"] if kind != "null"]
        for key, null in (("enum", None), ("anyOf", {"type": "null"})):
            if key in field:
                fields[name][key] = [value for value in field[key] if value != null]
    return {**schema, "properties": fields}


def _range(schema: Schema) -> str:
    low, above, high = (
        None if (bound := schema.get(name)) is None else f"{bound:g}" if isinstance(bound, float) else str(bound)
        for name in ("minimum", "exclusiveMinimum", "maximum")
    )
    if (low, high) == (str(-(2**63)), str(2**63 - 1)):
        return ", signed 64-bit"
    start = f"above {above}" if above is not None else low or ""
    if high is None:
        return f", {start} or more" if start else ""
    return f", {start} to {high}" if start else f", up to {high}"


def _marked(text: str) -> Markup:
    """Returns text as HTML, with `what stands in backticks` as code."""
    parts = re.split(r"`([^`]+)`", text)  # every second part stood in backticks
    return _joined(
        [Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts)]
    )
