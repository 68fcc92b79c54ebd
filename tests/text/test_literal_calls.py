"""Calls whose arguments are literals in brackets: Gemma 4, FunctionGemma, Python's calls in a list, a fence or tags.

Python's own reader of literals, and transformers' parsers of answers, are the independent sources.
"""

from __future__ import annotations

import ast
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_parsing import parse_response

from llmlab.text import call_families as families
from llmlab.text.formats import Format, detect
from tests.text.outputs import TOOLS, pieces, read

GEMMA = Format("gemma", None, families.GEMMA)
FUNCTION = Format("gemma", None, families.FUNCTION_GEMMA)
PYTHON = Format("python", None, families.PYTHON)
CODE = Format("gemma-code", None, families.GEMMA_CODE)
OLMO = Format("olmo", None, families.OLMO)

OSLO, TIME = ("get_weather", '{"city": "Oslo"}'), ("get_time", "{}")
G_OSLO = '<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>}<tool_call|>'
G_TIME = "<|tool_call>call:get_time{}<tool_call|>"


def gemma(arguments):
    return f"<|tool_call>call:get_weather{{{arguments}}}<tool_call|>"


def weather(arguments):
    return [("get_weather", arguments)]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (G_OSLO, "", [OSLO]),
        ("So:" + G_OSLO + G_TIME, "So:", [OSLO, TIME]),
        (gemma('a:1,b:[1,-2.5],c:{d:true,e f:null},g:<|"|><|"|>'), "",
         weather('{"a": 1, "b": [1, -2.5], "c": {"d": true, "e f": null}, "g": ""}')),
        (gemma('city:<|"|>"a"\n\\ {},:<x> <|<|"|>'), "", weather(json.dumps({"city": '"a"\n\\ {},:<x> <|'}))),
        # What the template writes of a null, and what models write: white space, other quotes, none, a last comma.
        (gemma("a:None,b:True"), "", weather('{"a": null, "b": true}')),
        (gemma(' city : "Os\\"lo" , b : \'x\',}'.rstrip("}")), "", weather('{"city": "Os\\"lo", "b": "x"}')),
        (gemma("city:New York,days:3"), "", weather('{"city": "New York", "days": 3}')),
        # What is no call, or not known.
        (G_OSLO.replace("get_weather", "rm"), G_OSLO.replace("get_weather", "rm"), []),
        ("<|tool_call>call:get_wea", "<|tool_call>call:get_wea", []),
        # Malformed from some point on, and cut short.
        (gemma('city:<|"|>Oslo<|"|> <x>'), "", weather('{"city": "Oslo" <x>}')),
        (gemma("a:[1,2"), "", weather('{"a": [1, 2}')),
        ("<|tool_call>call:get_weather{city", "", [("get_weather", "", "cut")]),
        ('<|tool_call>call:get_weather{city:<|"|>Os', "", [("get_weather", '{"city": "Os', "cut")]),
        (G_OSLO.removesuffix("<tool_call|>"), "", [OSLO]),
        ("<|tool_call>call:get_weather{days:12", "", [("get_weather", '{"days": 12', "cut")]),
    ],
)  # fmt: skip
def test_gemmas_calls(text, content, calls):
    assert read(GEMMA, text) == ("", content, calls)


def test_function_gemmas_calls():
    text = "<start_function_call>call:get_weather{city:<escape>Os, <b>lo<escape>,days:2}<end_function_call>"
    assert read(FUNCTION, text + ".") == ("", ".", weather('{"city": "Os, <b>lo", "days": 2}'))


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('[get_weather(city="Oslo")]', "", [OSLO]),
        ("[get_weather(city='Oslo'), get_time()]", "", [OSLO, TIME]),
        ('  [get_time( ) , get_weather( city = "Oslo" , ) ]', "  ", [TIME, OSLO]),
        ('<|python_start|>[get_weather(city="Oslo")]<|python_end|>', "<|python_end|>", [OSLO]),
        # A list that is not at the beginning of a line, or is none of calls, is text.
        ("Call [get_time()] now", "Call [get_time()] now", []),
        ("[1] and [a](b)\n[get_time] (x)\n[get_time(x) y", "[1] and [a](b)\n[get_time] (x)\n[get_time(x) y", []),
        ("[rm(a=1)]", "[rm(a=1)]", []),
        ('[get_weather(a={"b": [1, (2, 3)], "c": None}, d=.5, e=1_000)]', "",
         weather('{"a": {"b": [1, [2, 3]], "c": null}, "d": 0.5, "e": 1000}')),
        ('[get_weather(a="""x"y\n""", b=\'\', c="\\x41\\d\\\'\\U0001F600")]', "",
         weather('{"a": "x\\"y\\n", "b": "", "c": "\\u0041\\\\d\'\\ud83d\\ude00"}')),
        ("[get_weather(city=Oslo)]", "", weather('{"city": Oslo')),
        ('[get_weather(city="Os', "", [("get_weather", '{"city": "Os', "cut")]),
        ('[get_weather(city="Oslo")', "", [OSLO]),
    ],
)  # fmt: skip
def test_pythons_calls(text, content, calls):
    assert read(PYTHON, text) == ("", content, calls)


@pytest.mark.parametrize(
    ("format", "text", "content", "calls"),
    [
        (CODE, '```tool_code\nget_weather(city="Oslo")\n```', "", [OSLO]),
        (
            CODE,
            'So:\n```tool_code\nprint(get_weather(city="Oslo"))\nget_time()\n```\nDone',
            "So:\n\nDone",
            [OSLO, TIME],
        ),
        (CODE, "```tool_code\nimport os\n```", "```tool_code\nimport os\n```", []),
        (CODE, "```python\nget_time()\n```", "```python\nget_time()\n```", []),
        (OLMO, "<function_calls>\nget_weather(city='Oslo')\nget_time()\n</function_calls>", "", [OSLO, TIME]),
    ],
)
def test_pythons_calls_between_tags(format, text, content, calls):
    assert read(format, text) == ("", content, calls)


def finite(value):
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(finite, inner))


TEXTS = st.text(max_size=12).filter(lambda text: "\0" not in text and text.isprintable() or text in ("\n", "\t"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(arguments=st.dictionaries(st.sampled_from(["city", "days", "x_1"]), VALUES, max_size=3))
def test_what_python_writes_is_what_it_reads(arguments):
    """`repr` writes the arguments, with the quotes and escapes that it chooses."""
    text = f"[get_weather({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]"
    node = ast.parse(text, mode="eval").body.elts[0]
    assert {word.arg: ast.literal_eval(word.value) for word in node.keywords} == arguments
    data = text.encode()
    whole = pieces(PYTHON, [data])
    ((name, found),) = whole[2]
    assert name == "get_weather" and json.loads(found) == arguments and not whole[1]
    assert pieces(PYTHON, [data[at : at + 1] for at in range(len(data))]) == whole


#: How transformers reads these calls (its documentation's fields).
_FUNCTION = {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}}
SHIPPED_PYTHON = {
    "start_anchor": "<turn>",
    "fields": {
        "tool_calls": {
            "open": "<calls>",
            "close": "</calls>",
            "content": "python-call-list",
            "transform": _FUNCTION,
            "transform_each": True,
        },
        "content": {"close": "<end>"},
    },
}
SHIPPED_GEMMA = {
    "start_anchor": "<turn>",
    "fields": {
        "reasoning_content": {"open": "<|channel>thought\n", "close": "<channel|>"},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": ["<turn|>"]},
    },
}


def parsed(template, text):
    """(reasoning, content, calls) as transformers reads them."""
    found = parse_response(text, template, prefix="")
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in found.get("tool_calls", [])]
    return found.get("reasoning_content", ""), found.get("content", ""), calls


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (SHIPPED_PYTHON, '<calls>[get_weather(city="a\\n\\u00e9", days=-3), get_time()]</calls>'),
        (SHIPPED_PYTHON, "So<calls>[get_weather(a=[1, {'b': None}], c=True, d='x\\'y')]</calls>"),
        (SHIPPED_GEMMA, "<|channel>thought\nhm<channel|>" + G_OSLO + G_TIME),
        (SHIPPED_GEMMA, gemma('a:[1,{b:null}],c:true,d:<|"|>x, "y" é{}<|"|>')),
    ],
)
def test_transformers_reads_the_same(template, text):
    """The format comes from the response template alone; the chat template shows nothing."""
    format = detect("{{ messages }}{{ tools }}", response_template=template)
    reasoning, content, calls = read(format, text)
    assert (reasoning, content, [(name, json.loads(text)) for name, text in calls]) == parsed(template, text)


def test_without_tools_no_text_is_a_call():
    for format, text in ((GEMMA, G_OSLO), (PYTHON, "[get_time()]"), (CODE, "```tool_code\nget_time()\n```")):
        assert read(format, text, tools=[]) == ("", text, [])
        assert len(read(format, text, tools=TOOLS)[2]) == 1
