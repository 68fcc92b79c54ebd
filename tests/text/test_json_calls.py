"""Calls as JSON objects: between tags (Qwen, Hermes, the embedded model), in a list (Mistral), without tags (Llama)."""

from __future__ import annotations

import pytest

from llmlab.text.call_families import HERMES, LLAMA, MISTRAL
from llmlab.text.formats import Format, ReasoningTags
from tests.text.outputs import pieces, read

QWEN = Format("hermes", ReasoningTags(lead="\n", tail="\n"), HERMES)
BARE = Format("llama", None, LLAMA)
LIST = Format("mistral", None, MISTRAL)

W = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
T = '{"name": "get_time", "arguments": {}}'
OSLO = ("get_weather", '{"city": "Oslo"}')
TIME = ("get_time", "{}")


#: A call without parameters whose arguments are to come, tagged.
AT = '<tool_call>{"name": "get_time", "arguments": '


def tagged(*calls):
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        # As the template writes it.
        (tagged(W), ("", "", [OSLO])),
        (tagged(W, T), ("", "", [OSLO, TIME])),
        ("Let me look.\n" + tagged(W), ("", "Let me look.", [OSLO])),
        ("<think>\nhm\n</think>\n\n" + tagged(W), ("hm", "", [OSLO])),
        ("<think>\nhm\n</think>\n\nSo:\n" + tagged(T, W), ("hm", "So:", [TIME, OSLO])),
        # Text before, between and after.
        ("a" + tagged(W) + "b" + tagged(T) + "c", ("", "abc", [OSLO, TIME])),
        (tagged(W) + "\nDone.\n", ("", "\nDone.\n", [OSLO])),
        ("\n\n\n" + tagged(W), ("", "\n\n", [OSLO])),
        # The reasoning is left without a closing tag.
        ("<think>\nI need\n" + tagged(W), ("I need", "", [OSLO])),
        ("<think>hm<tool_call>" + T + "</tool_call>ok</think>", ("hm", "ok</think>", [TIME])),
        # Other ways to write the same.
        ("<tool_call>" + W + "</tool_call>", ("", "", [OSLO])),
        ('<tool_call>\n\n{\n "arguments":{"city":"Oslo"} ,"name":"get_weather"}</tool_call>',
         ("", "", [("get_weather", '{"city":"Oslo"}')])),
        ('<tool_call>{"name": "get_time", "parameters": {"a": [1, {"b": null}]}}</tool_call>',
         ("", "", [("get_time", '{"a": [1, {"b": null}]}')])),
        ('<tool_call>{"type": "function", "id": 7, "name": "get_time", "arguments": {}, "x": [1]}</tool_call>',
         ("", "", [TIME])),
        # Nothing to say is {}, and what is said comes as it is.
        ('<tool_call>{"name": "get_time"}</tool_call>', ("", "", [TIME])),
        ('<tool_call>{"name": "get_time", "arguments": null}</tool_call>', ("", "", [TIME])),
        ('<tool_call>{"name": "get_time", "arguments": { }}</tool_call>', ("", "", [("get_time", "{ }")])),
        ('<tool_call>{"name": "get_\\u0074ime", "arguments": {"猫": "\\"}<😀", "b": -1.5e3}}</tool_call>',
         ("", "", [("get_time", '{"猫": "\\"}<😀", "b": -1.5e3}')])),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "a </tool_call> b"}}</tool_call>c',
         ("", "c", [("get_weather", '{"city": "a </tool_call> b"}')])),
        # Brackets too few or too many, no close at all.
        ('<tool_call>{"name": "get_time", "arguments": {}</tool_call>c', ("", "c", [TIME])),
        ('<tool_call>{"name": "get_time", "arguments": {}}}</tool_call>c', ("", "c", [TIME])),
        ('<tool_call>{"name": "get_time", "arguments": {}}', ("", "", [TIME])),
        ('<tool_call>{"name": "get_time", "arguments": {}', ("", "", [TIME])),
        ('<tool_call>{"name": "get_time", "arguments": {}}\n</tool_', ("", "", [TIME])),
        # What only looks like a call.
        ("<tool_call> is a tag", ("", "<tool_call> is a tag", [])),
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
         ("", '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', [])),
        ('<tool_call>{"name": 3}</tool_call>', ("", '<tool_call>{"name": 3}</tool_call>', [])),
        (AT + "[1]}", ("", AT + "[1]}", [])),
        ('<tool_call>{"name": "get_time", "why": 1}', ("", '<tool_call>{"name": "get_time", "why": 1}', [])),
        ('<tool_call>{"name": "get_time" "arguments"}', ("", '<tool_call>{"name": "get_time" "arguments"}', [])),
        ('<tool_call>{"name": "\\x", "arguments"}', ("", '<tool_call>{"name": "\\x", "arguments"}', [])),
        (W, ("", W, [])),
        ("</tool_call>", ("", "</tool_call>", [])),
        ("<think>Or <tool_call>?\n</think>\n\nYes.", ("Or <tool_call>?", "Yes.", [])),
        ("<tool_call><tool_call>" + T + "</tool_call>", ("", "<tool_call>", [TIME])),
        # Arguments that turn out to be malformed stay what they are, up to the close.
        (AT + '{a: 1}}\n</tool_call>b', ("", "b", [("get_time", "{a: 1}}\n")])),
        (AT + '{"a": "x\ny"}}</tool_call>', ("", "", [("get_time", '{"a": "x\ny"}}')])),
        (AT + '{"a": 1,}}</tool_call>', ("", "", [("get_time", '{"a": 1,}}')])),
        (AT + '{"a": nul}}</tool_call>', ("", "", [("get_time", '{"a": nul}}')])),
        (AT + '{"a": [1}}</tool_call>', ("", "", [("get_time", '{"a": [1}}')])),
        (AT + '{"a": 1\n</tool_call>b', ("", "b", [("get_time", '{"a": 1\n')])),
        (AT + '{"a" 1}} and so on', ("", "", [("get_time", '{"a" 1}} and so on', "cut")])),
        # After complete arguments a call is over, whatever follows.
        (AT + '{}} hm</tool_call>', ("", " hm</tool_call>", [TIME])),
        (AT + '{}, why}', ("", ", why}", [TIME])),
        # Cut short, everywhere.
        ("<tool_ca", ("", "<tool_ca", [])),
        ('<tool_call>\n{"name": "get_ti', ("", '<tool_call>\n{"name": "get_ti', [])),
        ('<tool_call>{"arguments": {"a": 1}, "na', ("", '<tool_call>{"arguments": {"a": 1}, "na', [])),
        ('<tool_call>{"name": "get_time"', ("", "", [("get_time", "", "cut")])),
        ('<tool_call>{"name": "get_time", "argum', ("", "", [("get_time", "", "cut")])),
        ('<tool_call>{"arguments": {"a": 1}, "name": "get_time"', ("", "", [("get_time", '{"a": 1}')])),
        (AT + '{"a": "\\u00', ("", "", [("get_time", '{"a": "\\u00', "cut")])),
        (tagged(W) + "\n" + AT + '{"a', ("", "", [OSLO, ("get_time", '{"a', "cut")])),
        (tagged(W) + "\n<tool_ca", ("", "\n<tool_ca", [OSLO])),
        ("<think>\nhm\n<tool_call>", ("hm\n<tool_call>", "", [])),
    ],
)  # fmt: skip
def test_between_tags(text, want):
    assert read(QWEN, text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (f"[TOOL_CALLS][{W}]", ("", "", [OSLO])),
        (f"[TOOL_CALLS][{W}, {T}]", ("", "", [OSLO, TIME])),
        (f"[TOOL_CALLS] [{W},\n{T}\n]", ("", "", [OSLO, TIME])),
        (f"Sure.[TOOL_CALLS][{W}] Done.", ("", "Sure. Done.", [OSLO])),
        (f"[TOOL_CALLS][{W}]a[TOOL_CALLS][{T}]b", ("", "ab", [OSLO, TIME])),
        ('[TOOL_CALLS][{"name": "get_time", "arguments": {}, "id": "abcdefghi"}]', ("", "", [TIME])),
        ('[TOOL_CALLS][{"arguments": {}, "name": "get_time"}]', ("", "", [TIME])),
        ('[TOOL_CALLS][{"id": "abcdefghi", "name": "get_time"}]', ("", "", [TIME])),
        (f"[TOOL_CALLS][{T}", ("", "", [TIME])),
        (f"[TOOL_CALLS][{T}, ", ("", ", ", [TIME])),
        (f"[TOOL_CALLS][{T}}}]", ("", "}]", [TIME])),
        (f"[TOOL_CALLS][{T}, {{}}]", ("", ", {}]", [TIME])),
        (f"[TOOL_CALLS]{T}", ("", "", [TIME])),
        ("[TOOL_CALLS]", ("", "[TOOL_CALLS]", [])),
        ("[TOOL_CALLS][]", ("", "[TOOL_CALLS][]", [])),
        ("[TOOL_CALLS][{}]", ("", "[TOOL_CALLS][{}]", [])),
        ("The list [TOOL_C is", ("", "The list [TOOL_C is", [])),
        ('[TOOL_CALLS][{"name": "rm"}]', ("", '[TOOL_CALLS][{"name": "rm"}]', [])),
        (f"[{W}]", ("", f"[{W}]", [])),
        ('[TOOL_CALLS][{"name": "get_time", "argu', ("", "", [("get_time", "", "cut")])),
        ('[TOOL_CALLS][{"name": "get_time", "arguments": {"a": tr', ("", "", [("get_time", '{"a": tr', "cut")])),
        ('[TOOL_CALLS][{"name": "get_time", "arguments": {"a" 1}}]', ("", "", [("get_time", '{"a" 1}}]', "cut")])),
        ('[TOOL_CALLS][{"name": "get_time", "arguments": {"a": 1]}]', ("", "", [("get_time", '{"a": 1]}]', "cut")])),
        (f'[TOOL_CALLS][{W}, {{"name": "get_time", "arguments": {{"b', ("", "", [OSLO, ("get_time", '{"b', "cut")])),
    ],
)  # fmt: skip
def test_in_a_list(text, want):
    assert read(LIST, text) == want


LW = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'
LT = '{"name": "get_time", "parameters": {}}'


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (LW, ("", "", [OSLO])),
        (T, ("", "", [TIME])),
        ("\n\n" + LW, ("", "\n\n", [OSLO])),
        ("<|python_tag|>" + LW, ("", "", [OSLO])),
        ("Wait. <|python_tag|>" + LW, ("", "Wait. ", [OSLO])),
        ("I will look.\n\n  " + LW, ("", "I will look.\n\n  ", [OSLO])),
        (LW + "; " + LT, ("", "", [OSLO, TIME])),
        (LW + "\n" + LT, ("", "", [OSLO, TIME])),
        (LW + "\nDone.", ("", "\nDone.", [OSLO])),
        (LW + " or\n" + LT, ("", " or\n", [OSLO, TIME])),
        ('{"type": "function", "name": "get_time", "parameters": {}}', ("", "", [TIME])),
        ('{"name": "get_time"}', ("", "", [TIME])),
        (LT + "}", ("", "}", [TIME])),
        # An answer in JSON is an answer.
        ('{"name": "Ada", "age": 36}', ("", '{"name": "Ada", "age": 36}', [])),
        ('{"name": "get_time", "age": 36}', ("", '{"name": "get_time", "age": 36}', [])),
        ("{}", ("", "{}", [])),
        ("{\n  {\n" + '  {"a": 1}\n', ("", "{\n  {\n" + '  {"a": 1}\n', [])),
        ("Write " + LW, ("", "Write " + LW, [])),
        ('<|python_tag|>search.call(query="x")', ("", '<|python_tag|>search.call(query="x")', [])),
        ("<|python_", ("", "<|python_", [])),
        ('{"name": "get_ti', ("", '{"name": "get_ti', [])),
        ('{"name": "get_time", "par', ("", "", [("get_time", "", "cut")])),
        ('{"name": "get_weather", "parameters": {"city": "Os', ("", "", [("get_weather", '{"city": "Os', "cut")])),
        ('{"name": "get_time", "parameters": {"city": Oslo}}', ("", "", [("get_time", '{"city": Oslo}}', "cut")])),
        ('{"name": "get_time", "parameters": {}', ("", "", [TIME])),
    ],
)  # fmt: skip
def test_bare(text, want):
    assert read(BARE, text) == want


@pytest.mark.parametrize("format", [QWEN, LIST, BARE])
@pytest.mark.parametrize("text", [tagged(W), f"[TOOL_CALLS][{W}]", LW])
def test_without_tools_nothing_is_a_call(format, text):
    assert read(format, text, tools=[]) == ("", text, [])


def test_with_one_call_wanted_the_first_is_the_end():
    assert read(QWEN, "So:\n" + tagged(W, T), parallel=False) == ("", "So:", [OSLO])
    assert read(LIST, f"[TOOL_CALLS][{W}, {T}]", parallel=False) == ("", "", [OSLO])
    assert read(BARE, LW + ";" + LT, parallel=False) == ("", "", [OSLO])
    # One that was cut, or was none, is not the end.
    assert read(QWEN, "<tool_call>" + tagged(T), parallel=False) == ("", "<tool_call>", [TIME])


def test_a_call_is_announced_when_its_arguments_begin_and_they_come_as_they_are_written():
    from llmlab.text.segments import Segmenter
    from tests.text.outputs import TOOLS

    segmenter = Segmenter(QWEN, tools=TOOLS)
    assert segmenter.feed(b'<tool_call>{"name": "get_time", "arguments": ') == []
    assert [(s.name, s.text) for s in segmenter.feed(b'{"a')] == [("get_time", b""), (None, b'{"a')]
    assert [(s.name, s.text) for s in segmenter.feed('": "猫'.encode()[:-1])] == [(None, '": "猫'.encode()[:-1])]


def test_brackets_without_end_do_no_harm():
    text = '<tool_call>{"name": "get_time", "arguments": {"a": ' + "[" * 5000
    assert pieces(QWEN, [text.encode()]) == ("", "", [("get_time", '{"a": ' + "[" * 5000, "cut")])
