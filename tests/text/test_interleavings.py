"""Delimiters, parts of them and other text in random order: nothing raises, and divisions do not matter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.text import call_families as families
from llmlab.text.call_syntax import CALL_ID
from llmlab.text.formats import Format, ReasoningTags
from tests.text.outputs import TOOLS, pieces

TAGS = ReasoningTags(lead="\n", tail="\n")
FORMATS = {
    "hermes": Format("hermes", TAGS, families.HERMES),
    "deepseek": Format("deepseek", TAGS, families.DEEPSEEK),
    "deepseek-v3.1": Format("deepseek", TAGS, families.DEEPSEEK_V31),
    "glm": Format("glm", TAGS, families.GLM),
    "glm-4.7": Format("glm", TAGS, families.GLM_TIGHT),
    "llama": Format("llama", None, families.LLAMA),
    "mistral": Format("mistral", None, families.MISTRAL),
    "mistral-ids": Format("mistral", None, families.call_syntax("[TOOL_CALLS][CALL_ID][ARGS]")[1]),
    "qwen-xml": Format("qwen-xml", TAGS, families.QWEN_XML),
    "minimax": Format("minimax", TAGS, families.MINIMAX),
    "cohere": Format("cohere", TAGS, families.COHERE),
    "kimi": Format("kimi", None, families.KIMI),
    "gemma": Format("gemma", TAGS, families.GEMMA),
    "gemma-code": Format("gemma-code", None, families.GEMMA_CODE),
    "python": Format("python", None, families.PYTHON),
    "olmo": Format("olmo", TAGS, families.OLMO),
    "phi": Format("phi", None, families.PHI),
    "granite": Format("granite", TAGS, families.GRANITE),
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


@st.composite
def almost_calls(draw, format):
    """Whole calls as a template writes them, of which a few pieces are missing, doubled, moved or cut."""
    syntax, made = format.calls, []
    for _ in range(draw(st.integers(1, 3))):
        made += [syntax.start, syntax.open, syntax.before_name, draw(st.sampled_from(["get_time", "get_weather"]))]
        made.append(syntax.after_name.replace(CALL_ID, draw(st.sampled_from(["0", "a1b", "1" * 70]))))
        if syntax.style == "pairs":
            for _ in range(draw(st.integers(0, 3))):
                key = draw(st.sampled_from(["city", "days", "hourly", "note", "x"]))
                value = draw(st.sampled_from(["Oslo", "3", "True", "\n a\n", "", "\n", "<", "</", "None", '"q"']))
                made += [syntax.pair[0], key, syntax.pair[1], value, syntax.pair[2]]
        elif syntax.notation:
            for at in range(draw(st.integers(0, 3))):
                quote = syntax.notation.quote or draw(st.sampled_from(['"', "'", '"""']))
                word = draw(
                    st.sampled_from(["3", "-.5", "True", "null", "x y", "[1, (2)]", "{a:1}", "{'a': \"b\"}", ""])
                )
                value = draw(st.sampled_from([word, f"{quote}Os\\n\\u00e9\n{quote}", f"[{quote}a{quote},]"]))
                made += [syntax.notation.between if at else "", "city", syntax.notation.assign, value]
        else:
            made.append(draw(st.sampled_from(["{}", '{"a": "b"}', '{"a": [1, {"c": null}]}', "{bad", "[]"])))
        made += [syntax.close, syntax.end, draw(st.sampled_from(["", "\n", "text", syntax.between or ""]))]
    for _ in range(draw(st.integers(0, 3))):
        at, change = (
            draw(st.integers(0, len(made) - 1)),
            draw(st.sampled_from(["", " ", "\n", "x", syntax.open, "cut"])),
        )
        made[at] = made[at][:-1] if change == "cut" else made[at] + change if change else ""
    text = "".join(made).encode()
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(data=st.data())
def test_almost_calls(name, data):
    text = data.draw(almost_calls(FORMATS[name]))
    parallel = data.draw(st.booleans())
    whole = pieces(FORMATS[name], [text], parallel=parallel)
    assert pieces(FORMATS[name], [text[at : at + 1] for at in range(len(text))], parallel=parallel) == whole
    cut = data.draw(st.integers(0, len(text)))
    assert pieces(FORMATS[name], [text[:cut], text[cut:]], parallel=parallel) == whole
