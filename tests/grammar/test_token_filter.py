"""Texts that must not arise, against a search through everything that was made; and tokens that alone may be drawn."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.grammar.compose import JSON, grammar
from llmlab.grammar.matcher import fill_masks
from llmlab.grammar.token_filter import TokenFilter
from llmlab.grammar.vocabulary import Vocabulary

#: Bytes, longer tokens that overlap in all ways, a control token without bytes, and an end token.
TOKENS: list[bytes | None] = [bytes([b]) for b in range(256)]
TOKENS += [b"ab", b"abc", b"bca", b"cab", b"aa", b"\xff\xff", b"\xffa", b" sorry", b"so", b"rry", None, None]
CONTROL, END = len(TOKENS) - 2, len(TOKENS) - 1
VOCABULARY = Vocabulary(TOKENS, size=len(TOKENS) + 5, ends=(END,))


def joined(tokens: list[int]) -> bytes:
    """The text, with a byte that no word here holds in place of a control token."""
    return b"".join(TOKENS[token] or b"\x00" for token in tokens)


@pytest.mark.parametrize(
    "words",
    [["a"], ["ab", "bc"], ["aaa"], ["abcabc"], ["sorry", "aa"], ["ÿ"], ["é", "ab"], ["cabab", "b"]],
    ids=lambda words: "-".join(words),
)
def test_a_token_is_allowed_exactly_where_it_completes_no_word(words: list[str]) -> None:
    rng = np.random.default_rng(len(words[0]))
    likely = [*map(ord, "abcsory "), *range(256, len(TOKENS) - 1), 0xC3, 0xA9, 0xBF]
    filter = TokenFilter(VOCABULARY, bad_words=words)
    bad = [word.encode() for word in words]
    refused = 0
    for _ in range(60):
        made: list[int] = []
        for _ in range(12):
            allowed = filter.allowed(made)
            expected = np.array(
                [not any(word in joined([*made, token]) for word in bad) for token in range(len(TOKENS))]
            )
            np.testing.assert_array_equal(allowed[: len(TOKENS)], expected)
            refused += int((~expected).sum())
            choices = [token for token in likely if allowed[token]]
            made.append(int(rng.choice(choices)))
        assert not any(word in joined(made) for word in bad)
    assert refused > 0


def test_only_some_tokens() -> None:
    filter = TokenFilter(VOCABULARY, allowed=[97, 256, END], bad_words=["aa"])
    assert set(np.flatnonzero(filter.allowed([]))) == {97, 256, END}
    assert set(np.flatnonzero(filter.allowed([97]))) == {END}
    assert filter.matcher().complete and filter.matcher().error is None


def test_filters_and_grammars_fill_their_masks_side_by_side() -> None:
    json = grammar(VOCABULARY, JSON({"const": "ab"}))
    filter = TokenFilter(VOCABULARY, allowed=[97])
    matchers = [json.matcher(), filter.matcher(), json.matcher()]
    masks = np.zeros((3, VOCABULARY.words), np.uint32)
    fill_masks(matchers, masks)
    alone = np.zeros((1, VOCABULARY.words), np.uint32)
    fill_masks([json.matcher()], alone)
    np.testing.assert_array_equal(masks[0], alone[0])
    np.testing.assert_array_equal(masks[2], alone[0])
    assert masks[1].tolist() == filter.start.tolist() != alone[0].tolist()
