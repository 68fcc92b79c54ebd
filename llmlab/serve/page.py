"""The OpenAPI document as a page for people: plain HTML, without a script and without anything from elsewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

Schema = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d5dae0; --fill: #f4f6f8; --link: #0550ae; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #3a424c; --fill: #1d2229; --link: #79b8ff; }
  html { background: #12161b; }
}
body { color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { margin: .5rem 0 0; }
h2 { margin: 2.5rem 0 .25rem; font-size: 1.15rem; }
p { margin: .25rem 0 .75rem; }
a { color: var(--link); }
code, pre { font: .9em/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
pre, .verb { background: var(--fill); border: 1px solid var(--line); border-radius: 5px; }
pre { padding: .75rem; white-space: pre-wrap; }
.verb { padding: 0 .4em; }
.must { color: var(--soft); font-size: .85em; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.fields th:nth-child(1) { width: 33%; }
.fields th:nth-child(2) { width: 27%; }
.answers th:nth-child(1) { width: 5rem; }
@media (max-width: 40rem) {
  thead { display: none; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td { display: block; border: 0; padding: 0; overflow-wrap: anywhere; }
}
"""


class _Field(NamedTuple):
    """A row of a table."""

    path: str
    kinds: list[str]  #: as HTML
    text: str
    required: bool


def page(document: Schema, *, url: str) -> str:
    """The page.

    Args:
        document: the OpenAPI document.
        url: where the server can be reached, for the example.
    """
    info, schemas = document["info"], document["components"]["schemas"]
    operations = [
        _operation(verb.upper(), path, operation, url)
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    ]
    asked = json.dumps([verb.get("requestBody") for verbs in document["paths"].values() for verb in verbs.values()])
    shapes = [
        f'<h2 id="{_anchor(name)}">{escape(name)}</h2>{_shape(_unset(schema) if f"/{name}" in asked else schema)}'
        for name, schema in schemas.items()
    ]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: the API</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{_marked(info.get('description', ''))} "
        'The same as a document for tools: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(operations)}{''.join(shapes)}</html>"
    )


def _operation(verb: str, path: str, operation: Schema, url: str) -> str:
    parts = [
        f'<h2><span class="verb">{verb}</span> <code>{escape(path)}</code></h2>',
        f"<p>{_marked(operation.get('summary', ''))}. {_marked(operation.get('description', ''))}</p>",
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        line = f"curl {shlex.quote(url + path)} -H {shlex.quote('Content-Type: ' + kind)} \\\n  -d "
        line += shlex.quote(json.dumps(content["example"]))
        parts.append(f"<p>Takes {_kind(content['schema'])}.</p><pre>{escape(line)}</pre>")
    if "security" in operation:
        parts.append(
            "<p>Where the server was started with a key, it has to come along: "
            "<code>-H 'Authorization: Bearer KEY'</code>.</p>"
        )
    rows = []
    for status, answer in operation["responses"].items():
        kinds = ", ".join(dict.fromkeys(_kind(content["schema"]) for content in answer.get("content", {}).values()))
        rows.append(f"<tr><td><code>{escape(status)}</code><td>{_marked(answer['description'])} {kinds}")
    return f'{"".join(parts)}<table class="answers"><thead><tr><th>status<th>answer</thead>{"".join(rows)}</table>'


def _shape(schema: Schema) -> str:
    found: dict[str, _Field] = {}
    for field in _fields(schema, ""):
        known = found.get(field.path)
        if known is None:
            found[field.path] = field
        else:  # in several of the shapes that it may have
            known.kinds.extend(kind for kind in field.kinds if kind not in known.kinds)
    rows = [
        f"<tr><td>{_path(field)}<td>{' or '.join(field.kinds)}<td>{_marked(field.text)}" for field in found.values()
    ]
    head = "<thead><tr><th>field<th>value<th>meaning</thead>"
    said = f"<p>{_marked(schema['description'])}</p>" if "description" in schema else ""
    return f'{said}<table class="fields">{head}{"".join(rows)}</table>'


def _path(field: _Field) -> str:
    must = ' <span class="must">required</span>' if field.required else ""
    return f"<code>{escape(field.path).replace('.', '.<wbr>')}</code>{must}"


def _fields(schema: Schema, above: str) -> Iterator[_Field]:
    """Every field in a schema, those inside behind the one that holds them."""
    for name, field in schema.get("properties", {}).items():
        path = f"{above}{name}"
        # Only the outermost say that they must be there: those inside may be of one shape among several.
        required = not above and name in schema.get("required", ())
        yield _Field(path, _kinds(field), field.get("description", ""), required)
        yield from _fields(field, f"{path}.")
    for one in schema.get("anyOf", ()):
        yield from _fields(one, above)
    if "items" in schema:
        yield from _fields(schema["items"], f"{above.removesuffix('.')}[].")


def _kinds(schema: Schema) -> list[str]:
    """What a value may be, as HTML."""
    kinds = [_kind(one) for one in schema["anyOf"]] if "anyOf" in schema else [_kind(schema)]
    default = f", by default <code>{escape(json.dumps(schema['default']))}</code>" if "default" in schema else ""
    return [f"{kind}{default}" for kind in dict.fromkeys(kinds)]


def _kind(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor(name)}">{escape(name)}</a>'
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if "anyOf" in schema:
        return " or ".join(_kinds(schema))
    named = schema.get("type", "anything")
    first, *others = ("list" if kind == "array" else kind for kind in ([named] if isinstance(named, str) else named))
    if "items" in schema:
        inner = schema["items"]
        first += " of objects" if "properties" in inner or "anyOf" in inner else f" of {_several(_kind(inner))}"
        first += f", at most {schema['maxItems']}" if "maxItems" in schema else ""
    if isinstance(schema.get("additionalProperties"), Mapping):
        first += f" of {_several(_kind(schema['additionalProperties']))}"
    return " or ".join([first + _range(schema), *others])


def _several(kind: str) -> str:
    """`integer, 0 or more` as `integers, 0 or more`."""
    return re.sub(r"^\w+", r"\g<0>s", kind)


def _unset(schema: Schema) -> Schema:
    """A request without the nulls that stand for its fields' defaults, which go without saying."""
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
    low, above, high = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    if (low, high) == (-(2**63), 2**63 - 1):
        return ", signed 64-bit"
    start = f"above {above}" if above is not None else "" if low is None else f"{low}"
    if high is None:
        return f", {start} or more" if start else ""
    return f", {start} to {high}" if start else f", up to {high}"


def _anchor(name: str) -> str:
    return escape(name.lower())


def _marked(text: str) -> str:
    """Text as HTML, `what stands in backticks` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
