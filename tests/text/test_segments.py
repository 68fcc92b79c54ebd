from __future__ import annotations

import pytest

from llmlab.text.segments import Segmenter

WORDS = [None, None, b"<think>", b"</think>", b"\n", b"\n\n", b"Hello", b" 42", b"\n\nHi"]
END, START, OPEN, CLOSE, NL, NLNL, HELLO, N42, NLHI = range(9)


def segments(prompt, generated, open_id=OPEN, close_id=CLOSE):
    segmenter = Segmenter(WORDS, open_id=open_id, close_id=close_id, prompt_ids=prompt, end_ids=[END])
    return [segmenter.feed(token) for token in generated]


def letters(found):
    return "".join(segment[0] for segment in found)


@pytest.mark.parametrize(
    ("prompt", "generated", "want"),
    [
        ([START], [HELLO, END], "ce"),
        ([START, OPEN], [N42, CLOSE, NLNL, HELLO, END], "rrrce"),
        ([START, OPEN, NL], [N42, CLOSE, HELLO, END], "rrce"),
        ([START, OPEN, NLNL, CLOSE, NLNL], [HELLO, END], "ce"),
        ([START], [OPEN, NL, N42, NL, CLOSE, NLNL, HELLO, END], "rrrrrrce"),
        # The continued reasoning of an assistant's last message is open too.
        ([START, OPEN, N42, HELLO], [N42, CLOSE, HELLO], "rrc"),
        # An opened tag in somebody else's turn is text.
        ([START, OPEN, HELLO, END, START, HELLO], [HELLO], "c"),
        # Only what a template writes between the two belongs to the reasoning; further newlines are content.
        ([START, OPEN], [CLOSE, NL, NL, NL, HELLO], "rrrcc"),
        ([START, OPEN], [CLOSE, NLNL, NLNL], "rrc"),
        ([START, OPEN], [CLOSE, NLHI, NLNL], "rcc"),
        # Cut short while thinking.
        ([START, OPEN], [N42, HELLO], "rr"),
        ([START, OPEN], [N42, END], "re"),
        # A closing tag that closes nothing is text, and an id beyond the vocabulary is content.
        ([START], [HELLO, CLOSE, NLNL, 99], "cccc"),
    ],
)
def test_each_token_has_its_segment(prompt, generated, want):
    assert letters(segments(prompt, generated)) == want


def test_without_delimiters_all_is_content():
    assert letters(segments([START, OPEN], [OPEN, HELLO, CLOSE, END], None, None)) == "ccce"


def test_the_state_says_whether_the_reasoning_is_open():
    segmenter = Segmenter(WORDS, open_id=OPEN, close_id=CLOSE, prompt_ids=[START, OPEN, NL])
    assert segmenter.reasoning
    segmenter.feed(CLOSE)
    assert not segmenter.reasoning
