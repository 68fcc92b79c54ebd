"""Grammars composed of parts: literal texts and control tokens, raw strings, and reasoning before them."""

import pytest

from llmlab.grammar.arguments import tagged_arguments, whole_match
from llmlab.grammar.compose import JSON, Choice, Optional, Raw, Reasoning, Repeat, Series, Text, grammar
from llmlab.grammar.vocabulary import GrammarError
from tests.grammar.schemas import BOOL, INT, closed, form, obj, pattern, ref, text
from tests.grammar.walk import END, allowed, takes, vocabulary

VOCABULARY = vocabulary()
CALLS = END + 1
A = {"type": "object", "properties": {"a": INT}, "required": ["a"]}


def test_texts_choices_and_repetition():
    one = Series((Text('call "x" '), JSON(A)))
    found = grammar(VOCABULARY, Series((Optional(Text("hm: ")), Repeat(Choice([one, Text("none")]), ";\n"), Text("."))))
    for good in ("none.", 'hm: call "x" {"a": 1}.', 'none;\ncall "x" {"a": 2};\nnone.'):
        assert takes(found, good), good
    for bad in ("", ".", "none;\n.", "none none.", 'call "x" {"a": 1} .', "hm: hm: none."):
        assert not takes(found, bad), bad


def test_a_control_tokens_name_stands_for_the_token():
    found = grammar(VOCABULARY, Series((Text("[CALLS]["), JSON(A), Text("]"))))
    assert takes(found, [CALLS, *b'[{"a": 1}]'])
    assert not takes(found, '[CALLS][{"a": 1}]')
    assert allowed(found.matcher()) == [CALLS]


def test_a_raw_string_ends_at_its_tag():
    found = grammar(VOCABULARY, Series((Raw("</v>", without=("</c>",)), Text("\n!"))))
    for good in ("</v>\n!", "a < b </b> é</v>\n!"):
        assert takes(found, good), good
    for bad in ("a\n!", "a</c></v>\n!", "a</v></v>\n!"):
        assert not takes(found, bad), bad
    year = grammar(VOCABULARY, Raw("</v>", patterns=("[0-9]+", "(?s:.{4})")))
    assert takes(year, "2024</v>") and not takes(year, "20245</v>") and not takes(year, "202x</v>")


@pytest.mark.parametrize("opened", [True, False])
def test_reasoning_comes_before(opened):
    before = Reasoning("<think>", "</think>", "\n\n", opened=opened, without=("<tool_call>",))
    found = grammar(VOCABULARY, JSON(A), reasoning=before)
    thoughts = ["hm </think>\n\n", '{"a": 2} </think', "</think></think>", "</think>\n", "</think>"]
    for thought in thoughts:
        whole = thought + '{"a": 1}' if opened else f"<think>{thought}" + '{"a": 1}'
        assert takes(found, whole) is thought.startswith(("hm", "</think>\n")) or thought == "</think>", whole
    assert takes(found, '{"a": 1}') is not opened
    assert not takes(found, ("" if opened else "<think>") + "<tool_call></think>" + '{"a": 1}')
    matcher = found.matcher()
    for byte in b"hm" if opened else b"<think>hm":
        matcher.advance(byte)
    assert END not in allowed(matcher)


def test_reasoning_that_a_control_token_closes():
    found = grammar(VOCABULARY, JSON(A), reasoning=Reasoning("<think>", "[CALLS]", "\n", opened=True))
    assert takes(found, [*b"hm [CALLS] ", CALLS, *b'\n{"a": 1}'])


TAGS = ("<k>", "</k><v>", "</v>\n")


def arguments(schema, texts=("s", "d", "e")):
    return grammar(
        VOCABULARY, tagged_arguments(schema, tags=TAGS, is_text=lambda name: name in texts, without=("</c>",))
    )


def test_arguments_as_pairs():
    schema = obj("s n", s=text(None), n=INT, d=form("date"), e={"enum": ["x", "y"]}, o=closed(b=BOOL))
    found = arguments(schema)
    for good in (
        "<k>s</k><v>it's </k> fine</v>\n<k>n</k><v>3</v>\n",
        '<k>s</k><v></v>\n<k>n</k><v>3</v>\n<k>d</k><v>2024-02-29</v>\n<k>e</k><v>y</v>\n<k>o</k><v>{"b": true}</v>\n',
    ):
        assert takes(found, good), good
    for bad in (
        "<k>s</k><v>a</v>\n",
        "<k>n</k><v>3</v>\n<k>s</k><v>a</v>\n",
        '<k>s</k><v>a</v>\n<k>n</k><v>"3"</v>\n',
        "<k>s</k><v>a</v>\n<k>n</k><v>3</v>\n<k>d</k><v>2023-02-29</v>\n",
        "<k>s</k><v>a</v>\n<k>n</k><v>3</v>\n<k>e</k><v>z</v>\n",
        "<k>s</k><v></c></v>\n<k>n</k><v>3</v>\n",
    ):
        assert not takes(found, bad), bad
    assert takes(arguments(closed()), "")
    recursive = {"$ref": "#/$defs/a", "$defs": {"a": obj("", o=ref("a"), s=text(3))}}
    assert takes(arguments(recursive), '<k>o</k><v>{"o": {"s": "x"}}</v>\n<k>s</k><v>abc</v>\n')


@pytest.mark.parametrize(
    "schema, words",
    [
        (obj(s=form("uri")), "'uri'"),
        (obj(s=pattern("a(^b)")), "anchor"),
        (obj(s={"enum": ["</c>"]}), "tags"),
        (obj(a=INT, b=INT) | {"minProperties": 1}, "minProperties"),
        ({"type": "object", "enum": [{}]}, "enum"),
        ({"type": "string"}, "object"),
        (obj("a", a={"not": {}}), "nothing is valid"),
        (obj(a={"type": "array", "uniqueItems": True, "items": {"type": "string"}}), "uniqueItems"),
    ],
)
def test_arguments_that_cannot_be_pairs(schema, words):
    with pytest.raises(GrammarError, match=words):
        arguments(schema)


@pytest.mark.parametrize(
    "expression, valid, invalid",
    [
        ("^a+$", ["a", "aa"], ["", "ba", "ab"]),
        ("a", ["a", "xax", "a\na"], ["", "x"]),
        ("^a", ["a", "ax"], ["xa"]),
        ("a$", ["xa"], ["ax"]),
        ("^a$|^b", ["a", "bx"], ["ax", "xb"]),
        (r"^\$[$^]\^$", ["$$^", "$^^"], ["$", "x$^^"]),
        (r"^(a|b){2}$", ["ab"], ["abc", "a"]),
    ],
)
def test_patterns_without_anchors(expression, valid, invalid):
    found = grammar(VOCABULARY, Raw("</v>", patterns=(whole_match(expression, "#"),)))
    assert [takes(found, text + "</v>") for text in valid] == [True] * len(valid)
    assert [takes(found, text + "</v>") for text in invalid] == [False] * len(invalid)
