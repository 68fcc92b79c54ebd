"""JSON schemas: what is generated is valid, and a keyword that cannot be enforced is refused by name."""

import json
from random import Random

import numpy as np
import pytest

from llmlab.grammar.compose import JSON, grammar
from llmlab.grammar.schema import llguidance_schema
from llmlab.grammar.vocabulary import GrammarError
from tests.grammar.schemas import INT, NUM, REFUSED, SCHEMAS, arr, obj
from tests.grammar.validity import problem
from tests.grammar.walk import allowed, takes, vocabulary, walk

VOCABULARY = vocabulary()


def of(schema):
    return grammar(VOCABULARY, JSON(schema))


def test_what_random_walks_write_is_valid():
    rng = np.random.default_rng(0)
    ended = begun = 0
    for name, schema in SCHEMAS.items():
        compiled = of(schema)
        found = [walk(compiled, rng) for _ in range(4)]
        for text in filter(None, found):
            assert problem(text.decode(), schema) is None, (name, text, problem(text.decode(), schema))
        begun, ended = begun + len(found), ended + sum(text is not None for text in found)
    print(f"{len(SCHEMAS)} schemas, {begun} walks, {ended} came to an end")
    assert len(SCHEMAS) >= 100 and ended > 0.95 * begun


def test_numbers_between_any_bounds():
    rng, random = np.random.default_rng(0), Random(0)
    walks = refused = 0
    for _ in range(300):
        schema = bounded(random)
        try:
            compiled = of(schema)
        except GrammarError as error:
            assert "no number" in str(error) or "multiple" in str(error), (schema, error)
            refused += 1
            continue
        for _ in range(3):
            text = walk(compiled, rng).decode()
            assert problem(text, schema) is None, (schema, text)
            walks += 1
    print(f"{walks} numbers, {refused} schemas that leave none")
    assert walks > 450


def bounded(random: Random) -> dict:
    value = [
        lambda: random.randint(-3, 3),
        lambda: random.uniform(-2, 2),
        lambda: round(random.uniform(-9, 9), random.randint(1, 4)),
        lambda: random.choice([1, -1]) * 10.0 ** random.randint(-9, 14),
    ]
    low, high = sorted(random.choice(value)() for _ in range(2))
    words = random.choice(["minimum", "exclusiveMinimum"]), random.choice(["maximum", "exclusiveMaximum"])
    made = {"type": random.choice(["number", "integer"]), words[0]: low, words[1]: high}
    multiple = random.choice([None, None, None, 1, 3, 0.5, 0.25, 0.1, 0.05])
    return made if multiple is None else made | {"multipleOf": multiple}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused_with_its_reason(name):
    schema, words = REFUSED[name]
    with pytest.raises(GrammarError) as caught:
        llguidance_schema(schema)
    assert words in str(caught.value), str(caught.value)
    print(f"{name}: {caught.value}")


@pytest.mark.parametrize(
    "schema, valid, invalid",
    [
        (NUM, ["0", "-1.5", "999999999999999.123456789"], ["1e5", "1e999", "1" * 400, "0." + "1" * 40, "01", ".5"]),
        (INT, ["9007199254740991"], ["9007199254740992", "1.0", "1" * 400]),
        (True, ["12.5", '[1, {"a": null}]'], ["1e999", "[1e999]", '{"a": 1e9}', "1" * 400]),
        ({"type": "object"}, ['{"a": 1, "b": [true]}'], ["[1]", "1", '{"a": 1e999}']),
        (obj("a", a=INT), ['{"a": 1}', '{"a":1}', '{\n  "a": 1\n}'], ['{"a": 1, "b": 2}', "{}"]),
        (obj(a=INT, b=INT), ["{}", '{"b": 1}', '{"a": 1, "b": 2}'], ['{"b": 1, "a": 2}', '{"a": 1, "a": 1}']),
        (
            obj("a", a=INT) | {"additionalProperties": True},
            ['{"a": 1, "b": 2}'],
            ['{"a": 1, "a": "x"}', r'{"a": 1, "\u0061": "x"}'],
        ),
        (arr(INT), ["[]", "[1, 2]"], ["[1,]", "[1 2]", "[  1]", "[\n\n1]", "[1] ", " [1]", "[" + " " * 9 + "]"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.5", "0.000000001"], ["0", "-0", "0.0", "0.6"]),
        ({"type": "number", "minimum": 0.3, "maximum": 0.9, "multipleOf": 0.1}, ["0.3", "0.7", "0.9"], ["0.35", "1"]),
        ({"type": "number", "minimum": 0.3, "maximum": 0.3, "multipleOf": 0.1}, ["0.3"], ["0.30", "0.4"]),
        ({"type": "number", "exclusiveMinimum": 1e14}, ["100000000000001"], ["100000000000000"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-10}, ["0.0000000001"], ["0"]),
        ({"const": 1e22}, ["10000000000000000000000"], ["1", "1e21"]),
        ({"type": "string", "pattern": '^[^"]$'}, ['"\\\\"', '"é"'], ['"\\""']),
        ({"const": {"a": [1, "x"]}}, ['{"a": [1, "x"]}'], ['{"a": [1]}', '{"a": [1, "x"], "b": 1}']),
        ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '"1900-02-29"', '"0000-01-01"']),
        ({"type": "string", "format": "time"}, ['"23:59:59Z"'], ['"23:59:60Z"', '"23:59"', '"24:00:00Z"']),
    ],
)
def test_what_is_written_and_what_is_not(schema, valid, invalid):
    compiled = of(schema)
    assert [takes(compiled, text) for text in valid] == [True] * len(valid)
    assert [takes(compiled, text) for text in invalid] == [False] * len(invalid)


def test_white_space_comes_to_an_end_everywhere():
    compiled = of(SCHEMAS["table"])
    matcher = compiled.matcher()
    text = b""
    for wanted in b'[{"id":1,"ok":true},{"id":2,"ok":true}]':
        for run in range(30):  # as much white space as there may be before each sign
            spaces = [token for token in allowed(matcher) if token in (10, 9, 32)]
            if not spaces:
                break
            matcher.advance(spaces[-1] if run else spaces[0])
            text += bytes([spaces[-1] if run else spaces[0]])
        assert run <= 17, text
        matcher.advance(wanted)
        assert matcher.error is None, text
        text += bytes([wanted])
    assert json.loads(text) and matcher.complete
    assert set(allowed(matcher)) == set(VOCABULARY.ends)


def test_nothing_hangs_on_a_schema_made_to_be_heavy():
    deep: dict = {}
    for _ in range(3000):
        deep = {"items": deep}
    wide = {"anyOf": [obj(f"k{i}", **{f"k{i}": INT}) for i in range(300)]}
    product = {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": -i}]} for i in range(1, 12)]}
    with pytest.raises(GrammarError, match="deep"):
        llguidance_schema(deep)
    with pytest.raises(GrammarError, match="combinations"):
        llguidance_schema(product)
    base = {"$defs": {"base": obj("", **{f"p{i}": INT for i in range(300)})}}
    with pytest.raises(GrammarError, match="subschemas"):
        llguidance_schema(
            base | obj("", **{f"q{i}": {"allOf": [{"$ref": "#/$defs/base"}, {"required": ["p1"]}]} for i in range(300)})
        )
    assert llguidance_schema(wide)


def test_an_error_is_as_long_as_one_reads():
    long = "a" * 9000
    for schema in ({"type": "string", "pattern": f"^{long}$", "maxLength": 2}, obj(long, **{long: {"not": {}}})):
        with pytest.raises(GrammarError) as caught:
            llguidance_schema(schema)
        assert 50 < len(str(caught.value)) < 1200


def test_a_schema_that_is_none():
    for bad in (3, "x", None, [1], {"properties": 3}, {"enum": [{1, 2}]}, {"const": float("nan")}):
        with pytest.raises(GrammarError):
            llguidance_schema(bad)
