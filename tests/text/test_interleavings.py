"""Delimiters, parts of them and other text in random order: nothing raises, and divisions do not matter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.text.formats import DEEPSEEK, GLM, HERMES, LLAMA, MISTRAL, Format, ReasoningTags
from tests.text.outputs import TOOLS, pieces

TAGS = ReasoningTags(lead="\n", tail="\n")
FORMATS = {
    "hermes": Format("hermes", TAGS, HERMES),
    "deepseek": Format("deepseek", TAGS, DEEPSEEK),
    "glm": Format("glm", TAGS, GLM),
    "llama": Format("llama", None, LLAMA),
    "mistral": Format("mistral", None, MISTRAL),
}

#: What JSON, names and text are made of.
COMMON = [
    *'{}[]",:\\ \n;<>`a1',
    *("get_time", "get_weather", "name", '"name"', '"arguments"', '"parameters": ', '{"name": "get_time"'),
    *(', "arguments": {', '"city": "', "null", "true", "-1e", "é", "😀", "<think>", "</think>", "\n\n"),
]


def fragments(format):
    whole = list(format.calls.texts())
    halves = [part for text in whole for part in (text[: len(text) // 2], text[len(text) // 2 :])]
    single = st.sampled_from([*COMMON, *whole, *halves]).map(str.encode)
    return st.lists(single | st.binary(min_size=1, max_size=3), max_size=24).map(b"".join)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=120)
@given(data=st.data())
def test_any_order(name, data):
    format = FORMATS[name]
    text = data.draw(fragments(format))
    options = {
        "prompt": data.draw(st.sampled_from([b"", b"<think>\n", b"<think></think>"])),
        "tools": data.draw(st.sampled_from([TOOLS, TOOLS, TOOLS[:1], []])),
        "parallel": data.draw(st.booleans()),
    }
    whole = pieces(format, [text], **options)
    assert pieces(format, [text[at : at + 1] for at in range(len(text))], **options) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    borders = [0, *cuts, len(text)]
    parts = [text[first:last] for first, last in zip(borders, borders[1:], strict=False)]
    assert pieces(format, parts, **options) == whole
    if not options["tools"]:
        assert whole[2] == []
