"""From bytes to fields: what is no plain JSON object ends as an error that says so."""

from __future__ import annotations

import pytest

from llmlab.errors import RequestError
from llmlab.serve.body import check_headers, parse


def test_plain_json_comes_through():
    text = '{"messages": [], "a": {"x": 1.5, "ü": "🦊"}, "n": null, "b": [{"k": 1}, {"k": 2}]}'
    fields = {"messages": [], "a": {"x": 1.5, "ü": "🦊"}, "n": None, "b": [{"k": 1}, {"k": 2}]}
    assert parse(text.encode()) == fields


@pytest.mark.parametrize(
    ("data", "param", "says"),
    [
        (b"", "body", "is not JSON: Expecting value at line 1, column 1"),
        (b"{", "body", "is not JSON"),
        (b'{"n": 1}}', "body", "is not JSON: Extra data at line 1, column 9"),
        (b"[]", "body", "must be a JSON object, got a list"),
        (b"null", "body", "got null"),
        (b'"x"', "body", "got a string"),
        (b"1", "body", "got a number"),
        (b"true", "body", "got a boolean"),
        (b'{"n": NaN}', "body", "NaN is no number"),
        (b'{"n": -Infinity}', "body", "-Infinity is no number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "body", "4300 digits"),
        (b'{"user": "\xff"}', "body", "is not UTF-8: invalid start byte at byte 10"),
        ('{"user": "x"}'.encode("utf-16"), "body", "is not UTF-8"),
        (b'\xef\xbb\xbf{"n": 1}', "body", "is not JSON"),
        (b"[" * 100_000, "body", "nested too deep"),
        (b'{"a":' * 100_000, "body", "nested too deep"),
        (b'{"' + b"n" * 200 + b'": 1}', "body", "its name has 200 characters"),
        (b'{"n": 1, "n": 2}', "n", "'n' stands twice in the body"),
        (b'{"metadata": {"a": [{"k": 1, "k": 1}]}}', "metadata", "metadata has the key 'k' twice in one object"),
    ],
)
def test_anything_else_is_refused(data, param, says):
    with pytest.raises(RequestError) as caught:
        parse(data)
    assert caught.value.param == param and says in caught.value.message and len(caught.value.message) < 300


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_may_be_spelled_as_clients_spell_it(kind):
    check_headers(content_type=kind, content_encoding=None)
    check_headers(content_type=kind, content_encoding="identity")


@pytest.mark.parametrize(
    ("kind", "encoding", "says"),
    [
        (None, None, "must be application/json, got none"),
        ("text/plain", None, "got 'text/plain'"),
        ("multipart/form-data; boundary=x", None, "application/json"),
        ("application/json", "gzip", "must not be compressed, got the Content-Encoding 'gzip'"),
    ],
)
def test_another_kind_of_body_is_refused(kind, encoding, says):
    with pytest.raises(RequestError, match=says) as caught:
        check_headers(content_type=kind, content_encoding=encoding)
    assert caught.value.param == "body"
