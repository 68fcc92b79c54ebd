"""Sets of strings against Python's `re`: what an expression matches, complements, intersections, and their spelling."""

import re
from itertools import product
from random import Random

import pytest

from llmlab.grammar.compose import grammar
from llmlab.grammar.parts import Regex
from llmlab.grammar.regular import ExpressionError, language, length, texts
from tests.grammar.walk import takes, vocabulary

VOCABULARY = vocabulary()
ALPHABET = "ab1 "
WORDS = ["".join(word) for size in range(5) for word in product(ALPHABET, repeat=size)]


def expression(random: Random, depth: int) -> str:
    if not depth:
        return random.choice(["a", "b", "1", " ", "[ab]", "[^a]", r"\d", r"\w", r"\s", ".", r"\S", "[^\\d]", "[a-b1]"])
    made = [expression(random, depth - 1) for _ in range(random.randint(1, 3))]
    inner = random.choice(["", "|"]).join(made)
    return random.choice(["(?:{})", "({})", "(?:{})"]).format(inner) + random.choice(["", "", "?", "*", "+", "{1,2}"])


def whole(random: Random) -> str:
    ahead = random.choice(["", "", "(?!{})", "(?={})", "(?!{}$)", "(?!^{}$)", "(?=.*{})"])
    first = random.choice(["^", "^", ""])
    if first == "" and "^" in ahead:
        ahead = ""
    found = first + ahead.format(expression(random, 1)) + expression(random, 2) + random.choice(["$", "$", ""])
    return f"{found}|{expression(random, 1)}" if random.random() < 0.2 else found


def test_what_expressions_match():
    random = Random(0)
    read = 0
    for _ in range(200):
        pattern = whole(random)
        try:
            found = language(pattern)
        except ExpressionError:
            continue
        read += 1
        wrong = [word for word in WORDS if (word in found) != bool(re.search(pattern, word))]
        assert not wrong, (pattern, wrong[:5])
        opposite = ~found
        assert [word in opposite for word in WORDS] == [word not in found for word in WORDS]
    assert read > 170


def test_intersections_and_their_spelling():
    random = Random(1)
    spelled = 0
    for _ in range(100):
        one, two = whole(random), whole(random)
        try:
            first, second = language(one), language(two)
            both = first & ~second
        except ExpressionError:
            continue
        wanted = [word for word in WORDS if re.search(one, word) and not re.search(two, word)]
        assert [word for word in WORDS if word in both] == wanted, (one, two)
        either = first | second
        assert [word for word in WORDS if word in either] == [
            word for word in WORDS if re.search(one, word) or re.search(two, word)
        ]
        if both.empty:
            assert not wanted
            continue
        try:
            made = both.expression().removeprefix("^").removesuffix("$")
        except ExpressionError:
            continue
        spelled += 1
        compiled = grammar(VOCABULARY, Regex(made))
        short = [word for word in WORDS if len(word) < 4]
        assert [word for word in short if takes(compiled, word)] == [word for word in short if word in wanted], made
    assert spelled > 30


def test_lengths_and_listed_texts():
    assert [word for word in WORDS if word in length(1, 2)] == [word for word in WORDS if 1 <= len(word) <= 2]
    assert [word for word in WORDS if word in length(3, None)] == [word for word in WORDS if len(word) >= 3]
    assert "" in length(0, 0) and "a" not in length(0, 0) and "abc" in length(0, None)
    found = texts(["a", "ab", ""])
    assert [word for word in WORDS if word in found] == ["", "a", "ab"]
    assert (found & language("^b")).empty and texts([]).empty


@pytest.mark.parametrize(
    "pattern, words, others",
    [
        (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", ["1", "-0.5", ".5", "5.", "00"], ["", "-", ".", "1e5", "+."]),
        (r"^(?!\s*$).+", ["a", " a"], ["", "  "]),
        (r"^(?=.*[a-z])(?=.*\d)[a-z\d]{3}$", ["a1b", "11a"], ["abc", "111", "a1"]),
        (r"^(?:(?!foo).)*$", None, None),
        (r"(?<!a)b", None, None),
        (r"\bword\b", None, None),
        (r"(a)\1", None, None),
        (r"a{1,100000}", None, None),
        (r"^(a|b)*a(a|b){12}$", None, None),
        (r"[]", None, None),
    ],
)
def test_what_can_be_read(pattern, words, others):
    if words is None:
        with pytest.raises(ExpressionError):
            language(pattern)
        return
    found = language(pattern)
    assert all(word in found for word in words) and not any(word in found for word in others)


def test_what_engines_disagree_on_is_read_both_ways():
    for pattern, text in (
        ("^a$", "a\n"),
        (r"^\w$", "é"),
        (r"^\W$", "é"),
        (r"^\d$", "٣"),
        (r"^\D$", "٣"),
        (r"^[^\w]$", "é"),
    ):
        assert text not in language(pattern) and text in language(pattern, wide=True), pattern
        assert text not in ~language(pattern, wide=True)
    assert "é" not in language(r"^(?!\w).$"), "whether the look-ahead holds is not agreed on"
