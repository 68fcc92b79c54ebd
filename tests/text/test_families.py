"""The call syntaxes of newer families: what their templates write is told apart, and read back whatever its pieces."""

from __future__ import annotations

import json

import pytest

from llmlab.text import call_families as families
from llmlab.text.formats import Format, ReasoningTags, detect
from llmlab.text.segments import Segmenter, reasoning_open
from llmlab.text.template import ChatTemplate
from llmlab.text.tokenizer import Tokenizer
from tests.text.outputs import read

QWEN = Format("qwen-xml", None, families.QWEN_XML)
MINIMAX = Format("minimax", ReasoningTags(lead="\n", tail="\n"), families.MINIMAX)
TIGHT = Format("glm", ReasoningTags(separator=""), families.GLM_TIGHT)
V31 = Format("deepseek", ReasoningTags(), families.DEEPSEEK_V31)
ARGS = detect("[THINK] [/THINK] [TOOL_CALLS] [ARGS]")
IDS = detect("[TOOL_CALLS] [CALL_ID] [ARGS] {% if call.id|length != 9 %}")
COHERE = detect('<|START_THINKING|> <|END_THINKING|> <|START_ACTION|> "tool_name": "')
KIMI = Format("kimi", None, families.KIMI)

CALL, OVER = "<tool_call>\n<function=", "</function>\n</tool_call>"
OSLO, TIME = ("get_weather", '{"city": "Oslo"}'), ("get_time", "{}")
QWEN_OSLO = CALL + "get_weather>\n<parameter=city>\nOslo\n</parameter>\n" + OVER
QWEN_TIME = CALL + "get_time>\n" + OVER


def qwen(key, value):
    return f"{CALL}get_weather>\n<parameter={key}>\n{value}\n</parameter>\n{OVER}"


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (QWEN_OSLO, "", [OSLO]),
        (QWEN_TIME, "", [TIME]),
        ("So:\n" + QWEN_OSLO + "\n" + QWEN_TIME, "So:", [OSLO, TIME]),
        (QWEN_OSLO.replace("\n", ""), "", [OSLO]),
        # Values: a line break at either end belongs to the tags, one only.
        (qwen("city", '\n a "b"\n\tc\\ \n'), "", [("get_weather", json.dumps({"city": '\n a "b"\n\tc\\ \n'}))]),
        (qwen("city", ""), "", [("get_weather", '{"city": ""}')]),
        (qwen("city", "a < b </param> </p"), "", [("get_weather", '{"city": "a < b </param> </p"}')]),
        (qwen("days", "3"), "", [("get_weather", '{"days": 3}')]),
        (qwen("hourly", "True"), "", [("get_weather", '{"hourly": true}')]),
        (qwen("hourly", "None"), "", [("get_weather", '{"hourly": null}')]),
        (qwen("note", "None"), "", [("get_weather", '{"note": "None"}')]),
        (qwen("places", '["a", "b"]'), "", [("get_weather", '{"places": ["a", "b"]}')]),
        (qwen("other", "x y"), "", [("get_weather", '{"other": "x y"}')]),
        # What these models are known to leave out: the outer tags, an argument's end.
        (QWEN_OSLO.removeprefix("<tool_call>\n"), "", [OSLO]),
        ("<function=get_time></function>, yes", ", yes", [TIME]),
        (CALL + "get_weather>\n<parameter=city>\nOslo\n</function>\n</tool_call>", "",
         [("get_weather", '{"city": "Oslo')]),
        # What only looks like a call.
        ("<function=rm>\n</function>", "<function=rm>\n</function>", []),
        ("a <function of x, <tool_call> b", "a <function of x, <tool_call> b", []),
        (CALL, CALL, []),
        # Cut short.
        (CALL + "get_time>\n", "", [("get_time", "", "cut")]),
        (CALL + "get_weather>\n<parameter=city>\nOs", "", [("get_weather", '{"city": "Os', "cut")]),
        (QWEN_OSLO.removesuffix("\n</tool_call>"), "", [OSLO]),
    ],
)  # fmt: skip
def test_qwen_coders_calls(text, content, calls):
    assert read(QWEN, text) == ("", content, calls)


INVOKE = '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Oslo</parameter>\n</invoke>\n'


@pytest.mark.parametrize(
    ("format", "text", "want"),
    [
        (MINIMAX, INVOKE + "</minimax:tool_call>", ("", "", [OSLO])),
        (MINIMAX, "a\n" + INVOKE + '<invoke name="get_time">\n</invoke>\n</minimax:tool_call>b',
         ("", "ab", [OSLO, TIME])),
        (MINIMAX, 'if a < b: <invoke name="rm">', ("", 'if a < b: <invoke name="rm">', [])),
        (TIGHT, "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call>",
         ("", "", [OSLO])),
        (TIGHT, "<think>hm</think><tool_call>get_time</tool_call>.", ("hm", ".", [TIME])),
    ],
)  # fmt: skip
def test_other_calls_in_tags(format, text, want):
    assert read(format, text) == want


DEEPSEEK_OSLO = '<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜>'
DEEPSEEK_TIME = "<｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
KIMI_OSLO = '<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|>'
KIMI_TIME = "<|tool_call_begin|>functions.get_time:11<|tool_call_argument_begin|>{}<|tool_call_end|>"


@pytest.mark.parametrize(
    ("format", "text", "want"),
    [
        (V31, f"<｜tool▁calls▁begin｜>{DEEPSEEK_OSLO}{DEEPSEEK_TIME}<｜tool▁calls▁end｜>", ("", "", [OSLO, TIME])),
        (V31, f"<think>hm</think>So:<｜tool▁calls▁begin｜>{DEEPSEEK_TIME}<｜tool▁calls▁end｜>", ("hm", "So:", [TIME])),
        (V31, "<｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{'a'}<｜tool▁call▁end｜>.",
         ("", ".", [("get_time", "{'a'}")])),
        (V31, "<｜tool▁call▁begin｜>get_weather   <｜tool▁sep｜>{}", ("", "", [("get_weather", "{}")])),
        (ARGS, '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}', ("", "", [OSLO])),
        (ARGS, '[THINK]hm[/THINK]So:[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]get_time[ARGS]{}',
         ("hm", "So:", [OSLO, TIME])),
        (ARGS, "[TOOL_CALLS]get_time[ARGS]{} and so on", ("", " and so on", [TIME])),
        (ARGS, '[TOOL_CALLS]get_time[ARGS]{"a": "[TOOL_CALLS]"}', ("", "", [("get_time", '{"a": "[TOOL_CALLS]"}')])),
        (ARGS, "[TOOL_CALLS]rm[ARGS]{}", ("", "[TOOL_CALLS]rm[ARGS]{}", [])),
        (ARGS, '[TOOL_CALLS]get_time[ARGS]{"a": 1', ("", "", [("get_time", '{"a": 1', "cut")])),
        (ARGS, "[TOOL_CALLS]get_ti", ("", "[TOOL_CALLS]get_ti", [])),
        (IDS, '[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Oslo"}', ("", "", [OSLO])),
        (IDS, '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]get_time[CALL_ID]abcdefghi[ARGS]{}',
         ("", "", [OSLO, TIME])),
        (IDS, "[TOOL_CALLS]get_time[CALL_ID]" + "a" * 80 + "[ARGS]{}",
         ("", "[TOOL_CALLS]get_time[CALL_ID]" + "a" * 80 + "[ARGS]{}", [])),
        (KIMI, f"<|tool_calls_section_begin|>{KIMI_OSLO}{KIMI_TIME}<|tool_calls_section_end|>", ("", "", [OSLO, TIME])),
        (KIMI, f"So:{KIMI_OSLO}", ("", "So:", [OSLO])),
    ],
)  # fmt: skip
def test_a_name_and_json(format, text, want):
    assert read(format, text) == want


COHERE_CALLS = (
    '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo"}},\n'
    '    {"tool_call_id": "1", "tool_name": "get_time", "parameters": {}}\n]<|END_ACTION|>'
)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (COHERE_CALLS, ("", "", [OSLO, TIME])),
        ("<|START_THINKING|>hm<|END_THINKING|>" + COHERE_CALLS + "a", ("hm", "a", [OSLO, TIME])),
        ('<|START_ACTION|>[{"tool_name": "get_time"}]<|END_ACTION|>', ("", "", [TIME])),
        ('<|START_ACTION|>[{"tool_name": "get_time", "parameters": {}}]', ("", "", [TIME])),
        ('<|START_ACTION|>[{"tool_name": "rm", "parameters": {}}]<|END_ACTION|>',
         ("", '<|START_ACTION|>[{"tool_name": "rm", "parameters": {}}]<|END_ACTION|>', [])),
        ('{"tool_name": "get_time", "parameters": {}}', ("", '{"tool_name": "get_time", "parameters": {}}', [])),
    ],
)  # fmt: skip
def test_coheres_calls(text, want):
    assert read(COHERE, text) == want


PHI = Format("phi", None, families.PHI)
SINGLE = Format("phi", None, families.PHI_SINGLE)
GRANITE = Format("granite", ReasoningTags(), families.GRANITE)
ONE, TWO = '{"name": "get_weather", "arguments": {"city": "Oslo"}}', '{"name": "get_time", "arguments": {}}'


@pytest.mark.parametrize(
    ("format", "text", "want"),
    [
        (PHI, f"<|tool_call|>[{ONE}, {TWO}]<|/tool_call|>", ("", "", [OSLO, TIME])),
        (PHI, f"So:<|tool_call|>[{ONE}]<|/tool_call|>.", ("", "So:.", [OSLO])),
        # Without the brackets of the list, and in the form of another published prompt.
        (PHI, f"<|tool_call|>{ONE}<|/tool_call|>", ("", "", [OSLO])),
        (PHI, f"functools[{ONE}, {TWO}]", ("", "", [OSLO, TIME])),
        (PHI, f"<|tool_call|>[{ONE}", ("", "", [OSLO])),
        (PHI, '<|tool_call|>[{"name": "rm"}]', ("", '<|tool_call|>[{"name": "rm"}]', [])),
        (SINGLE, f"<|tool_call|>{ONE}<|/tool_call|><|tool_call|>{TWO}<|/tool_call|>", ("", "", [OSLO, TIME])),
        (GRANITE, f"<|tool_call|>[{ONE}, {TWO}]", ("", "", [OSLO, TIME])),
        (GRANITE, f"<think>hm</think><|tool_call|>[{TWO}]", ("hm", "", [TIME])),
        (GRANITE, f'<|tool_call|>[{ONE}, {{"name": "get_time", "argu', ("", "", [OSLO, ("get_time", "", "cut")])),
    ],
)  # fmt: skip
def test_lists_after_a_tag(format, text, want):
    assert read(format, text) == want


def test_reasoning_in_plain_words():
    granite = detect(
        "Write your thoughts after 'Here is my thought process:' and your answer after 'Here is my response:'"
    )
    text = "Here is my thought process:\n\nhm\n\nHere is my response:\n\nHello"
    assert read(granite, text) == ("hm", "Hello", [])
    assert read(granite, "Here is my answer") == ("", "Here is my answer", [])


def test_gemma_4s_reasoning():
    gemma = detect(r"{{ '<|channel>thought\n' + thinking + '\n<channel|>' }}<|tool_call>call: {% set q = '<|\"|>' %}")
    assert gemma.calls == families.GEMMA and gemma.reasoning.lead == gemma.reasoning.tail == "\n"
    assert read(gemma, "<|channel>thought\nhm\n<channel|>Hello") == ("hm", "Hello", [])
    turn = b"<|turn>user\n<|channel>thought\nx<turn|>\n<|turn>model\n"
    assert not reasoning_open(gemma, turn) and not reasoning_open(gemma, turn + b"<|channel>thought\n<channel|>")
    assert reasoning_open(gemma, turn + b"<|channel>thought\n")
    names = {1: "<|channel>", 2: "<channel|>", 3: '<|"|>', 4: "<|tool_call>", 5: "<turn|>"}
    assert set(gemma.controls(names)) == {1, 2, 3, 4}


def test_tags_that_are_spelled_like_control_tokens_open_no_turn():
    turn = b"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    assert reasoning_open(COHERE, turn + b"<|START_THINKING|>")
    assert not reasoning_open(COHERE, turn + b"<|START_THINKING|><|END_THINKING|>")
    assert not reasoning_open(COHERE, b"<|START_THINKING|>" + turn)
    assert Segmenter(ARGS, prompt=b"[INST]hi[/INST][THINK]").reasoning


@pytest.mark.parametrize(
    ("source", "calls", "tags"),
    [
        ("'<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' + arguments", families.DEEPSEEK_V31, None),
        ("<arg_key>{{ k }}</arg_key><arg_value>{{ v }}</arg_value>", families.GLM_TIGHT, None),
        (r"'<tool_call>\n<function=' + name + '>\n' }}{{ '<parameter=' + k", families.QWEN_XML, None),
        ("{% set begin = '<minimax:tool_call>' %}", families.MINIMAX, None),
        ("<|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>", families.KIMI, None),
        ("'[TOOL_CALLS]' + name + '[ARGS]' + arguments", families.MISTRAL_ARGS, None),
        ("<start_function_call>call:{{ name }}{<escape>", families.FUNCTION_GEMMA, None),
        ("'<|tool_call|>' + calls|tojson + '<|/tool_call|>'", families.PHI, None),
        ('<|tool_call|>{"name": "foo", "arguments": {"a": 1}}<|/tool_call|>', families.PHI_SINGLE, None),
        ("formatted as functools[{name, arguments}]", families.PHI, None),
        ("only with <|tool_call|> followed by a JSON list of tools used", families.GRANITE, None),
        ("'<function_calls>' + message.function_calls + '</function_calls>'", families.OLMO, None),
        ("<function_calls><invoke name={{ name }}>", None, None),
        ("wrap it in ```tool_code and ```", families.GEMMA_CODE, None),
        ("in the format of [func_name1(params_name1=params_value1), func_name2(params)]", families.PYTHON, None),
        ('in the format of {"name": function name, "parameters": dictionary of', families.LLAMA, None),
        ("'[THINK]' + thought + '[/THINK]'", None, ("[THINK]", "[/THINK]")),
        ("<|START_THINKING|><|END_THINKING|>", None, ("<|START_THINKING|>", "<|END_THINKING|>")),
    ],
)
def test_templates_are_told_apart(source, calls, tags):
    found = detect(source, tokens={"<think>", "</think>"} if tags else ())
    assert found.calls == calls
    assert (found.reasoning and (found.reasoning.open, found.reasoning.close)) == tags


def test_tokens_tell_where_the_template_does_not():
    """Phi-4-mini's template shows tools and no call; its vocabulary has the tags."""
    source = "{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}"
    assert detect(source).calls is None
    assert detect(source, tokens={"<|tool_call|>", "<|/tool_call|>"}).calls == families.PHI
    assert detect(source, tokens={"<tool_call>", "</tool_call>"}).calls is None


TYPES = {str: "string", int: "integer", bool: "boolean", list: "array"}
WRITTEN = {
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": families.COHERE,
    "GLM-4.6": families.GLM,
    "GLM-4.7-Flash": families.GLM_TIGHT,
    "MiniMax-M2": families.MINIMAX,
    "Mistral-Small-3.2-24B-Instruct-2506": IDS.calls,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": families.HERMES,
    "Qwen-Qwen2.5-7B-Instruct": families.HERMES,
    "Qwen-Qwen3-0.6B": families.HERMES,
    "Qwen3-Coder": families.QWEN_XML,
    "deepseek-ai-DeepSeek-V3.1": families.DEEPSEEK_V31,
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": families.DEEPSEEK,
    "ibm-granite-granite-4.0": families.HERMES,
    "llama-cpp-deepseek-r1": families.DEEPSEEK,
    "meta-llama-Llama-3.1-8B-Instruct": families.LLAMA,
    "meta-llama-Llama-3.2-3B-Instruct": families.LLAMA,
    "mistralai-Mistral-Nemo-Instruct-2407": None,
}


@pytest.fixture(scope="module")
def tokenizer(shared_data):
    return Tokenizer.load(shared_data / "tokenizers" / "qwen3")


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_real_template_writes_is_read_back(shared_data, tokenizer, name):
    template = ChatTemplate(tokenizer, shared_data / "templates" / f"{name}.jinja")
    syntax = template.format.calls
    assert syntax == (WRITTEN[name] or syntax) and syntax is not None
    arguments = {"city": 'Ås "1"\n', "days": 3, "hourly": True, "places": ["a", "b"]}
    calls = [("get_weather", json.dumps(arguments, ensure_ascii=False)), ("get_time", "{}")]
    calls = calls[:1] if syntax.between is None else calls
    made = [
        {"id": f"abcdefgh{at}", "type": "function", "function": {"name": name, "arguments": text}}
        for at, (name, text) in enumerate(calls)
    ]
    # R1's template fails on a list of tools, others take none; what they write of calls is the same without.
    properties = {key: {"type": TYPES[type(value)]} for key, value in arguments.items()}
    schemas = {"get_weather": {"type": "object", "properties": properties}, "get_time": {"type": "object"}}
    tools = [
        {"type": "function", "function": {"name": name, "description": "It tells.", "parameters": schema}}
        for name, schema in schemas.items()
    ]
    tools = tools if template.has_switch("tools") and "deepseek" not in name else None
    asked = [{"role": "user", "content": "Well?"}]
    answer = {"role": "assistant", "content": None, "tool_calls": made}
    text = template.render([*asked, answer], tools=tools, add_generation_prompt=False)
    begin = text.index(syntax.start.partition("\n")[0] or syntax.open or '{"name": "get_weather"', text.rindex("Well?"))
    reasoning, content, found = read(template.format, text[begin:])
    assert not reasoning and "get_" not in content
    assert [(name, json.loads(text)) for name, text in found] == [(name, json.loads(text)) for name, text in calls]
