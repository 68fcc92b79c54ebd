"""The division into reasoning and content, which does not depend on how the bytes are divided among calls."""

from __future__ import annotations

import pytest

from llmlab.text.formats import Format, ReasoningTags
from llmlab.text.segments import Segmenter, prompt_tail, reasoning_open

THINK = Format(name="think", reasoning=ReasoningTags(lead="\n", tail="\n"))
TURN = b"<|im_start|>assistant\n"


def parse(text, *, prompt=b"", format=THINK, size=None):
    segmenter = Segmenter(format, prompt=prompt)
    data = text.encode()
    size = size or max(len(data), 1)
    spans = [span for at in range(0, len(data), size) for span in segmenter.feed(data[at : at + size])]
    spans += segmenter.flush()
    assert b"".join(span.data for span in spans) == data
    tags = [span for span in spans if span.tag]
    assert all(span.segment == "reasoning" for span in tags)
    kinds = {
        kind: b"".join(span.data for span in spans if span.segment == kind and not span.tag).decode()
        for kind in ("reasoning", "content")
    }
    return kinds["reasoning"], b"".join(span.data for span in tags).decode(), kinds["content"]


@pytest.mark.parametrize(
    ("prompt", "text", "want"),
    [
        (TURN, "Hello", ("", "", "Hello")),
        (TURN + b"<think>\n", " 42</think>\n\nHello", (" 42", "</think>\n\n", "Hello")),
        # White space that a template writes around the reasoning belongs to it, also if the model writes it.
        (TURN, "<think>\n42\n</think>\n\nHello", ("42", "<think>\n\n</think>\n\n", "Hello")),
        (TURN + b"<think>", "\n42\n</think>\n\nHello", ("42", "\n\n</think>\n\n", "Hello")),
        (TURN, "\n <think>42</think>Hello", ("42", "\n <think></think>", "Hello")),
        (TURN, "<think></think>Hello", ("", "<think></think>", "Hello")),
        # Only as much of it as a template writes.
        (TURN, "<think>\n\n42\n\n</think>\n\n\nHello", ("\n42\n", "<think>\n\n</think>\n\n", "\nHello")),
        (TURN + b"<think>", "42</think>\nHello\n\n", ("42", "</think>\n", "Hello\n\n")),
        # The continued reasoning of an assistant's last message is open too.
        (TURN + b"<think>\n4", "2</think>Hello", ("2", "</think>", "Hello")),
        # Thinking that the prompt has closed; its separator may still be missing.
        (TURN + b"<think>\n\n</think>\n\n", "\nHello", ("", "", "\nHello")),
        (TURN + b"<think></think>", "\n\n\nHello", ("", "\n\n", "\nHello")),
        (TURN + b"<think></think>\n", "\n\nHello", ("", "\n", "\nHello")),
        (TURN + b"<think></think>Well,", "\n\nHello", ("", "", "\n\nHello")),
        # A tag in another role's turn is text.
        (b"<|im_start|>user\n<think><|im_end|>" + TURN, "Hello", ("", "", "Hello")),
        # Cut short while thinking, or in a tag.
        (TURN + b"<think>", "42", ("42", "", "")),
        (TURN + b"<think>", "42\n</thin", ("42\n</thin", "", "")),
        (TURN, "<thin", ("", "", "<thin")),
        (TURN, " \n", ("", "", " \n")),
        (TURN, "", ("", "", "")),
        # Reasoning is at the beginning, once; a tag anywhere else is text.
        (TURN, "The tag <think> and </think>", ("", "", "The tag <think> and </think>")),
        (TURN, "</think>\n\nHello", ("", "", "</think>\n\nHello")),
        (TURN, "<think>a</think>b<think>c</think>", ("a", "<think></think>", "b<think>c</think>")),
        (TURN, "<think>a <think> b</think>c", ("a <think> b", "<think></think>", "c")),
    ],
)
def test_each_byte_has_its_segment(prompt, text, want):
    for size in (None, 1, 2, 3, 7):
        assert parse(text, prompt=prompt, size=size) == want


def test_without_tags_all_is_content():
    assert parse("<think>a</think>\n\nb", format=Format(), prompt=b"<think>") == ("", "", "<think>a</think>\n\nb")


def test_only_what_may_yet_become_a_delimiter_is_held_back():
    segmenter = Segmenter(THINK, prompt=TURN + b"<think>\n")
    out = [b"".join(span.data for span in segmenter.feed(byte)) for byte in (b"a", b"\n", b"</", b"x", b"<", b"b")]
    assert out == [b"a", b"", b"", b"\n</x", b"", b"<b"]


@pytest.mark.parametrize(
    ("prompt", "want"),
    [
        (TURN, False),
        (TURN + b"<think>\n", True),
        (TURN + b"<think>\nhm", True),
        (TURN + b"<think>\n\n</think>\n\n", False),
        (b"<think>" + TURN, False),
        ("<think><｜Assistant｜>".encode(), False),
        ("x<｜Assistant｜><think>\n".encode(), True),
        (b"Once <think> upon", True),
    ],
)
def test_whether_a_prompt_leaves_the_reasoning_open(prompt, want):
    assert reasoning_open(THINK, prompt) is want
    assert Segmenter(THINK, prompt=prompt).reasoning is want
    assert not reasoning_open(Format(), prompt)


def test_a_prompts_tail_begins_after_its_last_control_token():
    table = (b"a", None, b"<think>", None)
    assert prompt_tail([0, 1, 2, 0, 7], token_bytes=table, controls={7: b"x"}) == b"<think>ax"
    assert prompt_tail([0, 2, 3], token_bytes=table, controls={}) == b""
    assert prompt_tail([2, 3, 0], token_bytes=table, controls={3: b"[THINK]"}) == b"<think>[THINK]a"
