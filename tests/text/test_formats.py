"""The format of a model, detected from minimal templates that write each family's syntax."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmlab.text.call_families import DEEPSEEK, GLM, HERMES, LLAMA, MISTRAL
from llmlab.text.formats import Format, ReasoningTags, detect
from llmlab.text.template import ChatTemplate
from llmlab.text.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "data" / "demo"

TAGGED = r"""{{- '<tool_call>\n{"name": "' + call.name + '", "arguments": ' + arguments + '}\n</tool_call>' }}"""
THINKS = r"{{- '<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content }}"
FENCED = (
    r"{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool.type + '<｜tool▁sep｜>' + tool.name + '\n```json\n' }}"
)
OPENED = r"{{ '<｜Assistant｜><think>\n' }}{% set content = content.split('</think>')[-1] %}"
PAIRS = "<tool_call>{{ name }}\n{% for k, v in arguments %}<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>\n"
TIGHT = r"{{ '\n<think>' + reasoning.strip() + '</think>' }}{{ '\n' + content }}"
BARE = r"""{{- '{"name": "' + call.name + '", ' }}{{- '"parameters": ' }}{{- call.arguments | tojson }}{{- "}" }}"""
LISTED = "{{- '[TOOL_CALLS][' }}{% if call.id|length != 9 %}{{- raise_exception('9') }}{% endif %}"


@pytest.mark.parametrize(
    ("source", "name", "reasoning", "calls"),
    [
        (TAGGED, "hermes", None, HERMES),
        (THINKS + TAGGED, "hermes", ReasoningTags(lead="\n", tail="\n", separator="\n\n"), HERMES),
        (FENCED + OPENED, "deepseek", ReasoningTags(lead="\n", tail="", separator="\n\n"), DEEPSEEK),
        (TIGHT + PAIRS, "glm", ReasoningTags(separator="\n"), GLM),
        (BARE, "llama", None, LLAMA),
        (THINKS, "think", ReasoningTags(lead="\n", tail="\n", separator="\n\n"), None),
        ("{{ '<think>\\n\\n</think>\\n' }}", "think", ReasoningTags(lead="\n", tail="\n", separator="\n"), None),
        ("{{ '<|user|>\\n' + message.content }}", "plain", None, None),
        ("<tool_call>\n<function={{ name }}>", "plain", None, None),
        (None, "plain", None, None),
    ],
)
def test_a_template_says_how_its_model_writes(source, name, reasoning, calls):
    assert detect(source) == Format(name, reasoning, calls)


def test_a_template_says_how_long_the_ids_of_calls_are():
    format = detect(LISTED)
    assert format.name == "mistral" and format.calls.id_length == 9 and format.calls.start == MISTRAL.start
    assert detect("{{- '[TOOL_CALLS][' }}").calls.id_length == 0
    assert detect('{{- "[TOOL_CALLS] [" }}').calls == replace(MISTRAL, start="[TOOL_CALLS] [")


def test_a_base_model_may_know_the_reasonings_tags():
    assert detect(None, tokens={"<think>", "</think>", "<x>"}).reasoning == ReasoningTags()
    assert detect(None, tokens={"<think>"}).reasoning is None


@pytest.mark.parametrize(
    ("shipped", "want"),
    [
        ({"fields": {"reasoning_content": {"open": "[THINK]", "close": "[/THINK]"}}}, ("[THINK]", "[/THINK]")),
        ({"fields": {"thinking": {"open": "<a>\n", "close": "</a>", "content": "text"}}}, ("<a>", "</a>")),
        ({"fields": {"reasoning_content": {"open_pattern": "<a.>", "close": "</a>"}}}, None),
        ({"fields": {"content": {}}}, None),
        ({"fields": "none"}, None),
        ({}, None),
    ],
)
def test_a_tokenizer_may_bring_the_reasonings_tags(shipped, want):
    found = detect("{{ x }}", response_template=shipped).reasoning
    assert (found and (found.open, found.close)) == want


def test_the_embedded_models_format():
    template = ChatTemplate(Tokenizer.load(DEMO))
    assert template.format == Format("hermes", ReasoningTags(lead="\n", tail="\n", separator="\n\n"), HERMES)
    assert template.format is template.format


def test_what_the_embedded_models_template_writes_is_what_is_read_back():
    from tests.text.outputs import read

    template = ChatTemplate(Tokenizer.load(DEMO))
    calls = [
        {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Ås \\"1\\""}'}},
        {"id": "b", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
    ]
    asked = [{"role": "user", "content": "Well?"}]
    answer = {"role": "assistant", "content": "So:", "reasoning_content": "hm", "tool_calls": calls}
    prompt = template.render(asked, enable_thinking=True)
    text = template.render([*asked, answer], add_generation_prompt=False).removeprefix(prompt)
    wrote = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    assert read(template.format, text.removesuffix("<|im_end|>\n"), prompt=prompt.encode()) == ("hm", "So:", wrote)


def test_control_tokens_are_delimiters_by_name():
    format = Format("x", ReasoningTags(open="[THINK]", close="[/THINK]"), MISTRAL)
    names = {1: "[THINK]", 2: "[INST]", 5: "[TOOL_CALLS]", 6: "</s>"}
    assert format.controls(names) == {1: b"[THINK]", 5: b"[TOOL_CALLS]"}
    assert Format().controls(names) == {}
    assert set(Format("d", None, DEEPSEEK).controls({1: "<｜tool▁sep｜>", 2: "<｜User｜>"})) == {1}
    assert set(Format("l", None, LLAMA).controls({1: "<|python_tag|>", 2: "<|eom_id|>"})) == {1}
