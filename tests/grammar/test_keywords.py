"""Keywords that are rewritten (not, if, dependencies, propertyNames, contains, uniqueItems, oneOf), against jsonschema.

Each schema comes with values that can be written; whatever else is written must be valid, and no value of a fixed list
that jsonschema refuses may be accepted.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import numpy as np
import pytest

from llmlab.grammar.compose import JSON, grammar
from llmlab.grammar.vocabulary import GrammarError
from tests.grammar.schemas import BOOL, INT, NUM, arr, between, closed, form, obj, pattern, tagged, text
from tests.grammar.validity import problem
from tests.grammar.walk import takes, vocabulary, walk

VOCABULARY = vocabulary()
DRAFT_4 = {"$schema": "http://json-schema.org/draft-04/schema#"}
DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}

#: A schema, and values that it must be possible to write under it.
WRITABLE: dict[str, tuple[Any, list[Any]]] = {
    "not a type": ({"not": {"type": ["object", "array", "number"]}}, ["a", True, None]),
    "not a value": ({"enum": [1, 2, "a"], "not": {"const": 2}}, [1, "a"]),
    "not a text": ({"type": "string", "not": {"enum": ["", "a", "ab"]}}, ["b", "abc", "aa"]),
    "not a number": ({"type": "integer", "not": {"enum": [0, 1, 5]}}, [-1, 2, 4, 6]),
    "not an integer": (between(1, 3) | {"not": {"const": 2}}, [1, 3]),
    "not empty": ({"type": ["array", "object"], "not": {"enum": [[], {}]}}, [[1], {"a": 1}]),
    "not required": (obj("", a=INT, b=INT) | {"not": {"required": ["a"]}}, [{}, {"b": 1}]),
    "not both": (obj("", a=INT, b=INT) | {"not": {"required": ["a", "b"]}}, [{}, {"a": 1}, {"b": 1}]),
    "not a pattern": ({"type": "string", "not": {"pattern": "^[0-9]"}}, ["", "a1"]),
    "not a bound": ({"type": "number", "not": {"minimum": 5}}, [4, -1.5]),
    "not a length": ({"type": "string", "not": {"maxLength": 2}}, ["abc"]),
    "not one of several": ({"not": {"anyOf": [{"type": "string"}, {"type": "object"}]}}, [1, None, [1]]),
    "not not": ({"not": {"not": between(0, 9)}}, [3]),
    "not a property's value": (
        obj("kind", kind=text(3)) | {"not": {"properties": {"kind": {"const": "x"}}}},
        [{"kind": "y"}],
    ),
    "if a const": (
        obj("kind", kind={"enum": ["a", "b"]}, n=INT)
        | {"if": {"properties": {"kind": {"const": "a"}}}, "then": {"required": ["n"]}},
        [{"kind": "a", "n": 1}, {"kind": "b"}],
    ),
    "if and else": (
        obj("country", country={"enum": ["US", "NL"]}, code=text(7))
        | {
            "if": {"properties": {"country": {"const": "US"}}, "required": ["country"]},
            "then": {"properties": {"code": {"pattern": "^[0-9]{5}$"}}},
            "else": {"properties": {"code": {"pattern": "^[0-9]{4}[A-Z]{2}$"}}},
        },
        [{"country": "US", "code": "12345"}, {"country": "NL", "code": "1234AB"}],
    ),
    "then without if": ({"type": "string", "then": {"maxLength": 1}, "maxLength": 3}, ["abc"]),
    "dependentRequired": (
        obj("", card=INT, address=INT) | {"dependentRequired": {"card": ["address"]}},
        [{}, {"card": 1, "address": 2}, {"address": 2}],
    ),
    "dependencies of both kinds": (
        DRAFT_7 | obj("", a=INT, b=INT) | {"dependencies": {"a": ["b"], "b": {"properties": {"b": {"minimum": 3}}}}},
        [{}, {"b": 3}, {"a": 1, "b": 4}],
    ),
    "dependentSchemas": (
        obj("", a=INT, b=INT) | {"dependentSchemas": {"a": {"properties": {"b": {"maximum": 3}}, "required": ["b"]}}},
        [{}, {"b": 9}, {"a": 1, "b": 3}],
    ),
    "names from a list": (
        {"type": "object", "additionalProperties": INT, "propertyNames": {"enum": ["a", "b"]}},
        [{}, {"a": 1}, {"a": 1, "b": 2}],
    ),
    "names under a pattern": (
        {"type": "object", "additionalProperties": BOOL, "propertyNames": {"pattern": "^[a-z]+$", "maxLength": 3}},
        [{"abc": True}, {}],
    ),
    "names of a length": (
        {"type": "object", "additionalProperties": BOOL, "propertyNames": {"minLength": 2, "maxLength": 4}},
        [{"ab": True}],
    ),
    "names that are dates": (
        {"type": "object", "additionalProperties": BOOL, "propertyNames": {"format": "date"}},
        [{"2024-02-29": True}],
    ),
    "names but one": (
        {"type": "object", "additionalProperties": BOOL, "propertyNames": {"not": {"const": "a"}}},
        [{"b": True, "ab": False}],
    ),
    "a name that may not be": (obj("", a=INT, bb=INT) | {"propertyNames": {"minLength": 2}}, [{}, {"bb": 1}]),
    "different enums": (arr({"enum": ["a", "b", "c"]}) | {"uniqueItems": True}, [[], ["c", "a"], ["a", "b", "c"]]),
    "different enums, many": (
        arr({"enum": list("abcdefghijklmnopqrst")}, 1, 3) | {"uniqueItems": True},
        [["a"], ["c", "t"], ["b"]],
    ),
    "different booleans": (arr(BOOL) | {"uniqueItems": True}, [[], [True], [False, True]]),
    "different small integers": (arr(between(1, 4), 2, 2) | {"uniqueItems": True}, [[1, 4], [3, 2]]),
    "at most one is different": (arr(text(3), 0, 1) | {"uniqueItems": True}, [[], ["a"]]),
    "different by themselves": (
        {"prefixItems": [INT, text(2)], "items": False, "uniqueItems": True, "type": "array", "minItems": 2},
        [[1, "a"]],
    ),
    "contains": ({"type": "array", "items": between(0, 9), "contains": {"const": 5}}, [[5], [5, 1]]),
    "contains two": (arr(between(0, 9)) | {"contains": {"minimum": 5}, "minContains": 2}, [[5, 6], [7, 8, 1]]),
    "contains one at most": (
        arr(between(0, 9)) | {"contains": {"minimum": 5}, "maxContains": 1},
        [[5], [5, 1, 2]],
    ),
    "oneOf where both may be": (
        obj("", a=INT, b=INT) | {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}, {"b": 1}],
    ),
    "oneOf by a const in allOf": (
        {
            "oneOf": [
                {"allOf": [obj("k", k={"const": "a"}), obj("", x=INT)]},
                {"allOf": [obj("k", k={"const": "b"}), obj("", x=INT)]},
            ]
        },
        [{"k": "a"}, {"k": "b", "x": 1}],
    ),
    "oneOf by address": ({"oneOf": [form("ipv4"), form("ipv6")]}, ["127.0.0.1", "::1"]),
    "oneOf by pattern": ({"oneOf": [pattern("^a+$"), pattern("^b+$")]}, ["aa", "b"]),
    "oneOf by length": ({"oneOf": [text(2), text(5, minLength=3)]}, ["ab", "abcd"]),
    "oneOf of enum and pattern": ({"oneOf": [{"enum": ["", "none"]}, pattern("^[0-9]+$")]}, ["none", "12"]),
    "oneOf by bounds of a list": ({"oneOf": [{"const": 3}, {"type": "integer", "minimum": 10}]}, [3, 10]),
    "oneOf of overlapping ranges": ({"type": "integer", "oneOf": [between(0, 5), between(3, 9)]}, [0, 9]),
    "oneOf by number of items": ({"oneOf": [arr(INT, 0, 1), arr(INT, 2, 3)]}, [[1], [1, 2]]),
    "a name and its pattern": (
        {"type": "object", "properties": {"x-a": text(3)}, "patternProperties": {"^x-": {"type": "string"}}}
        | {"required": ["x-a", "x-b"], "additionalProperties": False},
        [{"x-a": "a", "x-b": "b"}],
    ),
    "patterns that overlap": (
        {"type": "object", "patternProperties": {"^a": INT, "b$": {"minimum": 5}}, "additionalProperties": False},
        [{"a": 1}, {"b": 5}, {"ab": 6}],
    ),
    "listed arrays beside other keywords": ({"const": [1, [2]], "minItems": 1}, [[1, [2]]]),
    "listed objects beside properties": (
        {"enum": [{"a": 1}, {"a": 2}, {"a": "x"}], "properties": {"a": {"type": "integer", "minimum": 2}}},
        [{"a": 2}],
    ),
    "bounds of 64 bits": (obj("*", a={"type": "integer", "minimum": 0, "maximum": 2**63 - 1}), [{"a": 7}]),
    "bounds of unsigned 64 bits": ({"type": "number", "minimum": -(2**63), "maximum": 2**64 - 1}, [7, -2.5]),
    "a decimal as pydantic writes it": (pattern(r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"), ["1.5", "-.5", "00"]),
    "not blank": (pattern(r"^(?!\s*$).+"), [" a", "a"]),
    "two look-aheads": (pattern(r"^(?=.*[a-z])(?=.*\d)[a-z\d]{2,4}$"), ["a1", "1ab2"]),
    "unevaluatedProperties": (
        {"allOf": [obj("", a=INT)], "properties": {"b": INT}, "unevaluatedProperties": False},
        [{}, {"a": 1}, {"b": 1}],
    ),
    "unevaluatedItems": ({"prefixItems": [INT], "unevaluatedItems": BOOL, "type": "array"}, [[1], [1, True]]),
    "a json-pointer": (form("json-pointer"), ["", "/a/0/~1b"]),
    "a relative-json-pointer": (form("relative-json-pointer"), ["0", "1/a", "2#"]),
    "a uri-reference": (form("uri-reference"), ["", "a/b.json#/c", "/x?y=1"]),
    "an iri": (form("iri"), ["https://a.b/c"]),
    "its own id": ({"$id": "https://x.test/s", "type": "array", "items": {"$ref": "https://x.test/s"}}, [[], [[]]]),
    "its own id, as a file": (
        {"$id": "https://x.test/s.json", **arr({"$ref": "s.json#/$defs/a"}), "$defs": {"a": BOOL}},
        [[True]],
    ),
    "an id inside": (
        {
            "$id": "https://x.test/root",
            "$defs": {"n": {"$id": "n", "$defs": {"m": INT}, **arr({"$ref": "#/$defs/m"})}, "m": BOOL},
            "$ref": "n",
        },
        [[1], []],
    ),
    "anchors of two resources": (
        {
            "$id": "https://x.test/root",
            "$defs": {
                "in": {"$id": "in", "$defs": {"x": {"$anchor": "x", "type": "string"}}},
                "x": {"$anchor": "x", **INT},
            },
            "type": "array",
            "prefixItems": [{"$ref": "#x"}, {"$ref": "in#x"}],
            "minItems": 2,
        },
        [[1, "a"]],
    ),
    "an anchor of draft 4": (DRAFT_4 | {"definitions": {"a": {"id": "#a", **BOOL}}, "$ref": "#a"}, [True]),
    "an anchor of draft 7": (DRAFT_7 | {"definitions": {"a": {"$id": "#a", **BOOL}}, "$ref": "#a"}, [False]),
    "an id of draft 4": (DRAFT_4 | {"id": "http://x.test/s#", **obj("", n={"$ref": "http://x.test/s#"})}, [{"n": {}}]),
    "what draft 4 does not know": (DRAFT_4 | {"not": {"const": 3}, "type": "object"}, []),
    "what draft 7 does not know": (DRAFT_7 | {"contains": INT, "minContains": 0, "type": "array", "items": NUM}, [[1]]),
    "tagged or not": ({"oneOf": [tagged("k", "a", v=INT), obj("v", v=INT, k=text(2))]}, [{"v": 1}, {"v": 1, "k": "b"}]),
}  # fmt: skip

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 3, 5, 10, -1, 0.5, 4, 2**53, "", "a", "ab", "abc", "b", "1", "12345", "none", " ",
    "..", "127.0.0.1", "::1", "a1", "é", "a\n", [], [1], [5], [1, 1], [1, 2], ["a"], ["a", "a"], ["a", "b", "a"],
    [True, True], [True, False], [1, "a"], ["a", 1], [[2]], [1, [2]], [5, 6], [4, 4], [6, 7, 8], {}, {"a": 1},
    {"a": 2}, {"a": "x"}, {"b": 1}, {"b": 2}, {"a": 1, "b": 1}, {"a": 1, "b": 5}, {"c": 1}, {"ab": 1}, {"bb": 1},
    {"kind": "a"}, {"kind": "x"}, {"kind": "b", "n": 1}, {"country": "US", "code": "1234AB"},
    {"country": "NL", "code": "12345"}, {"card": 1}, {"card": 1, "address": 1}, {"x-a": "a"}, {"x-a": "a", "x-b": 1},
    {"k": "a"}, {"k": "c"}, {"a": True}, {"abcd": True}, {"2023-02-29": True}, {"a": 2**63}, {"n": 1},
    {"k": "a", "v": 1}, {"k": "b", "v": 1}, [["a"]], ["a", 2],
]  # fmt: skip


@pytest.mark.parametrize("name", WRITABLE)
def test_what_is_written_is_valid_and_what_is_not_valid_is_refused(name):
    schema, writable = WRITABLE[name]
    if name == "what draft 4 does not know":  # no value fails a keyword that its draft lacks, so none passes the `not`
        with pytest.raises(GrammarError, match="nothing is valid"):
            grammar(VOCABULARY, JSON(schema))
        return
    found = grammar(VOCABULARY, JSON(schema))
    for value in writable:
        assert problem(json.dumps(value), schema) is None, f"the test itself is wrong about {value}"
        assert takes(found, json.dumps(value)), value
    for value in VALUES:
        written = json.dumps(value, ensure_ascii=False)
        assert not takes(found, written) or problem(written, schema) is None, value
    rng = np.random.default_rng(0)
    for made in filter(None, (walk(found, rng) for _ in range(6))):
        assert problem(made.decode(), schema) is None, made


def test_random_schemas_are_never_wider():
    random, rng = Random(0), np.random.default_rng(0)
    compiled = walks = 0
    for _ in range(150):
        schema = some_schema(random, 3)
        schema["$defs"] = {"p": some_schema(random, 1), "q": some_schema(random, 1)}
        try:
            found = grammar(VOCABULARY, JSON(schema))
        except GrammarError:
            continue
        compiled += 1
        for made in filter(None, (walk(found, rng, most=120) for _ in range(3))):
            walks += 1
            assert problem(made.decode(), schema) is None, (schema, made)
        for value in VALUES:
            written = json.dumps(value, ensure_ascii=False)
            assert not takes(found, written) or problem(written, schema) is None, (schema, value)
    print(f"{compiled} of 150 schemas compile; {walks} texts are valid")
    assert compiled > 90 and walks > 250


def some_schema(random: Random, depth: int) -> dict[str, Any]:
    """A schema that combines up to three groups of keywords."""

    def inner() -> Any:
        return some_schema(random, depth - 1) if depth > 1 else random.choice([INT, text(3), BOOL, True, {"const": 1}])

    names = ["a", "b", "ab"]
    made: dict[str, Any] = {}
    for _ in range(random.randint(1, 3)):
        made |= random.choice(
            [
                lambda: {"type": random.choice(["object", "array", "string", "integer", ["object", "array"]])},
                lambda: {"type": "object", "properties": {name: inner() for name in random.sample(names, 2)}},
                lambda: {"required": random.sample(names, random.randint(1, 2))},
                lambda: {"not": inner()},
                lambda: {"if": inner(), "then": inner(), "else": inner()},
                lambda: {random.choice(["anyOf", "oneOf", "allOf"]): [inner(), inner()]},
                lambda: {"oneOf": [inner(), inner()]},
                lambda: {"enum": random.sample(VALUES, 4)},
                lambda: {"dependentRequired": {random.choice(names): random.sample(names, 1)}},
                lambda: {"dependentSchemas": {random.choice(names): inner()}},
                lambda: {"propertyNames": random.choice([{"enum": ["a", "b"]}, {"pattern": "^a"}, {"minLength": 2}])},
                lambda: {"patternProperties": {random.choice(["^a", "b$", r"^\w$"]): inner(), "^.?$": inner()}},
                lambda: {"additionalProperties": random.choice([False, inner()])},
                lambda: {"items": inner(), "maxItems": 3},
                lambda: {"prefixItems": [inner()], "uniqueItems": True, "maxItems": 1},
                lambda: {"items": {"enum": [1, "a", True]}, "uniqueItems": True},
                lambda: {"contains": inner(), "maxItems": 3},
                lambda: random.choice([{"minimum": 1}, {"maximum": 2}, {"minLength": 2}, {"pattern": "^[ab]*$"}]),
                lambda: {"unevaluatedProperties": False},
                lambda: {"$ref": random.choice(["#/$defs/p", "#/$defs/q"])} if depth > 1 else {},
            ]
        )()
    return made


def test_an_error_quotes_the_line_that_names_the_property():
    schema = {"$defs": {"p": obj("x", x=False)}, "anyOf": [{"$ref": "#/$defs/p"}], "type": "object", "required": ["y"]}
    with pytest.raises(GrammarError, match="'x'"):
        grammar(VOCABULARY, JSON(schema | {"properties": {"y": {"$ref": "#/$defs/p"}}}))
    with pytest.raises(GrammarError, match="#/properties/deep/properties/p: pattern: look-around"):
        grammar(VOCABULARY, JSON(obj("deep", deep=obj("p", p=pattern("(?<=a)b")))))


def test_nothing_hangs_on_conditions_made_to_be_heavy():
    nested: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        nested = {"if": nested, "then": {"type": "string"}, "else": {"not": {"const": "a"}}}
    heavy = [f"^(?!(a|b)*a(a|b){{{n}}}$).*$" for n in range(3, 60)]
    for schema in (
        nested,
        {"oneOf": [obj(f"k{i}", **{f"k{j}": INT for j in range(20)}) for i in range(20)]},
        {"dependentRequired": {f"a{i}": [f"b{i}"] for i in range(40)}},
        {"patternProperties": {f"a{{{i}}}b": INT for i in range(40)}, "additionalProperties": BOOL},
        closed("", **{f"p{i}": pattern(each) for i, each in enumerate(heavy)}),
        {"allOf": [pattern(f".*x.{{{n}}}y.*") for n in range(2, 40)]},
        arr({"enum": list(range(60))}, 30, 40) | {"uniqueItems": True},
    ):
        try:
            grammar(VOCABULARY, JSON(schema))
        except GrammarError as error:
            print(f"refused: {error}")
