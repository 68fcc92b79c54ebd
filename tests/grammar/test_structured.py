"""Structured outputs as vLLM names them: a regular expression, a choice, a Lark grammar, a JSON schema."""

import re
from random import Random

import numpy as np
import pytest

from llmlab.grammar.compose import grammar
from llmlab.grammar.parts import Reasoning
from llmlab.grammar.structured import structured_part
from llmlab.grammar.vocabulary import GrammarError
from tests.grammar.walk import END, takes, vocabulary, walk

VOCABULARY = vocabulary()

REGEXES = {
    "[0-9]{5}": (["12345"], ["1234", "123456", "a"]),
    "^[a-c]+$": (["abc"], ["", "abcd"]),
    "yes|no": (["yes", "no"], ["yesno", "ye"]),
    "^yes$|^no$": (["yes", "no"], ["yesno"]),
    r"\d{1,3}/\d{4}": (["12/1999"], ["12-1999", "/1999"]),
    r'"[^"\\]*"\n?': (['"a"', '"a"\n'], ['"a', "a"]),
    r"[\[\]&~]+": (["[]&~"], ["a"]),
    "a?": (["", "a"], ["aa"]),
    "(?:é|\\x41)[^/]": (["éx", "A "], ["B", "é/"]),
}


def of(**outputs):
    return grammar(VOCABULARY, structured_part(outputs))


@pytest.mark.parametrize("pattern", REGEXES)
def test_a_regex_matches_the_whole_answer(pattern):
    found = of(regex=pattern)
    for text in REGEXES[pattern][0]:
        assert takes(found, text) and re.fullmatch(pattern, text)
    for text in REGEXES[pattern][1]:
        assert not takes(found, text) and not re.fullmatch(pattern, text)
    rng = np.random.default_rng(0)
    for text in filter(None, (walk(found, rng) for _ in range(20))):
        assert re.fullmatch(pattern, text.decode()), text


def test_random_regexes_as_python_reads_them():
    random, rng = Random(0), np.random.default_rng(0)
    ended = 0
    for _ in range(100):
        pattern = _regex(random, 3)
        found = of(regex=pattern)
        for text in filter(lambda text: text is not None, (walk(found, rng, most=60) for _ in range(2))):
            assert re.fullmatch(pattern, text.decode()), (pattern, text)
            ended += 1
        for text in ("", "a", "ab", "a/b", "[x]"):
            assert takes(found, text) == bool(re.fullmatch(pattern, text)), (pattern, text)
    assert ended > 100


def _regex(random: Random, depth: int) -> str:
    if not depth:
        return random.choice(["a", "b", "/", r"\[", "[a-c]", "[^a]", r"\d", r"\n", "x{0,2}", '"', r"\\"])
    made = [_regex(random, depth - 1) for _ in range(random.randint(1, 3))]
    joined = random.choice(["", "|"]).join(made)
    return f"(?:{joined})" + random.choice(["", "", "?", "*", "{1,3}"])


def test_a_choice_is_one_of_the_texts():
    found = of(choice=["yes", "no", "yes please", 'quo"te', "[CALLS]", "line\nend", "中文"])
    assert all(takes(found, text) for text in ["yes", "no", "yes please", 'quo"te', "line\nend", "中文"])
    assert takes(found, "[CALLS]"), "written as text"
    assert not takes(found, [END + 1]), "not as the control token of that name"
    assert not any(takes(found, text) for text in ["", "ye", "yesno", "no "])
    assert takes(of(choice=["only"]), "only") and takes(of(choice=["", "x"]), "") and takes(of(choice=["", "x"]), "x")


def test_a_lark_grammar():
    found = of(
        grammar=r"""
        start: sum  // a comment with "quotes" and a <token>
        sum: NUMBER ("+" sum)?  # and another one
        NUMBER: /[0-9]+/ | "<" /[a-z]/ ">"
        %ignore / /
        """
    )
    assert all(takes(found, text) for text in ["1", "1+2", "1 + 2", "<a>+3"])
    assert not any(takes(found, text) for text in ["", "+", "1+", "a"])


def test_json_inside_a_lark_grammar_is_enforced_like_any_other():
    found = of(grammar='start: "Answer: " value\nvalue: %json {"type": "number", "maximum": 5}')
    assert takes(found, "Answer: 4.5") and not takes(found, "Answer: 6") and not takes(found, "Answer: 1e1")


def test_a_json_schema_as_an_object_or_as_text():
    for schema in ({"type": "integer", "minimum": 3}, '{"type": "integer", "minimum": 3}'):
        assert takes(of(json=schema), "3") and not takes(of(json=schema), "2")


@pytest.mark.parametrize("outputs", [{"regex": "[0-9]+"}, {"choice": ["1", "22"]}, {"grammar": 'start: "1" | "2" "2"'}])
def test_reasoning_comes_before_it(outputs):
    found = grammar(VOCABULARY, structured_part(outputs), reasoning=Reasoning("<think>", "</think>", "\n"))
    assert takes(found, "<think>why</think>\n22") and takes(found, "22") and not takes(found, "<think>why</think>x")


@pytest.mark.parametrize(
    "outputs, words",
    [
        ({}, "exactly one of json, regex, choice, grammar; got none"),
        ({"regex": "a", "choice": ["b"]}, "got regex and choice"),
        ({"regex": None}, "got none"),
        ({"structural_tag": "x"}, "structural_tag: unknown key"),
        ({"regex": 3}, "regex: must be a text, got 3"),
        ({"regex": "["}, "regex: "),
        ({"regex": "(?=a)b"}, "regex: "),
        ({"regex": r"(a)\1"}, "regex: "),
        ({"regex": "a^b"}, "regex: pattern: 'a^b' has an anchor inside"),
        ({"regex": "a" * 200_000}, "regex: has 200000 characters"),
        ({"regex": "\ud800"}, "regex: holds half of a surrogate pair"),
        ({"choice": "yes"}, "choice: must be a list"),
        ({"choice": []}, "choice: must be a list"),
        ({"choice": ["a", 3]}, "choice[1]: must be a text, got 3"),
        ({"choice": ["\ud800"]}, "choice[0]: holds half"),
        ({"grammar": {"start": 1}}, "grammar: must be a text"),
        ({"grammar": 'root ::= "a"'}, "GBNF"),
        ({"grammar": 'a: "x"'}, "grammar: no start rule"),
        ({"grammar": "start: b"}, "unknown name"),
        ({"grammar": 'start: "a'}, "grammar: "),
        ({"grammar": "start: start"}, "grammar: "),
        ({"grammar": 'start: "a"\n  <[5]>'}, "grammar line 2: <[5]> names a token"),
        ({"grammar": "start: @other"}, "names another grammar"),
        ({"grammar": '%llguidance {"no_forcing": false}\nstart: "a"'}, "%llguidance is not supported"),
        ({"grammar": 'start: a\na[stop="x"]: /y+/'}, "grammar line 2: the option 'stop' cannot be enforced"),
        ({"grammar": 'start: a\na[max_tokens=5]: /y+/'}, "'max_tokens'"),
        ({"grammar": 'start: %json {"type": "strng"}'}, "grammar line 1 #: type must be one of"),
        ({"grammar": "start: %json x"}, "not followed by JSON"),
        ({"json": "{"}, "json: the text is not JSON"),
        ({"json": {"properties": {"a": {"type": 3}}}}, "json#/properties/a: type must be"),
        ({"json": {"type": "string", "maxLength": 1000, "pattern": r"^(\S+\s+){0,9}\S+$"}}, "json#: maxLength"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_refused_by_name(outputs, words):
    with pytest.raises(GrammarError) as caught:
        of(**outputs)
    print(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    "outputs",
    [
        {"grammar": 'start: ("b"{1,1000}){1,1000}'},
        {"grammar": 'start: ((("b"?)*)*)* "c"'},
        {"grammar": "start: A\nA: /(a{1,1000}){1,1000}/"},
        {"grammar": "start: e\ne: e e | e e e | /a/"},
        {"grammar": "\n".join(['start: r0 "x"', *(f"r{i}: r{i + 1} r{i + 1}" for i in range(40)), 'r40: "a"?'])},
        {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
        {"grammar": "start: A\nA: " + " & ".join(f"/(.*x.{{{i}}}y.*)/" for i in range(2, 40))},
        {"regex": "(a|b)*a(a|b){60}"},
        {"regex": "(((a{1,50}){1,50}){1,50}){1,50}"},
        {"regex": "(" * 5000 + "a" + ")" * 5000},
        {"regex": r"(\S+\s+){0,900}\S+x.{900}"},
        {"choice": [f"choice number {i}" for i in range(5000)]},
    ],
)
def test_a_pathological_grammar_is_refused_or_can_be_followed(outputs):
    try:
        found = of(**outputs)
    except GrammarError as error:
        print(f"refused: {error}")
        return
    rng = np.random.default_rng(0)
    for _ in range(3):
        walk(found, rng, most=100)  # which asserts that no step fails
