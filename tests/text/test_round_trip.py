"""What the published templates write of an earlier answer is read back as the same reasoning, content and calls."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import pytest

from llmlab.errors import RequestError
from llmlab.text.segments import Segmenter
from llmlab.text.template import ChatTemplate
from llmlab.text.tokenizer import Tokenizer
from tests.text.outputs import pieces

#: Arguments that are hard to write: every JSON type, quotes, escapes, other scripts, strings that look like values.
ARGUMENTS = {
    "city": "Ås \"1\"\n\t\\ 猫 😀 'x' {} é",
    "days": -3,
    "big": 12345678901234567890,
    "ratio": 2.5e-07,
    "hourly": True,
    "nothing": None,
    "places": ["a", 'b\n"c"', []],
    "deep": {"x": {"y": [1, {"z": None}], "e": {}, "l": [], "f": False}},
    "blank": "",
    "digits": "42",
    "like": '{"a": 1}',
    "word": "true",
}
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
TYPES[type(None)] = "null"


def tool(name, arguments):
    properties = {key: {"type": TYPES[type(value)], "description": "It is."} for key, value in arguments.items()}
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": "It tells.", "parameters": parameters}}


TOOLS = [tool("get_weather", ARGUMENTS), tool("get_time", {})]
PLAIN = [tool("get_weather", {"city": ""})]


class Writes(NamedTuple):
    """What a template writes of an answer: the text that ends it, and whether reasoning and content stand beside calls.

    `tools` are those that it is given: R1's fails on a list of tools, V3.1's takes none, and Hermes' fails on the type
    null.
    """

    end: str
    reasons: bool = False
    content: bool = True
    tools: list[Any] | None = TOOLS


TEMPLATES = {
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": Writes("<|END_OF_TURN_TOKEN|>", reasons=True, content=False),
    "GLM-4.6": Writes("", reasons=True),
    "GLM-4.7-Flash": Writes("", reasons=True),
    "MiniMax-M2": Writes("[e~[", reasons=True),
    "Mistral-Small-3.2-24B-Instruct-2506": Writes("<|im_end|>", content=False),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": Writes(
        "<|im_end|>", content=False, tools=[tool("get_weather", {"city": ""})]
    ),
    "Qwen-Qwen2.5-7B-Instruct": Writes("<|im_end|>"),
    "Qwen-Qwen3-0.6B": Writes("<|im_end|>", reasons=True),
    "Qwen3-Coder": Writes("<|im_end|>"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": Writes("<｜end▁of▁sentence｜>", content=False, tools=None),
    "deepseek-ai-DeepSeek-V3.1": Writes("<｜end▁of▁sentence｜>", content=False, tools=None),
    "google-gemma-4-31B-it": Writes("<|tool_response>", reasons=True, content=False),
    "ibm-granite-granite-4.0": Writes("<|end_of_text|>"),
    "llama-cpp-deepseek-r1": Writes("<｜end▁of▁sentence｜>", content=False, tools=None),
    "meta-llama-Llama-3.1-8B-Instruct": Writes("<|eot_id|>", content=False),
    "meta-llama-Llama-3.2-3B-Instruct": Writes("<|eot_id|>", content=False),
    "mistralai-Mistral-Nemo-Instruct-2407": Writes("<|im_end|>", content=False),
    "openai-gpt-oss-120b": Writes("<|call|>", reasons=True, content=False),
}
#: Templates that show no calls, with the text that ends an answer.
WITHOUT_CALLS = {
    "HuggingFaceTB-SmolLM3-3B": "<|im_end|>",
    "google-gemma-2-2b-it": "<end_of_turn>",
    "microsoft-Phi-3.5-mini-instruct": "<|end|>",
}
#: A template that transformers' sandbox does not run: it appends to a list.
REFUSED = "Kimi-K2-Instruct"

REASONING, CONTENT = 'I think "so".\n\nYes: {"a": 1}', "Let me see:\nå."


@pytest.fixture(scope="module")
def tokenizer(shared_data):
    return Tokenizer.load(shared_data / "tokenizers" / "qwen3")


def test_every_template_of_the_folder_is_here(shared_data):
    found = {path.stem for path in (shared_data / "templates").glob("*.jinja")}
    assert found == {*TEMPLATES, *WITHOUT_CALLS, REFUSED}


def made_calls(format) -> list[tuple[str, str]]:
    calls = [("get_weather", json.dumps(ARGUMENTS, ensure_ascii=False)), ("get_time", "{}")]
    return calls if format.calls.between is not None else calls[:1]


def message(calls, **more: Any):
    made = [
        {"id": f"abcdefgh{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made, **more}


def written(template, answer, *, end, tools=None, thinks=False):
    """(the prompt, what the model would have written to give this answer)."""
    asked = [{"role": "user", "content": "Well?"}]
    thinks = thinks or bool(answer.get("reasoning_content"))
    options = {"enable_thinking": thinks} if template.thinking_switch else {}
    prompt = template.render(asked, tools=tools, **options)
    whole = template.render([*asked, answer], tools=tools, add_generation_prompt=False, **options)
    begin = os.path.commonprefix([prompt, whole])
    if begin != prompt and begin.rfind("<") > begin.rfind(">"):
        begin = begin[: begin.rfind("<")]  # a tag of which both have the first sign
    text = whole[len(begin) :]
    return begin.encode(), text[: text.index(end)] if end else text


def loaded(calls):
    return [(name, json.loads(arguments), *rest) for name, arguments, *rest in calls]


def read(format, text, **options):
    """Segments a whole text; checks that the result is the same byte by byte."""
    data = text.encode()
    whole = pieces(format, [data], **options)
    assert pieces(format, [data[at : at + 1] for at in range(len(data))], **options) == whole
    return whole


def token_pieces(tokenizer, text):
    """The bytes of a text's tokens. Spellings of other families' control tokens are several tokens here."""
    return [tokenizer.bytes_of(token) or tokenizer.name(token).encode() for token in tokenizer.encode(text)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_and_reasoning(shared_data, tokenizer, name):
    template, writes = ChatTemplate(tokenizer, shared_data / "templates" / f"{name}.jinja"), TEMPLATES[name]
    calls = made_calls(template.format)
    wanted = REASONING if writes.reasons else ""
    answer = message(calls, reasoning_content=REASONING)
    prompt, text = written(template, answer, end=writes.end, tools=writes.tools)
    options = {"prompt": prompt, "tools": TOOLS}
    reasoning, content, found = read(template.format, text, **options)
    assert (reasoning, content, loaded(found)) == (wanted, "", loaded(calls))
    assert pieces(template.format, token_pieces(tokenizer, text), **options) == (reasoning, content, found)


@pytest.mark.parametrize("name", [name for name, writes in TEMPLATES.items() if writes.content])
def test_content_beside_calls(shared_data, tokenizer, name):
    template, writes = ChatTemplate(tokenizer, shared_data / "templates" / f"{name}.jinja"), TEMPLATES[name]
    calls = made_calls(template.format)
    prompt, text = written(template, message(calls, content=CONTENT), end=writes.end, tools=TOOLS)
    reasoning, content, found = read(template.format, text, prompt=prompt, tools=TOOLS)
    assert (reasoning, content.strip(), loaded(found)) == ("", CONTENT, loaded(calls))


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_that_are_cut_short(shared_data, tokenizer, name):
    template, writes = ChatTemplate(tokenizer, shared_data / "templates" / f"{name}.jinja"), TEMPLATES[name]
    calls = made_calls(template.format)
    answer = message(calls, reasoning_content=REASONING)
    prompt, text = written(template, answer, end=writes.end, tools=writes.tools)
    data = text.encode()
    whole = pieces(template.format, [data], prompt=prompt, tools=TOOLS)
    for cut in range(0, len(data), 3):
        reasoning, content, found = pieces(template.format, [data[:cut]], prompt=prompt, tools=TOOLS)
        names = [name for name, *_ in found]
        assert names == [name for name, *_ in whole[2]][: len(names)]
        complete = [call for call in found if len(call) == 2]
        assert complete == whole[2][: len(complete)] and len(found) - len(complete) <= 1
        if found:  # the reasoning is over, and what is there of the next call is no call yet
            assert reasoning == whole[0] and data[:cut].decode("utf-8", "replace").endswith(content)


@pytest.mark.parametrize("name", WITHOUT_CALLS)
def test_answers_without_calls(shared_data, tokenizer, name):
    template = ChatTemplate(tokenizer, shared_data / "templates" / f"{name}.jinja")
    assert template.format.calls is None
    prompt, text = written(template, {"role": "assistant", "content": CONTENT}, end=WITHOUT_CALLS[name])
    assert read(template.format, text, prompt=prompt, tools=TOOLS)[:2] == ("", CONTENT)


def test_reasoning_that_smollm_keeps_in_the_content(shared_data, tokenizer):
    template = ChatTemplate(tokenizer, shared_data / "templates" / "HuggingFaceTB-SmolLM3-3B.jinja")
    answer = {"role": "assistant", "content": f"<think>\n{REASONING}\n</think>\n{CONTENT}"}
    prompt, text = written(template, answer, end="<|im_end|>", thinks=True)
    reasoning, content, _ = read(template.format, text, prompt=prompt)
    assert (reasoning.strip(), content) == (REASONING, CONTENT)
    assert "<think>\n\n</think>" in template.render([{"role": "user", "content": "x"}], enable_thinking=False)


def test_a_template_that_the_sandbox_refuses(shared_data, tokenizer):
    from jinja2.sandbox import SandboxedEnvironment

    path = shared_data / "templates" / f"{REFUSED}.jinja"
    template = ChatTemplate(tokenizer, path)
    calls = made_calls(template.format)
    answer = message(calls, content="")
    asked = [{"role": "user", "content": "Well?"}]
    with pytest.raises(RequestError, match="refuses these messages.*append"):
        template.render([*asked, answer], tools=TOOLS)
    rendered = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(path.read_text("utf-8"))
    options = {"tools": TOOLS, "add_generation_prompt": False}
    text = rendered.render(messages=[*asked, answer], **options).removeprefix(
        rendered.render(messages=asked, **options)
    )
    assert "<|tool_call_begin|>" in text
    _, content, found = read(template.format, text[: text.rindex("<|im_end|>")], tools=TOOLS)
    assert loaded(found) == loaded(calls) and "get_" not in content


def test_earlier_answers_of_gpt_oss(shared_data, tokenizer):
    """Reasoning under the API's key, and a content in which it was not separated, both reach the prompt."""
    template = ChatTemplate(tokenizer, shared_data / "templates" / "openai-gpt-oss-120b.jinja")
    asked = [{"role": "user", "content": "Well?"}]
    header = "<|channel|>analysis<|message|>"
    plain = {"role": "assistant", "content": CONTENT, "reasoning_content": REASONING}
    raw = f"{header}{REASONING}<|end|><|start|>assistant<|channel|>final<|message|>{CONTENT}"
    for answer in (plain, {"role": "assistant", "content": raw}):
        prompt, text = written(template, answer, end="<|return|>")
        assert text == raw and read(template.format, text, prompt=prompt)[:2] == (REASONING, CONTENT)
    later = template.render([*asked, {"role": "assistant", "content": raw}, *asked])
    assert f"<|channel|>final<|message|>{CONTENT}<|end|>" in later and header not in later
    for effort in ("low", "high"):
        assert f"Reasoning: {effort}\n" in template.render(asked, reasoning_effort=effort)
    with pytest.raises(RequestError, match="no such switch"):
        template.render(asked, enable_thinking=False)


def test_gemma_4s_switch(shared_data, tokenizer):
    template = ChatTemplate(tokenizer, shared_data / "templates" / "google-gemma-4-31B-it.jinja")
    asked = [{"role": "user", "content": "Well?"}]
    off, on = (template.render(asked, enable_thinking=switch) for switch in (False, True))
    assert "<|think|>" in on and "<|think|>" not in off
    thought = "<|channel>thought\nhm\n<channel|>So."
    assert read(template.format, thought, prompt=on.encode())[:2] == ("hm", "So.")
    # The prompt has closed the reasoning already.
    segmenter = Segmenter(template.format, prompt=off.encode())
    assert not segmenter.reasoning and [span.segment for span in segmenter.feed(b"So.")] == ["content"]
