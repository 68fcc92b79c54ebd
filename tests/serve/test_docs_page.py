"""The page at /docs: all that the OpenAPI document says, in one file that needs nothing from elsewhere."""

from __future__ import annotations

import json
import shlex
from html.parser import HTMLParser

from llmlab.serve.docs_page import page
from llmlab.serve.routes import ROUTES
from tests.serve.bodies import http
from tests.serve.puppet import Puppet
from tests.serve.test_openapi import FIELDS


class Page(HTMLParser):
    """What a reader of the page has before them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.rows: list[list[str]] = []
        self.examples: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids |= {given["id"]} if "id" in given else set()
        self.links |= {given[name] for name in ("href", "src") if name in given}
        if tag in ("tr", "td"):
            self.rows.append([]) if tag == "tr" else self.rows[-1].append("")
        if tag in ("pre", "td", "h2", "style"):
            self._inside = tag
            if tag == "pre":
                self.examples.append("")

    def handle_endtag(self, tag):
        if tag in (self._inside, "table"):
            self._inside = ""

    def handle_data(self, data):
        if self._inside == "pre":
            self.examples[-1] += data
        elif self._inside == "td":
            self.rows[-1][-1] += data
        if self._inside != "style":
            self.text += data


def test_the_page_says_what_the_document_says(running) -> None:
    with running(Puppet()) as server:
        answer = http.get(server.url + "/docs")
        document = http.get(server.url + "/openapi.json").json()
        assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
        shown = Page(answer.text)
        asked = [route for route in ROUTES if route.request is not None]
        assert len(asked) == len(shown.examples) > 1
        for route, example in zip(asked, shown.examples, strict=True):
            words = shlex.split(example)
            assert words[:2] == ["curl", server.url + route.path] and words[3] == "Content-Type: application/json"
            assert json.loads(words[words.index("-d") + 1]) == route.example
    assert all(path in shown.text for path in document["paths"]) and "/docs" not in document["paths"]
    assert {name.lower() for name in document["components"]["schemas"]} == shown.ids
    # The first table of fields is the chat request's; later ones have fields of the same names.
    rows = {row[0].removesuffix(" required"): row for row in reversed(shown.rows) if len(row) == 3}
    for name, field in FIELDS.items():
        assert rows[name][2] == field["description"].replace("`", ""), name
        for bound in ("minimum", "exclusiveMinimum", "maximum", "default"):
            if bound in field and name != "seed":
                assert json.dumps(field[bound]).removesuffix(".0") in rows[name][1], (name, bound)
    assert rows["messages"][0] == "messages required" and rows["seed"][1] == "integer, signed 64-bit"
    assert rows["messages[].role"][1] == '"system" or "developer" or "user" or "assistant" or "tool"'
    assert rows["top_p"][1] == "number, above 0 to 1, by default 1"
    assert rows["choices[].logprobs.content[].top_logprobs[].token_id"][1] == "integer, 0 or more"
    assert rows["choices[].logprobs.content[].bytes"][1] == "list of integers, 0 to 255 or null"
    assert rows["choices[].message.refusal"][1] == "null" and rows["error.param"][1] == "string or null"
    assert (
        rows["logit_bias"][1] == "object of numbers, -100 to 100" and rows["min_p"][1] == "number, 0 to 1, by default 0"
    )
    assert rows["context_length_exceeded_behavior"][1] == '"truncate" or "error", by default "truncate"'
    assert rows["stop"][1] == "string or list of strings, at most 4"


def test_the_page_needs_nothing_from_elsewhere(running) -> None:
    with running(Puppet()) as server:
        answer = http.get(server.url + "/docs")
        shown = Page(answer.text)
        assert {"script", "link", "img", "iframe"}.isdisjoint(shown.tags) and "url(" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        inside = {link.removeprefix("#") for link in shown.links if link.startswith("#")}
        assert inside <= shown.ids and shown.links - {f"#{name}" for name in inside} == {"openapi.json"}
        # Neither may the address that a browser was led to bring anything in.
        led = http.get(server.url + "/docs", headers={"host": 'x"><script>alert(1)</script>'})
        assert led.status_code == 403 and led.headers["content-type"] == "application/json"
    with running(Puppet(), api_key="k3y") as server:  # where there is a key, any name is answered
        led = http.get(server.url + "/docs", headers={"host": 'x"><script>alert(1)</script>'})
        assert led.status_code == 200 and "<script" not in led.text


def test_what_a_document_holds_is_text() -> None:
    bad = "<script>alert(1)</script>"
    document = {
        "info": {"title": bad, "version": bad, "description": bad},
        "paths": {f"/{bad}": {"get": {"summary": bad, "responses": {"200": {"description": bad}}}}},
        "components": {"schemas": {bad: {"properties": {bad: {"enum": [bad], "default": bad, "description": bad}}}}},
    }
    assert "<script" not in page(document, url=bad)
