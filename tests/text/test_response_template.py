"""A tokenizer's `response_template` is used: transformers' parser reads the same from the same description."""

from __future__ import annotations

import json

import pytest
from transformers.utils.chat_parsing import parse_response

from llmlab.text import call_families as families
from llmlab.text.formats import detect
from llmlab.text.response_template import shipped_calls
from llmlab.text.template import ChatTemplate
from llmlab.text.tokenizer import Tokenizer
from tests.text import folders
from tests.text.outputs import read

FUNCTION = {"type": "function", "function": "{content}"}
NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
CALLS = [("get_weather", {"city": "Ås"}), ("get_time", {})]


def shipped(calls, **fields):
    return {
        "start_anchor": "<turn>",
        "fields": {
            "thinking": {"open": "<t>\n", "close": "</t>"},
            "tool_calls": {"repeats": True, **calls},
            "content": {"close": "<end>"},
            **fields,
        },
    }


SHIPPED = {
    "json": (
        shipped({"open": "<c>", "close": "</c>", "content": "json", "transform": FUNCTION}),
        '<c>{"name": "get_weather", "arguments": {"city": "Ås"}}</c><c>{"name": "get_time", "arguments": {}}</c>',
    ),
    "white space around": (
        shipped({"open_pattern": r"\s*<c>\s*", "close_pattern": r"\s*</c>", "content": "json", "transform": FUNCTION}),
        '\n<c>\n{"name": "get_weather", "arguments": {"city": "Ås"}}\n</c>\n'
        '<c>{"name": "get_time", "arguments": {}}</c>',
    ),
    "a list, other keys": (
        shipped(
            {
                "open": ["<c>", "<calls>"],
                "close": "</c>",
                "content": "json",
                "repeats": False,
                "transform_each": True,
                "transform": {"type": "function", "function": {"name": "{tool}", "arguments": "{args}"}},
            }
        ),
        '<c>[{"tool": "get_weather", "args": {"city": "Ås"}}, {"tool": "get_time", "args": {}}]</c>',
    ),
    "keys of the content": (
        shipped(
            {
                "open": "<c>",
                "close": "</c>",
                "content": "json",
                "transform": {"type": "function", "function": {"name": "{content.f}", "arguments": "{content.a}"}},
            }
        ),
        '<c>{"f": "get_weather", "a": {"city": "Ås"}}</c><c>{"f": "get_time", "a": {}}</c>',
    ),
    "a name in the tag": (
        shipped({"open_pattern": r"<c=(?P<name>\w+)>", "close": "</c>", "content": "json", "transform": NAMED}),
        '<c=get_weather>{"city": "Ås"}</c><c=get_time>{}</c>',
    ),
    "tags": (
        shipped(
            {
                "open_pattern": r"<c>\s*<f=(?P<name>[^>\n]+)>",
                "close_pattern": r"</f>\s*</c>",
                "content": "xml-inline",
                "transform": NAMED,
                "content_args": {"tag_pattern": r"<p=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</p>"},
            }
        ),
        "<c>\n<f=get_weather>\n<p=city>\nÅs\n</p>\n</f>\n</c><c><f=get_time></f></c>",
    ),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_what_transformers_reads(name):
    template, text = SHIPPED[name]
    whole = f"<t>\nhm</t>So:{text}"
    theirs = parse_response(whole, template, prefix="")
    assert [(one["function"]["name"], one["function"]["arguments"]) for one in theirs["tool_calls"]] == CALLS
    # The chat template shows neither reasoning nor calls.
    reasoning, content, calls = read(detect("{{ messages }}", response_template=template), whole)
    assert [(called, json.loads(arguments)) for called, arguments in calls] == CALLS
    assert (reasoning, content.strip()) == (theirs["thinking"], theirs["content"]) == ("hm", "So:")


@pytest.mark.parametrize(
    "calls",
    [
        {"open": "<c>", "close": "</c>", "content": "text"},
        {"open": "<c>", "content": "json", "transform": FUNCTION},
        {"open_pattern": "<c.*?>", "close": "</c>", "content": "json", "transform": FUNCTION},
        {"open_pattern": r"<c>(?P<name>\w+).*?:", "close": "</c>", "content": "json", "transform": NAMED},
        {"open_pattern": "<c>+", "close": "</c>", "content": "json", "transform": FUNCTION},
        {"open": "<c>", "close": "</c>", "content": "json", "transform": {"function": {"name": "{name}"}}},
        {"open": "<c>", "close": "</c>", "content": "xml-inline", "content_args": {"tag_pattern": "x"}},
        "calls",
        None,
    ],
)
def test_what_stands_for_many_texts_is_not_guessed(calls):
    template = {"fields": {"tool_calls": calls}}
    assert shipped_calls(template) is None
    assert detect('<tool_call> {"name": ', response_template=template).calls == families.HERMES
    assert detect("{{ x }}", response_template=template).calls is None


def test_no_response_template_that_can_be_read():
    for template in (None, {}, {"fields": None}, {"fields": []}):
        assert shipped_calls(template) is None


def test_the_chat_template_knows_the_white_space():
    """A syntax that both describe is that of the chat template; where they differ, the response template decides."""
    hermes = shipped({"open": "<tool_call>", "close": "</tool_call>", "content": "json", "transform": FUNCTION})
    source = r"""{{ '<tool_call>\n{"name": "' + name + '", "arguments": ' }}<think>\n"""
    found = detect(source, response_template=hermes)
    assert (found.name, found.calls) == ("hermes", families.HERMES) and found.reasoning.open == "<t>"
    other = detect(source, response_template=SHIPPED["json"][0])
    assert other.name == "response-template" and other.calls.open == "<c>"
    coder = shipped(
        {
            "open_pattern": r"<tool_call>\s*<function=(?P<name>\w+)>",
            "close": "</tool_call>",
            "content": "xml-inline",
            "transform": NAMED,
            "content_args": {"tag_pattern": r"<parameter=(?P<key>\w+)>\s*(?P<value>.*?)\s*</parameter>"},
        }
    )
    assert detect("<tool_call><function= <parameter=", response_template=coder).calls == families.QWEN_XML


def test_a_folder_brings_its_response_template(tmp_path):
    folder = folders.byte_level_folder(tmp_path)
    tokenizer = Tokenizer.load(folder)
    tokenizer.hf.response_template = SHIPPED["json"][0]
    tokenizer.hf.save_pretrained(folder)
    format = ChatTemplate(Tokenizer.load(folder)).format
    assert format.calls.open == "<c>" and format.reasoning.open == "<t>"
