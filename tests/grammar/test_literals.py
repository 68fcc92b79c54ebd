"""Arguments that are written as literals: what the grammar allows is read back, and is valid under the schema."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from llmlab.grammar.compose import grammar
from llmlab.grammar.literals import literal_arguments
from llmlab.grammar.parts import Series, Text
from llmlab.grammar.vocabulary import GrammarError
from llmlab.text.call_families import GEMMA, PYTHON
from llmlab.text.formats import Format
from llmlab.text.segments import Segmenter
from tests.grammar.schemas import BOOL, INT, NULL, SCHEMAS, arr, closed, form, obj, ref, text
from tests.grammar.validity import problem
from tests.grammar.walk import takes, vocabulary, walk

VOCABULARY = vocabulary()
SYNTAXES = {"gemma": GEMMA, "python": PYTHON}
#: What cannot be written in these notations, by a word of the error.
UNWRITABLE = (
    "Properties cannot be enforced",
    "the name '' cannot",
    "written strings without",
    "leads nowhere",
    "format",
)


def whole(syntax, schema):
    part = literal_arguments(schema, **asdict(syntax.notation))
    head = f"{syntax.start}{syntax.open}{syntax.before_name}f{syntax.after_name}"
    return grammar(VOCABULARY, Series((Text(head), part, Text(syntax.close + syntax.end))))


def arguments(syntax, written):
    """The arguments of the one call in a text."""
    segmenter = Segmenter(Format("x", None, syntax), tools=[{"function": {"name": "f"}}])
    spans = segmenter.feed(written) + segmenter.flush()
    assert {span.segment for span in spans} == {"tool_call"} and sum(span.complete for span in spans) == 1, written
    return json.loads(b"".join(span.text for span in spans))


@pytest.mark.parametrize("family", SYNTAXES)
def test_every_schema(family):
    syntax, rng, refused, ended = SYNTAXES[family], np.random.default_rng(1), [], 0
    for name, schema in SCHEMAS.items():
        rooted = isinstance(schema, dict) and ("$defs" in schema or "definitions" in schema or "$schema" in schema)
        if rooted and schema.get("type") != "object":
            continue
        parameters = schema if rooted else closed(v=schema)
        try:
            found = whole(syntax, parameters)
        except GrammarError as error:
            assert any(word in str(error) for word in UNWRITABLE), (name, error)
            refused.append(name)
            continue
        for written in filter(None, (walk(found, rng, most=200) for _ in range(3))):
            ended += 1
            assert problem(json.dumps(arguments(syntax, written)), parameters) is None, (name, written)
    print(f"{family}: {ended} texts, {len(refused)} schemas refused")
    assert ended > 200 and len(refused) < 18


SCHEMA = obj(
    "b",
    b=text(None),
    A=INT,
    c={"enum": ["x", 1, None, [True]]},
    d=arr(BOOL, 1, 2),
    e=closed("", f=NULL),
)
GOOD = [{"b": "Oslo"}, {"A": 1, "b": ""}, {"b": 'a "b"\n', "c": None}, {"b": "x", "c": [True], "d": [True, False]},
        {"b": "x", "e": {}}, {"b": "x", "e": {"f": None}}]  # fmt: skip
BAD = [{}, {"b": 1}, {"A": 1.5, "b": "x"}, {"b": "x", "c": 2}, {"b": "x", "d": []}, {"b": "x", "d": [True] * 3},
       {"b": "x", "e": {"g": None}}, {"b": "x", "z": 1}]  # fmt: skip


def gemma(value):
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{gemma(value[name])}" for name in sorted(value, key=str.lower)) + "}"
    return "[" + ",".join(map(gemma, value)) + "]" if isinstance(value, list) else json.dumps(value)


def python(value):
    """The order of arguments is that of the schema."""
    order = ["b", "A", "c", "d", "e"]
    names = sorted(value, key=lambda name: order.index(name) if name in order else 9)
    return ", ".join(f"{name}={_literal(value[name])}" for name in names)


def _literal(value):
    if isinstance(value, str):
        return json.dumps(value)
    return repr(value).replace("'", '"')


@pytest.mark.parametrize("value", [*GOOD, *BAD], ids=str)
def test_what_is_valid(value):
    assert takes(whole(GEMMA, SCHEMA), f"<|tool_call>call:f{gemma(value)}<tool_call|>") is (value in GOOD)
    assert takes(whole(PYTHON, SCHEMA), f"[f({python(value)})]") is (value in GOOD)


def test_the_order_of_arguments():
    assert not takes(whole(GEMMA, SCHEMA), '<|tool_call>call:f{b:<|"|>x<|"|>,A:1}<tool_call|>')
    assert not takes(whole(PYTHON, SCHEMA), '[f(A=1, b="x")]')


def test_recursion_and_other_names():
    tree = obj("", left=ref("t"), value=INT) | {"$defs": {"t": obj("", left=ref("t"), value=INT)}}
    assert takes(whole(GEMMA, tree), "<|tool_call>call:f{left:{left:{value:1}},value:2}<tool_call|>")
    assert takes(whole(PYTHON, tree), '[f(left={"left": {"left": {}}})]')
    some = obj("a", a=INT) | {"additionalProperties": BOOL}
    assert takes(whole(PYTHON, some), "[f(a=1, x_1=True, y=False)]")
    assert not takes(whole(PYTHON, some), "[f(a=1, a=True)]") and not takes(whole(PYTHON, some), "[f(x=True)]")
    assert takes(whole(GEMMA, {"type": "object"}), '<|tool_call>call:f{x:[{y:<|"|>z<|"|>}]}<tool_call|>')
    assert takes(whole(GEMMA, closed()), "<|tool_call>call:f{}<tool_call|>")
    either = {"anyOf": [closed(a=INT), closed(b=INT)]}
    assert takes(whole(PYTHON, either), "[f(b=1)]") and not takes(whole(PYTHON, either), "[f(a=1, b=1)]")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (obj(s=form("uri")), "'uri'"),
        (obj(s={"enum": ['<|"|>']}), "quotation mark"),
        (obj("*", **{"a b": INT}), "'a b' cannot be written"),
        (obj("", a=INT, b=INT) | {"minProperties": 1}, "minProperties"),
        ({"type": "object", "enum": [{}]}, "listed values"),
        (obj("a", a={"not": {}}), "nothing is valid"),
    ],
)
def test_what_cannot_be_written(schema, words):
    with pytest.raises(GrammarError, match=words):
        whole(GEMMA, schema)
