"""Token masks: their bits, tokens with equal bytes, vocabularies without an end token, and errors."""

import json

import numpy as np
import pytest

from llmlab.grammar.compose import JSON, Text, grammar
from llmlab.grammar.matcher import Grammar, fill_masks
from llmlab.grammar.schema import llguidance_schema
from llmlab.grammar.vocabulary import GrammarError, Vocabulary, error_text
from tests.grammar.schemas import SCHEMAS
from tests.grammar.walk import END, SIZE, allowed, takes, vocabulary


def test_all_rows_at_once_are_each_by_itself():
    words = vocabulary()
    rng = np.random.default_rng(1)
    matchers = [grammar(words, JSON(schema)).matcher() for schema in list(SCHEMAS.values())[:40]]
    for _ in range(6):
        together = np.zeros((len(matchers), words.words), np.uint32)
        fill_masks(matchers, together)
        for matcher, row in zip(matchers, together, strict=True):
            alone = np.zeros((1, words.words), np.uint32)
            fill_masks([matcher], alone)
            np.testing.assert_array_equal(row, alone[0])
            choices = allowed(matcher)
            assert max(choices) < SIZE
            if token := int(rng.choice(choices)):
                matcher.advance(token) if token != END else None
    fill_masks([], np.zeros((0, words.words), np.uint32))


def test_tokens_of_one_spelling_are_all_allowed():
    tokens = [*(bytes([i]) for i in range(256)), b"a", None, b"", b"yes", b"yes", b"a"]
    words = Vocabulary(tokens, size=288, ends=(257,))
    found = grammar(words, Text("a yes"))
    assert allowed(found.matcher()) == [97, 256, 261]
    assert np.flatnonzero(found.allowed([])).tolist() == [97, 256, 261]
    assert np.flatnonzero(found.allowed([256, 32])).tolist() == [121, 259, 260]
    assert not found.allowed([98]).any(), "what does not follow the grammar has no next token"
    for one in (97, 256, 261):
        matcher = found.matcher()
        for token in (one, 32):
            matcher.advance(token)
        assert allowed(matcher) == [121, 259, 260]
        matcher.advance(260)
        assert matcher.complete and allowed(matcher) == [257]


@pytest.mark.parametrize("size", [SIZE, 288, 320])
def test_a_vocabulary_without_an_end(size):
    words = Vocabulary([bytes([i]) for i in range(256)], size=size)
    found = grammar(words, JSON({"const": 12}))
    matcher = found.matcher()
    for token in b"12":
        assert allowed(matcher) == [token]
        matcher.advance(token)
    assert matcher.complete and allowed(matcher) == []


def test_a_token_that_was_not_allowed_is_an_error_that_stays():
    found = grammar(vocabulary(), JSON({"type": "integer"}))
    matcher, other = found.matcher(), found.matcher()
    matcher.advance(ord("x"))
    assert matcher.error and "x" in matcher.error and "\n" not in matcher.error
    matcher.advance(ord("1"))
    assert matcher.error and not matcher.complete
    both = np.zeros((2, matcher.vocabulary.words), np.uint32)
    fill_masks([matcher, other], both)
    assert other.error is None and both[1].any()


def test_no_end_where_nothing_can_come():
    # A name that only a control character makes, which no string holds.
    names = {"type": "object", "patternProperties": {"^\\x01$": {}}, "additionalProperties": False, "minProperties": 1}
    with pytest.raises(GrammarError, match="no text"):
        grammar(vocabulary(), JSON(names))
    source = f'%llguidance {{"no_forcing": true}}\nstart: %json {json.dumps(llguidance_schema(names))}'
    matcher = Grammar(vocabulary(), source).matcher()
    for byte in b"{ ":
        matcher.advance(byte)
    assert allowed(matcher) == [] and not matcher.complete


def test_compiled_once():
    words = vocabulary()
    first, again = (grammar(words, JSON(SCHEMAS["person"])) for _ in range(2))
    assert first._start is again._start
    for number in range(40):
        grammar(words, JSON({"const": number}))
    assert takes(first, '{"name": "a", "age": 3}')
    assert len(words._kept) < 40


def test_a_panic_of_llguidance_is_shown_without_its_backtrace():
    # What it says of a grammar of more than 65,000 symbols, which takes it seconds.
    told = "panic: assertion failed: symbols.len() < u16::MAX as usize - 10\n<backtrace>\n   0: <unknown>\n"
    found = error_text(told)
    assert "too large" in found and "symbols" in found and "\n" not in found and "backtrace" not in found
    assert error_text(" error: no rule named 'x'\n at line 3 ") == "error: no rule named 'x'\n at line 3"


def test_a_grammar_that_does_not_compile_says_so():
    words = vocabulary()
    with pytest.raises(GrammarError):
        words.compiled("start: nothing")
