"""Calls between tags: DeepSeek-R1's with a name and fenced JSON, GLM's with tags around each argument."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.text.call_families import DEEPSEEK, GLM
from llmlab.text.formats import Format, ReasoningTags
from llmlab.text.tag_calls import argument_types
from tests.text.outputs import TOOLS, pieces, read

R1 = Format("deepseek", ReasoningTags(lead="\n"), DEEPSEEK)
PAIRS = Format("glm", ReasoningTags(separator="\n"), GLM)

CALLS, ENDED = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, NAMED, OVER = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```<｜tool▁call▁end｜>"
W = CALL + "get_weather" + NAMED + '{"city": "Oslo"}' + OVER
T = CALL + "get_time" + NAMED + "{}" + OVER
OSLO = ("get_weather", '{"city": "Oslo"}')
TIME = ("get_time", "{}")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (CALLS + W + ENDED, ("", "", [OSLO])),
        (CALLS + W + "\n" + T + ENDED, ("", "", [OSLO, TIME])),
        ("Let me see." + CALLS + T + ENDED + "a", ("", "Let me see.a", [TIME])),
        ("<think>\nhm\n</think>\n\n" + CALLS + W + ENDED, ("hm\n", "", [OSLO])),
        ("<think>hm" + CALLS + W + ENDED + "</think>", ("hm", "</think>", [OSLO])),
        (CALLS + W + "a" + T + ENDED + "b", ("", "ab", [OSLO, TIME])),
        (CALLS + W + ENDED + "a" + CALLS + T + ENDED + "b", ("", "ab", [OSLO, TIME])),
        (CALLS + W + ENDED + "\n\nDone.", ("", "\n\nDone.", [OSLO])),
        # Without what stands around them all, or without white space.
        (W, ("", "", [OSLO])),
        (W + "\n", ("", "\n", [OSLO])),
        (CALLS + "\n" + CALL + " get_time```json{}```<｜tool▁call▁end｜>" + ENDED, ("", "", [TIME])),
        (CALLS + CALL + "get_time" + NAMED + OVER + ENDED, ("", "", [TIME])),
        (CALLS + CALL + "get_time" + NAMED + '{"a": "```<｜tool▁call▁end｜>"}' + OVER,
         ("", "", [("get_time", '{"a": "```<｜tool▁call▁end｜>"}')])),
        # No close.
        (CALLS + CALL + "get_time" + NAMED + "{}", ("", "", [TIME])),
        (CALLS + CALL + "get_time" + NAMED + "{}\n```", ("", "", [TIME])),
        (CALLS + CALL + "get_time" + NAMED + "{}\nfor", ("", "\nfor", [TIME])),
        (CALLS + CALL + "get_time" + NAMED + "{}}" + OVER, ("", "", [TIME])),
        # What only looks like a call.
        (CALLS, ("", CALLS, [])),
        (CALLS + ENDED, ("", CALLS + ENDED, [])),
        (CALLS + "get_time", ("", CALLS + "get_time", [])),
        (CALL + "rm" + NAMED + "{}" + OVER, ("", CALL + "rm" + NAMED + "{}" + OVER, [])),
        (CALL + "get_time\n{}", ("", CALL + "get_time\n{}", [])),
        (CALL + "get_time" + NAMED + "[]", ("", CALL + "get_time" + NAMED + "[]", [])),
        ("<｜tool▁call▁begin｜>a<｜tool▁sep｜>get_time", ("", "<｜tool▁call▁begin｜>a<｜tool▁sep｜>get_time", [])),
        (CALLS + W + "\n" + CALL + "rm" + NAMED, ("", "\n" + CALL + "rm" + NAMED, [OSLO])),
        # Malformed arguments, up to the close.
        (CALL + "get_time" + NAMED + "{'a': 1}" + OVER + "b", ("", "b", [("get_time", "{'a': 1}\n```")])),
        (CALL + "get_time" + NAMED + '{"a": 1' + OVER + "b", ("", "b", [("get_time", '{"a": 1\n```')])),
        # Cut short.
        (CALLS + CALL + "get_ti", ("", CALLS + CALL + "get_ti", [])),
        (CALLS + CALL + "get_time\n```js", ("", "", [("get_time", "", "cut")])),
        (CALLS + CALL + "get_time" + NAMED, ("", "", [("get_time", "", "cut")])),
        (CALLS + CALL + "get_time" + NAMED + '{"a": 1', ("", "", [("get_time", '{"a": 1', "cut")])),
        (CALLS + W + "\n" + CALL + "get_time" + NAMED + "{", ("", "", [OSLO, ("get_time", "{", "cut")])),
        ("<think>hm" + CALLS[:9], ("hm" + CALLS[:9], "", [])),
    ],
)  # fmt: skip
def test_a_name_and_json(text, want):
    assert read(R1, text) == want


def test_a_prompt_that_opens_the_reasoning():
    prompt = "<｜User｜>hi<｜Assistant｜><think>\n".encode()
    assert read(R1, "hm\n</think>\n\n" + W, prompt=prompt) == ("hm\n", "", [OSLO])
    assert read(R1, "hm" + W, prompt=prompt) == ("hm", "", [OSLO])
    assert read(R1, "\n\nhm" + W, prompt=prompt + b"</think>") == ("", "hm", [OSLO])


def pair(key, value):
    return f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n"


def glm(name, *pairs):
    return f"<tool_call>{name}\n" + "".join(pairs) + "</tool_call>"


def weather(**arguments):
    return ("get_weather", json.dumps(arguments, ensure_ascii=False))


GO = glm("get_weather", pair("city", "Oslo"))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (GO, ("", "", [OSLO])),
        (GO + "\n" + glm("get_time"), ("", "", [OSLO, TIME])),
        ("\n<think>hm</think>\nSo:\n" + GO, ("hm", "So:", [OSLO])),
        ("\n<think>hm\n" + GO, ("hm", "", [OSLO])),
        ("a" + GO + "b\n" + GO + "c", ("", "abc", [OSLO, OSLO])),
        ("<tool_call>get_time</tool_call>", ("", "", [TIME])),
        ("<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call>", ("", "", [OSLO])),
        # Values by the types that the tool's parameters have.
        (glm("get_weather", pair("city", "3"), pair("days", "3")), ("", "", [weather(city="3", days=3)])),
        (glm("get_weather", pair("city", 'Å "\\\n\t<b>')), ("", "", [weather(city='Å "\\\n\t<b>')])),
        (glm("get_weather", pair("city", "")), ("", "", [weather(city="")])),
        (glm("get_weather", pair("unit", "C")), ("", "", [weather(unit="C")])),
        (glm("get_weather", pair("at", "12")), ("", "", [weather(at="12")])),
        (glm("get_weather", pair("hourly", "true")), ("", "", [weather(hourly=True)])),
        (glm("get_weather", pair("hourly", "null")), ("", "", [weather(hourly=None)])),
        (glm("get_weather", pair("note", "null"), pair("note", "4")),
         ("", "", [("get_weather", '{"note": null, "note": "4"}')])),
        (glm("get_weather", pair("places", '["a", "b"]')), ("", "", [weather(places=["a", "b"])])),
        (glm("get_weather", pair("days", "three")), ("", "", [weather(days="three")])),
        (glm("get_weather", pair("days", "NaN")), ("", "", [weather(days="NaN")])),
        # A function that says nothing about its parameters.
        (glm("get_time", pair("zone", "UTC"), pair("n", "1.5"), pair('k"', "{}")),
         ("", "", [("get_time", '{"zone": "UTC", "n": 1.5, "k\\"": {}}')])),
        # What only looks like a call.
        ("<tool_call>get_time is it", ("", "<tool_call>get_time is it", [])),
        ("<tool_call>rm</tool_call>", ("", "<tool_call>rm</tool_call>", [])),
        ("<tool_call>\n</tool_call>", ("", "<tool_call>\n</tool_call>", [])),
        ('<tool_call>{"name": "get_time"}</tool_call>', ("", '<tool_call>{"name": "get_time"}</tool_call>', [])),
        ("<think>Or <tool_call></think>\nNo.", ("Or <tool_call>", "No.", [])),
        (pair("city", "Oslo"), ("", pair("city", "Oslo"), [])),
        # Malformed after it was announced.
        ("<tool_call>get_time<arg_key>a</arg_key>b</tool_call>c", ("", "c", [("get_time", '{"a": b')])),
        ("<tool_call>get_time<arg_key>a</tool_call>c", ("", "c", [("get_time", "a")])),
        ("<tool_call>get_time" + pair("days", "1") + "b</tool_call>c", ("", "c", [("get_time", '{"days": 1\nb')])),
        ("<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo\n</tool_call>c",
         ("", "c", [("get_weather", '{"city": "Oslo\\n')])),
        ("<tool_call>get_time<arg_key>a</arg_key><arg_value>1</tool_call>c", ("", "c", [("get_time", '{"a": 1')])),
        # Cut short.
        ("<tool_call>get_ti", ("", "<tool_call>get_ti", [])),
        ("<tool_call>get_time", ("", "<tool_call>get_time", [])),
        ("<tool_call>get_time\n", ("", "", [("get_time", "", "cut")])),
        ("<tool_call>get_time<arg_key>a", ("", "", [("get_time", "", "cut")])),
        ("<tool_call>get_time<arg_key>a</arg_key>\n<arg_va", ("", "", [("get_time", '{"a": ', "cut")])),
        ("<tool_call>get_time<arg_key>a</arg_key>\n<arg_value>1", ("", "", [("get_time", '{"a": 1', "cut")])),
        ("<tool_call>get_weather<arg_key>city</arg_key>\n<arg_value>O</arg_",
         ("", "", [("get_weather", '{"city": "O</arg_', "cut")])),
        ("<tool_call>get_weather" + pair("city", "Oslo"), ("", "", [("get_weather", '{"city": "Oslo"', "cut")])),
        (GO + "\n<tool_call>get_t", ("", "\n<tool_call>get_t", [OSLO])),
    ],
)  # fmt: skip
def test_pairs_of_tags(text, want):
    assert read(PAIRS, text) == want


def test_a_string_comes_as_it_is_written():
    from llmlab.text.segments import Segmenter

    segmenter = Segmenter(PAIRS, tools=TOOLS)
    segmenter.feed(b"<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>")
    assert [b"".join(s.text for s in segmenter.feed(part)) for part in (b"Os", b'l"', b"o</arg", b"_value>")] == [
        b"Os",
        b'l\\"',
        b"o",
        b'"',
    ]


@given(st.text(max_size=12).filter(lambda text: "</arg_value>" not in text and "</tool_call>" not in text))
def test_any_string_comes_through(text):
    (_, _, [(_, arguments)]) = pieces(PAIRS, [glm("get_weather", pair("city", text)).encode()])
    assert json.loads(arguments) == {"city": text}


def test_types_that_nobody_gave():
    loop = {"properties": {"a": {"$ref": "#/properties/a"}, "b": True, "c": {"const": 3}, "d": {"type": ["string", 1]}}}
    assert argument_types(loop, "a") == argument_types(loop, "b") == argument_types(None, "a") == frozenset()
    assert argument_types(loop, "c") == {"integer"} and argument_types(loop, "d") == {"string"}
    assert argument_types({"properties": {"a": {"$ref": "#/$defs/x"}}}, "a") == frozenset()


@pytest.mark.parametrize(("format", "text"), [(R1, CALLS + W + ENDED), (PAIRS, GO)])
def test_without_tools_nothing_is_a_call(format, text):
    assert read(format, text, tools=[]) == ("", text, [])


def test_with_one_call_wanted_the_first_is_the_end():
    assert read(R1, CALLS + W + "\n" + T + ENDED, parallel=False) == ("", "", [OSLO])
    assert read(PAIRS, GO + GO, parallel=False) == ("", "", [OSLO])
