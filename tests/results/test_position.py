"""Positions that are named by the text of a token."""

from __future__ import annotations

import pytest

from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.results.position import position_of
from llmlab.results.result import Result

STORY = {"seed": 7, "max_tokens": 24, "temperature": 0.8}


@pytest.fixture(scope="module")
def told(demo: Lab) -> Result:
    return demo.chat("Tell me a short story.", **STORY)


def once(result: Result) -> int:
    """A position after the first whose token is there once."""
    return next(at for at, token in enumerate(result.tokens) if at > 3 and result.tokens.count(token) == 1)


def test_a_text_is_the_position_of_its_token(told: Result) -> None:
    at = once(told)
    text = told.tokens[at]
    assert told.next_token(text).drawn == told.next_token(at).drawn == told[0].tokens.ids[at]
    assert told.next_token(text.encode()).made.tolist() == told[0].tokens.ids[:at].tolist()
    by_text, by_number = (told.branch(position, " but", seed=1) for position in (text, at))
    assert by_text[0].tokens.ids.tolist() == by_number[0].tokens.ids.tolist()
    assert "".join(by_text.tokens[at:]).startswith(" but")
    assert told.tree(1, 2, position=text).frame().equals(told.tree(1, 2, position=at).frame())
    shown = [told.plot_top_logprobs(position, top=3).get_title() for position in (text, at)]
    assert shown[0] == shown[1]


def test_several_tokens_that_spell_it_are_the_position_of_the_first(told: Result) -> None:
    tokens = told.tokens
    at = next(at for at in range(1, len(tokens) - 2) if "".join(tokens).count("".join(tokens[at : at + 3])) == 1)
    assert position_of("".join(tokens[at : at + 3]), told[0], names={}) == at


def test_a_control_token_by_its_name(demo: Lab) -> None:
    ended = demo.chat("Name an animal.", seed=1)
    assert ended.tokens[-1] == "<|im_end|>"
    assert ended.next_token("<|im_end|>").drawn == ended[0].tokens.ids[-1]


def test_a_text_that_is_not_there_or_more_than_once(told: Result) -> None:
    often = max(told.tokens, key=told.tokens.count)
    where = [at for at, token in enumerate(told.tokens) if token == often]
    assert len(where) > 1
    with pytest.raises(IndexError, match=f"is {len(where)} times in choice 0: give one of {where[0]}, "):
        told.next_token(often)
    with pytest.raises(RequestError, match="position ' zebra': no token of choice 0 is this text"):
        told.branch(" zebra")
    word = next(token for token in told.tokens if token.startswith(" ") and token.strip().isalpha())
    stripped = word.strip()
    if stripped not in told.tokens:
        with pytest.raises(RequestError, match=f"there is '{word}'"):
            told.next_token(stripped)
    with pytest.raises(IndexError):
        told.next_token("")
